package imds

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var instance = Instance{ID: "i-0123456789abcdef0", Type: "m7i.large", Zone: "us-east-1a", Region: "us-east-1",
	PrivateIP: "10.0.0.1", Hostname: "a", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}

// start serves a Service whose clock the test moves.
func start(t *testing.T) (url string, board *Board, clock *time.Time) {
	t.Helper()
	board, now := &Board{}, time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	s := New(instance, board.Notices)
	s.now = func() time.Time { return now }
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL, board, &now
}

func do(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func token(t *testing.T, url string, seconds int) string {
	t.Helper()
	res, body := do(t, http.MethodPut, url+"/latest/api/token", TTLHeader, strconv.Itoa(seconds))
	require.Equal(t, http.StatusOK, res.StatusCode)
	return body
}

func TestTokenRequest(t *testing.T) {
	for _, c := range []struct {
		name, method string
		header       []string
		want         int
	}{
		{"shortest", http.MethodPut, []string{TTLHeader, "1"}, 200},
		{"longest", http.MethodPut, []string{TTLHeader, "21600"}, 200},
		{"no life named", http.MethodPut, nil, 400},
		{"zero seconds", http.MethodPut, []string{TTLHeader, "0"}, 400},
		{"too long", http.MethodPut, []string{TTLHeader, "21601"}, 400},
		{"not a number", http.MethodPut, []string{TTLHeader, "1h"}, 400},
		{"through a proxy", http.MethodPut, []string{TTLHeader, "60", "X-Forwarded-For", "10.0.0.9"}, 403},
		{"wrong method", http.MethodGet, []string{TTLHeader, "60"}, 405},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, _, _ := start(t)
			res, body := do(t, c.method, url+"/latest/api/token", c.header...)
			require.Equal(t, c.want, res.StatusCode)
			if c.want == http.StatusOK {
				require.NotEmpty(t, body)
				require.Equal(t, c.header[1], res.Header.Get(TTLHeader))
			}
		})
	}
}

func TestTokenIsRequired(t *testing.T) {
	url, _, clock := start(t)
	path := url + "/latest/meta-data/instance-id"
	res, _ := do(t, http.MethodGet, path)
	require.Equal(t, http.StatusUnauthorized, res.StatusCode, "no token")
	res, _ = do(t, http.MethodGet, path, TokenHeader, "made-up")
	require.Equal(t, http.StatusUnauthorized, res.StatusCode, "unknown token")

	tok := token(t, url, 60)
	res, body := do(t, http.MethodGet, path, TokenHeader, tok)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, instance.ID, body)
	require.Equal(t, "60", res.Header.Get(TTLHeader))

	*clock = clock.Add(61 * time.Second)
	res, _ = do(t, http.MethodGet, path, TokenHeader, tok)
	require.Equal(t, http.StatusUnauthorized, res.StatusCode, "stale token")
}

func TestDocuments(t *testing.T) {
	for path, want := range map[string]string{
		"meta-data/instance-id":                 instance.ID,
		"meta-data/instance-type":               instance.Type,
		"meta-data/instance-life-cycle":         "spot",
		"meta-data/placement/region":            instance.Region,
		"meta-data/placement/availability-zone": instance.Zone,
		"meta-data/placement/":                  "availability-zone\nregion",
		"dynamic/":                              "instance-identity/",
	} {
		t.Run(path, func(t *testing.T) {
			url, _, _ := start(t)
			res, body := do(t, http.MethodGet, url+"/latest/"+path, TokenHeader, token(t, url, 60))
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, want, body)
		})
	}
	t.Run("identity document", func(t *testing.T) {
		url, _, _ := start(t)
		_, body := do(t, http.MethodGet, url+"/latest/dynamic/instance-identity/document", TokenHeader, token(t, url, 60))
		var doc map[string]string
		require.NoError(t, json.Unmarshal([]byte(body), &doc))
		require.Equal(t, instance.ID, doc["instanceId"])
		require.Equal(t, "2026-01-02T03:04:05Z", doc["pendingTime"])
	})
}

func TestNotices(t *testing.T) {
	at := time.Date(2026, 5, 6, 9, 10, 11, 999, time.FixedZone("", 7200))
	const action, rebalance = "/latest/meta-data/spot/instance-action", "/latest/meta-data/events/recommendations/rebalance"
	for _, c := range []struct {
		name, path string
		notices    Notices
		want       string
	}{
		{"none", action, Notices{}, ""},
		{"terminate", action, Notices{Action: "terminate", At: at}, `{"action":"terminate","time":"2026-05-06T07:10:11Z"}`},
		{"stop", action, Notices{Action: "stop", At: at}, `{"action":"stop","time":"2026-05-06T07:10:11Z"}`},
		{"termination time", "/latest/meta-data/spot/termination-time", Notices{Action: "terminate", At: at}, "2026-05-06T07:10:11Z"},
		{"no rebalance", rebalance, Notices{Action: "terminate", At: at}, ""},
		{"rebalance", rebalance, Notices{Rebalance: at}, `{"noticeTime":"2026-05-06T07:10:11Z"}`},
		{"rebalance is no interruption", action, Notices{Rebalance: at}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, board, _ := start(t)
			board.Set(c.notices)
			res, body := do(t, http.MethodGet, url+c.path, TokenHeader, token(t, url, 60))
			if c.want == "" {
				require.Equal(t, http.StatusNotFound, res.StatusCode)
				return
			}
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, c.want, body)
		})
	}
}
