package s3_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/s3"
)

// answer is what a scripted server says to a request.
type answer struct {
	status  int
	code    string
	headers map[string]string
}

// ServeHTTP implements http.Handler.
func (a answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	for name, value := range a.headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	if a.code != "" {
		_, _ = w.Write([]byte("<Error><Code>" + a.code + "</Code><Message>scripted</Message></Error>"))
	}
}

// Each answer is asked for once only, and says by its error whether to try again is of use, and when.
func TestAnswers(t *testing.T) {
	pause := func(value string) map[string]string { return map[string]string{"Retry-After": value} }
	cases := []struct {
		name      string
		answer    answer
		cond      store.Condition
		sentinel  error
		temporary bool
		after     time.Duration
		want      string
	}{
		{"busy", answer{503, "SlowDown", nil}, store.Condition{}, nil, true, 0, "put key"},
		{"busy, with a pause in seconds", answer{503, "SlowDown", pause("7")}, store.Condition{}, nil, true, 7 * time.Second, ""},
		{"too many requests", answer{429, "", pause("1")}, store.Condition{}, nil, true, time.Second, ""},
		{"a pause that is nonsense", answer{503, "", pause("soon")}, store.Condition{}, nil, true, 0, ""},
		{"a pause that has passed", answer{503, "", pause("Sun, 06 Nov 1994 08:49:37 GMT")}, store.Condition{}, nil, true, 0, ""},
		{"broken", answer{500, "InternalError", nil}, store.Condition{}, nil, true, 0, ""},
		{"a gateway's", answer{502, "", nil}, store.Condition{}, nil, true, 0, ""},
		{"slow body", answer{400, "RequestTimeout", nil}, store.Condition{}, nil, true, 0, ""},
		{"damaged body", answer{400, "BadDigest", nil}, store.Condition{}, nil, true, 0, ""},
		{"another conditional put under way", answer{409, "ConditionalRequestConflict", nil}, store.Condition{IfAbsent: true}, nil, true, 0, ""},
		{"condition failed", answer{412, "PreconditionFailed", nil}, store.Condition{IfAbsent: true}, store.ErrPrecondition, false, 0, ""},
		{"no object to match", answer{404, "NoSuchKey", nil}, store.Condition{IfMatch: "x"}, store.ErrPrecondition, false, 0, ""},
		{"no bucket", answer{404, "NoSuchBucket", nil}, store.Condition{IfMatch: "x"}, nil, false, 0, "does not exist: create it"},
		{"denied", answer{403, "AccessDenied", nil}, store.Condition{}, nil, false, 0, "denies access: grant"},
		{"unknown keys", answer{403, "InvalidAccessKeyId", nil}, store.Condition{}, nil, false, 0, "does not take these credentials"},
		{"static keys that have expired", answer{400, "ExpiredToken", nil}, store.Condition{}, nil, false, 0, "does not take these credentials"},
		{"other region", answer{400, "AuthorizationHeaderMalformed", nil}, store.Condition{}, nil, false, 0, "set region="},
		{"other region, redirected", answer{301, "PermanentRedirect", nil}, store.Condition{}, nil, false, 0, "set region="},
		{"wrong clock", answer{403, "RequestTimeTooSkewed", nil}, store.Condition{}, nil, false, 0, "set the clock"},
		{"full", answer{507, "XMinioStorageFull", nil}, store.Condition{}, nil, false, 0, "is full"},
		{"not known to the server", answer{501, "NotImplemented", nil}, store.Condition{}, nil, false, 0, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			clearEnvironment(t)
			setKeys(t)
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				c.answer.ServeHTTP(w, r)
			}))
			defer server.Close()
			bucket := open(t, s3.Options{Bucket: "bucket", Endpoint: server.Listener.Addr().String(), Insecure: true})
			_, err := bucket.Put(t.Context(), "key", []byte("x"), c.cond)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, 1, requests)
			if c.sentinel != nil {
				require.ErrorIs(t, err, c.sentinel)
			}
			temporary := (*store.TemporaryError)(nil)
			require.Equal(t, c.temporary, errors.As(err, &temporary), err)
			if c.temporary {
				require.Equal(t, c.after, temporary.After)
			}
		})
	}
}

func TestPauseUntilADate(t *testing.T) {
	clearEnvironment(t)
	setKeys(t)
	until := time.Now().Add(time.Minute).UTC()
	server := httptest.NewServer(answer{503, "", map[string]string{"Retry-After": until.Format(http.TimeFormat)}})
	defer server.Close()
	bucket := open(t, s3.Options{Bucket: "bucket", Endpoint: server.Listener.Addr().String(), Insecure: true})
	_, err := bucket.Stat(t.Context(), "key")
	temporary := (*store.TemporaryError)(nil)
	require.ErrorAs(t, err, &temporary)
	require.InDelta(t, time.Minute, temporary.After, float64(5*time.Second))
}

func TestDownloadThatBreaksOff(t *testing.T) {
	clearEnvironment(t)
	setKeys(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		_, _ = w.Write([]byte("half"))
	}))
	defer server.Close()
	bucket := open(t, s3.Options{Bucket: "bucket", Endpoint: server.Listener.Addr().String(), Insecure: true})
	stream, err := bucket.Get(t.Context(), "key", 0, -1)
	require.NoError(t, err)
	defer stream.Close()
	got, err := io.ReadAll(stream)
	require.Equal(t, "half", string(got))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorContains(t, err, "read key: bucket bucket at http://")
	temporary := (*store.TemporaryError)(nil)
	require.ErrorAs(t, err, &temporary)
}
