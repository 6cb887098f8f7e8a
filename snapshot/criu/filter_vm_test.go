package criu

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/test/softdirty"
)

// A container is copied by rounds, dumped while it stands still without what was not written to since, lives on, is copied and
// dumped again, and restored.
func TestFilteredLazyDumpsForReal(t *testing.T) {
	if !softdirty.Inside(t) {
		return
	}
	require.NoError(t, memory.ProbeTracking())
	n, s, filters := newNode(t), newStore(), memory.NewFilters()
	n.runc.Filters = filters
	scanner := memory.Scanner{Proc: proc, Filters: filters}
	bundle, root := n.smallContainer(t)
	n.runOCI(t, "run", "--detach", "--bundle", bundle, "job")
	requireRounds(t, root, nil)
	var base *store.Base
	var read, kept, changed int64
	for dump := range 2 {
		w := beginGeneration(t, s, base)
		// A Filter that takes something for the doings of somebody else begins anew.
		for round, tracked := 0, false; round < 3 || !tracked; round++ {
			require.Less(t, round, 20)
			filters.CheckEvery = time.Hour
			if round == 1 {
				filters.CheckEvery = 0
			}
			scan := scanInto(t, n, scanner, w)
			require.Zero(t, scan.Missed)
			tracked = scan.Tracked
		}
		require.NoError(t, n.runc.Pause(t.Context(), "job"))
		before := w.Progress().NewBlocks
		taken, err := n.runc.DumpInto(t.Context(), "job", "/run/dump", w.AddPages)
		require.NoError(t, err)
		require.NoError(t, taken.NotLazy)
		require.Positive(t, taken.Read.PagesKept)
		found := w.Progress().NewBlocks - before
		t.Logf("frozen: %d pages read, %d left out, %d had changed", taken.Read.PagesRead, taken.Read.PagesKept, found)
		read, kept, changed = read+taken.Read.PagesRead, kept+taken.Read.PagesKept, changed+found
		complete(t, w, taken)
		base = w.Base()
		if dump == 0 {
			require.NoError(t, n.runc.Resume(t.Context(), "job"))
		}
	}
	n.restored(t, s, "job", bundle, root)
	t.Logf("in all %d pages read while frozen, %d left out, %d had changed", read, kept, changed)
}

// scanInto runs one round into w.
func scanInto(t *testing.T, n *node, scanner memory.Scanner, w *store.Writer) snapshot.Scan {
	t.Helper()
	state, err := n.runc.state(t.Context(), "job")
	require.NoError(t, err)
	scan, err := scanner.Scan(t.Context(), snapshot.Container{ID: "job", PID: state.PID}, 4,
		func(ctx context.Context, task string, address uint64, pages []byte) (time.Duration, error) {
			return 0, w.AddPages(ctx, task, address, pages)
		})
	require.NoError(t, err)
	t.Logf("round: %d of %d bytes left out", scan.Unread, scan.Bytes)
	return scan
}
