package agentlog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func write(t *testing.T, l *Log, line string) {
	t.Helper()
	_, err := l.Write([]byte(line))
	require.NoError(t, err)
}

func TestLog(t *testing.T) {
	l := New()
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	write(t, l, "no JSON")
	write(t, l, `{"time":"2025-12-31T23:59:59Z","message":"round","pod":"a","seconds":9}`)
	write(t, l, `{"time":"2026-01-01T00:00:01Z","message":"round","pod":"a","seconds":1.5,"read_bytes":4096,"cpu_seconds":0.25}`)
	write(t, l, `{"time":"2026-01-01T00:00:02Z","message":"round","pod":"b","seconds":2}`)
	got := l.Of("a", Round, since)
	require.Len(t, got, 1)
	require.InDelta(t, 1.5, got[0].Seconds, 0)
	require.InDelta(t, 4096.0, got[0].ReadBytes, 0)
	require.InDelta(t, 0.25, got[0].Fields["cpu_seconds"], 0)
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		since := time.Now()
		time.AfterFunc(time.Second, func() {
			write(t, l, `{"time":"2099-01-01T00:00:01Z","message":"safety dump","pod":"a","still_seconds":0.5}`)
		})
		e, err := l.Await(t.Context(), "a", Safety, since, 1)
		require.NoError(t, err)
		require.InDelta(t, 0.5, e.StillSeconds, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = l.Await(ctx, "a", Safety, since, 2)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, `"safety dump" of pod a`)
	})
}
