package protect

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

func TestSpeed(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	var lines []stamped
	for second := range 100 {
		lines = append(lines, stamped{at(second), "did " + strconv.Itoa(second*1000)})
	}
	got, err := speed(lines, stretch{at(10), at(20)})
	require.NoError(t, err)
	require.InDelta(t, 1000.0, got, 1e-9)
	_, err = speed(lines, stretch{at(98), at(200)})
	require.ErrorContains(t, err, "fewer than two lines")
	_, err = speed([]stamped{{at(1), "did x"}, {at(2), "did 2"}}, stretch{at(0), at(3)})
	require.Error(t, err)
}

func TestContainersOfAllSizes(t *testing.T) {
	all := containers([]int{256, 1 << 10, 4 << 10, 8 << 10})
	require.Len(t, all, 8)
	for _, c := range all {
		require.Contains(t, c.changes, change.Random, c.name())
	}
	require.Equal(t, "256 MiB in 4 KiB pages: ", all[0].name())
	require.Equal(t, "8 GiB in huge pages: ", all[7].name())
	require.False(t, all[7].uploads)
}

func TestContainerRows(t *testing.T) {
	c := container{sizeMiB: 1 << 10, changes: []change.Change{change.Random, change.Runs, change.Random}, uploads: true}
	in := c.name()
	l := &lab{Series: rows.Series{}}
	measured := []string{
		freeze, durable, still, roundCPU, roundWall, frozen(runcTmpfs), frozen(runcDisk), frozen(kubelet), runcDisk + thenPut, kubelet + thenPut,
	}
	for _, p := range parts {
		measured = append(measured, p.name)
	}
	for _, how := range c.changes {
		measured = append(measured, how.Name+windowBytes, how.Name+zstdChanged)
	}
	for _, name := range measured {
		l.Add(in+name, 1)
	}
	l.Add(in+freeze, 0.2)
	l.Add(in+freeze, 0.2)
	var targets, met int
	for _, row := range l.containerRows(c) {
		require.False(t, row.Value != row.Value, "%s was not measured", row.Name)
		if row.Target != nil {
			targets++
			if *row.Met {
				met++
			}
		}
	}
	require.Equal(t, 5, targets, "freeze, notice to durable against two, bytes of two kinds of change")
	require.Equal(t, 3, met, "all but notice to durable, which is as long as theirs here")
}

func TestExtract(t *testing.T) {
	folder := t.TempDir()
	_, err := os.Stat(filepath.Join(folder, statsDump))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Error(t, extract(filepath.Join(folder, "none.tar"), statsDump, folder))
}
