package memory

import (
	"context"
	"os"
	"path/filepath"
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

func TestThrottlingByTheCgroupsCPUStat(t *testing.T) {
	for _, c := range []struct{ name, cgroup, stat, content string }{
		{"version 2", "0::/kubepods/pod1/c1\n", "kubepods/pod1/c1/cpu.stat", "usage_usec 5\nnr_periods 40\nnr_throttled 7\n"},
		{"version 1", "5:memory:/x\n4:cpu,cpuacct:/kubepods/c1\n1:name=systemd:/y\n", "cpu/kubepods/c1/cpu.stat", "nr_periods 40\nnr_throttled 7\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			proc, root := t.TempDir(), t.TempDir()
			require.NoError(t, os.MkdirAll(filepath.Join(proc, "7"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(proc, "7/cgroup"), []byte(c.cgroup), 0o644))
			stat := filepath.Join(root, "sys/fs/cgroup", c.stat)
			require.NoError(t, os.MkdirAll(filepath.Dir(stat), 0o755))
			require.NoError(t, os.WriteFile(stat, []byte(c.content), 0o644))
			periods, throttled := (&tree{proc: proc, pids: []int{7}}).throttling(root)
			require.EqualValues(t, 40, periods)
			require.EqualValues(t, 7, throttled)
			periods, throttled = (&tree{proc: proc, pids: []int{8}}).throttling(root)
			require.Zero(t, periods+throttled)
		})
	}
}
