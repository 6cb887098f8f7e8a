package meter_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/meter"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Bucket { return meter.New(mem.New(), meter.NewMeter()) })
}

func TestCounts(t *testing.T) {
	m := meter.NewMeter()
	b := meter.New(mem.New(), m)
	ctx := t.Context()
	_, err := b.Put(ctx, "key", []byte("0123456789"), store.Condition{IfAbsent: true})
	require.NoError(t, err)
	_, err = b.Put(ctx, "key", []byte("01234"), store.Condition{IfAbsent: true})
	require.ErrorIs(t, err, store.ErrPrecondition)
	stream, err := b.Get(ctx, "key", 2, 4)
	require.NoError(t, err)
	_, err = io.ReadAll(stream)
	require.NoError(t, err)
	require.Zero(t, m.Snapshot().Get.Calls, "still open")
	require.NoError(t, stream.Close())
	require.NoError(t, stream.Close(), "a second Close counts nothing")
	_, err = b.Get(ctx, "other", 0, -1)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = b.Stat(ctx, "key")
	require.NoError(t, err)
	for range b.List(ctx, "") {
		break
	}
	require.NoError(t, b.Delete(ctx, "key"))

	got := m.Snapshot()
	for _, count := range []*meter.Count{&got.Put, &got.Get, &got.Stat, &got.List, &got.Delete} {
		require.Positive(t, count.Seconds)
		count.Seconds = 0
	}
	require.Equal(t, meter.Snapshot{
		Put:    meter.Count{Calls: 2, Errors: 1, Bytes: 15},
		Get:    meter.Count{Calls: 2, Errors: 1, Bytes: 4},
		Stat:   meter.Count{Calls: 1},
		List:   meter.Count{Calls: 1},
		Delete: meter.Count{Calls: 1},
	}, got)
	require.Equal(t, []string{
		`lifeboat_bucket_bytes_total{op="get"} 4`,
		`lifeboat_bucket_bytes_total{op="put"} 15`,
		`lifeboat_bucket_requests_total{op="delete",outcome="ok"} 1`,
		`lifeboat_bucket_requests_total{op="get",outcome="not_found"} 1`,
		`lifeboat_bucket_requests_total{op="get",outcome="ok"} 1`,
		`lifeboat_bucket_requests_total{op="list",outcome="ok"} 1`,
		`lifeboat_bucket_requests_total{op="put",outcome="ok"} 1`,
		`lifeboat_bucket_requests_total{op="put",outcome="precondition"} 1`,
		`lifeboat_bucket_requests_total{op="stat",outcome="ok"} 1`,
	}, scrape(t, m, "_total{"))
	require.Len(t, scrape(t, m, "lifeboat_bucket_request_seconds_count{"), 7)
}

// scrape returns the lines of what Prometheus would be told that hold part.
func scrape(t *testing.T, m *meter.Meter, part string) []string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(m))
	response := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var lines []string
	for line := range strings.Lines(response.Body.String()) {
		if strings.Contains(line, part) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestOutcomes(t *testing.T) {
	cases := []struct {
		outcome string
		err     error
	}{
		{"not_found", store.ErrNotFound},
		{"precondition", store.ErrPrecondition},
		{"canceled", context.Canceled},
		{"canceled", context.DeadlineExceeded},
		{"temporary", &store.TemporaryError{Err: errors.New("busy")}},
		{"error", errors.New("denied")},
	}
	for _, c := range cases {
		t.Run(c.err.Error(), func(t *testing.T) {
			m := meter.NewMeter()
			b := meter.New(storetest.NewFaulty(t, mem.New(), storetest.Fault{Err: c.err}), m)
			require.ErrorIs(t, b.Delete(t.Context(), "key"), c.err)
			require.Equal(t, []string{`lifeboat_bucket_requests_total{op="delete",outcome="` + c.outcome + `"} 1`},
				scrape(t, m, "_requests_total{"))
		})
	}
}

func TestSecondsOfAGetLastUntilItIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter.NewMeter()
		gate := storetest.NewGate()
		b := meter.New(storetest.NewFaulty(t, mem.New(), storetest.Fault{Op: storetest.OpGet, Effect: storetest.Hold, Gate: gate}), m)
		_, err := b.Put(t.Context(), "key", []byte("x"), store.Condition{})
		require.NoError(t, err)
		time.AfterFunc(3*time.Second, gate.Open)
		stream, err := b.Get(t.Context(), "key", 0, -1)
		require.NoError(t, err)
		<-time.After(4 * time.Second)
		require.NoError(t, stream.Close())
		require.InDelta(t, 7, m.Snapshot().Get.Seconds, 1e-9)
	})
}
