package memory

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/test/softdirty"
)

// mirror is a sink that keeps checksums of all pages that it ever got, as a Writer does.
type mirror struct {
	mu    sync.Mutex
	pages map[string]map[uint64]uint64
}

func (m *mirror) take(_ context.Context, task string, address uint64, pages []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pages[task] == nil {
		m.pages[task] = map[uint64]uint64{}
	}
	for n := 0; n < len(pages); n += pageSize {
		m.pages[task][address+uint64(n)] = xxh3.Hash(pages[n : n+pageSize])
	}
	return nil
}

// wanted are the pages of processes in m, as CRIU's page maps would name them.
func (m *mirror) wanted() (all []Wanted) {
	for _, task := range slices.Sorted(maps.Keys(m.pages)) {
		if !strings.HasPrefix(task, "mem/") {
			continue
		}
		want := Wanted{Task: task}
		for _, address := range slices.Sorted(maps.Keys(m.pages[task])) {
			last := len(want.Runs) - 1
			if last >= 0 && want.Runs[last].Address+uint64(want.Runs[last].Pages)*store.BlockSize == address {
				want.Runs[last].Pages++
			} else {
				want.Runs = append(want.Runs, store.Run{Address: address, Pages: 1})
			}
		}
		all = append(all, want)
	}
	return all
}

// stop stops the tree of init, and returns what makes it go on.
func stop(t *testing.T, init int) (goOn func()) {
	t.Helper()
	require.Eventually(t, func() bool {
		pids, err := Processes("/proc", init)
		require.NoError(t, err)
		stopped := true
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGSTOP)
			tasks, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/stat"))
			for _, task := range tasks {
				stat, err := os.ReadFile(task)
				state := string(stat[max(0, strings.LastIndex(string(stat), ")")):])
				stopped = stopped && (err != nil || strings.HasPrefix(state, ") T") || strings.HasPrefix(state, ") Z"))
			}
		}
		return stopped
	}, time.Minute, 10*time.Millisecond)
	return func() {
		pids, err := Processes("/proc", init)
		require.NoError(t, err)
		for _, pid := range slices.Backward(pids) {
			_ = unix.Kill(pid, unix.SIGCONT)
		}
	}
}

func TestFilterForReal(t *testing.T) {
	if !softdirty.Inside(t) {
		return
	}
	require.NoError(t, ProbeTracking())
	init, _ := start(t, "tracked")
	filters := NewFilters()
	filter := filters.Of("c")
	reader := Reader{Proc: "/proc", Filter: filter}
	got := &mirror{pages: map[string]map[uint64]uint64{}}
	var kept, read, changed int64
	for n := range 22 {
		if n%10 == 9 {
			filter.checked = time.Time{}.Add(time.Hour) // long ago
		}
		_, err := reader.Read(t.Context(), init, got.take)
		require.NoError(t, err)
		if n%3 != 0 {
			continue
		}
		goOn := stop(t, init)
		all := &mirror{pages: map[string]map[uint64]uint64{}}
		_, err = (&Reader{Proc: "/proc"}).Read(t.Context(), init, all.take)
		require.NoError(t, err)
		before := maps.Clone(got.pages)
		for task := range before {
			before[task] = maps.Clone(before[task])
		}
		stats, err := reader.ReadExactly(t.Context(), init, all.wanted(), got.take)
		require.NoError(t, err)
		for task, pages := range all.pages {
			for address, page := range pages {
				if strings.HasPrefix(task, "mem/") {
					if got.pages[task][address] != page {
						require.FailNow(t, "a page differs", "round %d: %#x of %s", n, address, task)
					}
					if before[task][address] != page {
						changed++
					}
				}
			}
		}
		kept, read = kept+stats.PagesKept, read+stats.PagesRead
		t.Logf("round %d: %d pages read, %d left out, fickle %v", n, stats.PagesRead, stats.PagesKept, filter.fickle)
		goOn()
	}
	t.Logf("while stopped %d pages were read and %d left out, %d had changed", read, kept, changed)
	require.False(t, filter.off, "pages were missed")
	require.Positive(t, kept)
}
