package aws

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/watcher"
)

// service speaks IMDSv2 as far as a Source asks.
type service struct {
	status atomic.Int32
	body   atomic.Value
	tokens atomic.Int32
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
		s.tokens.Add(1)
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
		w.Write([]byte("token"))
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "token":
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/latest/meta-data/spot/instance-action":
		w.WriteHeader(int(s.status.Load()))
		w.Write([]byte(s.body.Load().(string)))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *service) answer(status int32, body string) {
	s.body.Store(body)
	s.status.Store(status)
}

// heard collects what a Source reports.
type heard struct {
	notices chan watcher.Notice
	quiet   chan struct{}
	blind   chan error
}

func newHeard() *heard {
	return &heard{notices: make(chan watcher.Notice, 100), quiet: make(chan struct{}, 100), blind: make(chan error, 100)}
}

func (h *heard) Heard(n watcher.Notice)    { h.notices <- n }
func (h *heard) Quiet(string)              { h.quiet <- struct{}{} }
func (h *heard) Blind(_ string, err error) { h.blind <- err }

func TestSource(t *testing.T) {
	s := &service{}
	s.answer(http.StatusNotFound, "")
	server := httptest.NewServer(s)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	got, done := newHeard(), make(chan error)
	go func() { done <- New(server.URL, time.Millisecond).Run(ctx, got) }()

	<-got.quiet
	s.answer(http.StatusInternalServerError, "oops")
	<-got.blind
	s.answer(http.StatusOK, `{"action": "terminate", "time": "2026-11-20T08:22:00Z"}`)
	n := <-got.notices
	require.Equal(t, watcher.ActionTerminate, n.Action)
	require.Equal(t, time.Date(2026, 11, 20, 8, 22, 0, 0, time.UTC), n.Deadline)
	require.Equal(t, "aws", n.Source)
	cancel()
	require.NoError(t, <-done)
	require.EqualValues(t, 1, s.tokens.Load(), "the token is kept for its time to live")
}

func TestSourceOfAnAbsentService(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	got, done := newHeard(), make(chan error)
	go func() { done <- New(server.URL, time.Millisecond).Run(ctx, got) }()
	require.Error(t, <-got.blind)
	cancel()
	require.NoError(t, <-done)
	require.Empty(t, got.notices)
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, body, fault string }{
		{"terminate", `{"action":"terminate","time":"2026-11-20T08:22:00Z"}`, ""},
		{"stop", `{"action":"stop","time":"2026-11-20T08:22:00Z"}`, ""},
		{"hibernate", `{"action":"hibernate","time":"2026-11-20T08:22:00Z"}`, ""},
		{"nothing", ``, "unexpected end"},
		{"a web page", `<html>`, "invalid character"},
		{"empty object", `{}`, `unknown action ""`},
		{"unknown action", `{"action":"dance","time":"2026-11-20T08:22:00Z"}`, `unknown action "dance"`},
		{"no time", `{"action":"terminate"}`, "not RFC 3339"},
		{"bad time", `{"action":"terminate","time":"soon"}`, "not RFC 3339"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := parse([]byte(c.body), time.Now())
			if c.fault != "" {
				require.ErrorContains(t, err, c.fault)
				require.Nil(t, n)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.name, string(n.Action))
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"action":"terminate","time":"2026-11-20T08:22:00Z"}`))
	f.Add([]byte(`{"action":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := parse(body, time.Time{})
		require.True(t, (n == nil) != (err == nil))
	})
}
