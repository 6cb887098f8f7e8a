package memory

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

func TestVitalsOfThisProcess(t *testing.T) {
	held := make([]byte, 32<<20)
	for i := range held {
		held[i] = byte(i)
	}
	began := time.Now()
	for time.Since(began) < 50*time.Millisecond {
		held[len(held)/2]++
	}
	v, err := Scanner{Proc: "/proc"}.Vitals(snapshot.Container{PID: os.Getpid()})
	require.NoError(t, err)
	require.Greater(t, v.RSSBytes, int64(len(held)))
	require.Positive(t, v.CPU)
	_, err = Scanner{Proc: t.TempDir()}.Vitals(snapshot.Container{PID: 1})
	require.ErrorIs(t, err, snapshot.ErrGone)
}

func TestWhatTheSinkCostsElsewhereCounts(t *testing.T) {
	began, first := time.Now(), true
	scan, err := Scanner{Proc: "/proc"}.Scan(t.Context(), snapshot.Container{PID: os.Getpid()}, 2,
		func(context.Context, string, uint64, []byte) (time.Duration, error) {
			if first {
				first = false
				return 600 * time.Millisecond, nil
			}
			return 0, nil
		})
	require.NoError(t, err)
	require.Positive(t, scan.Bytes)
	require.GreaterOrEqual(t, time.Since(began), 250*time.Millisecond)
}
