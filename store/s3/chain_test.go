package s3

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

// metadata is a container credentials service: it issues the key that it holds for an hour, or is down.
type metadata struct {
	key   string
	asked int
}

// RoundTrip implements http.RoundTripper.
func (m *metadata) RoundTrip(*http.Request) (*http.Response, error) {
	m.asked++
	if m.key == "" {
		return nil, errors.New("the service is down")
	}
	body, err := json.Marshal(map[string]any{"AccessKeyId": m.key, "SecretAccessKey": "secret", "Expiration": time.Now().Add(time.Hour)})
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body))}, err
}

// A notice must not find a bucket out of reach because STS is down for a minute while the keys held are still good.
func TestGoodKeysOutliveAFailedRenewal(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/credentials")
	synctest.Test(t, func(t *testing.T) {
		service := &metadata{}
		creds := credentials.New(newChain(""))
		began := time.Now()
		steps := []struct {
			name  string
			at    time.Duration
			up    string // the key that the service issues; "" while it is down
			want  string // "" for a temporary error
			asked int    // questions to the service so far
		}{
			{"first keys", 0, "one", "one", 1},
			{"kept", 40 * time.Minute, "two", "one", 1},
			{"renewal fails", 50 * time.Minute, "", "one", 2},
			{"not asked again at once", 50*time.Minute + time.Second, "", "one", 2},
			{"asked again after a pause", 51 * time.Minute, "", "one", 3},
			{"they end", 61 * time.Minute, "", "", 4},
			{"renewed", 62 * time.Minute, "three", "three", 5},
			{"kept again", 63 * time.Minute, "four", "three", 5},
		}
		for _, step := range steps {
			<-time.After(time.Until(began.Add(step.at)))
			service.key = step.up
			value, err := creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: service}})
			if step.want == "" {
				temporary := (*store.TemporaryError)(nil)
				require.ErrorAs(t, err, &temporary, step.name)
			} else {
				require.NoError(t, err, step.name)
			}
			require.Equal(t, step.want, value.AccessKeyID, step.name)
			require.Equal(t, step.asked, service.asked, step.name)
		}
	})
}
