package criu

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/test/softdirty"
)

// incremental is the engine of a node whose kernel tracks writes.
func (n *node) incremental(t testing.TB) *Incremental {
	t.Helper()
	choice, err := n.runc.Choose(t.Context(), Tracked)
	require.NoError(t, err)
	require.Equal(t, Tracked, choice.Way, choice.Reason)
	i := &Incremental{Runc: n.runc, Dir: "/run/rounds", Meter: memory.Scanner{Proc: proc}}
	t.Cleanup(func() {
		require.NoError(t, i.Clear())
		require.NoDirExists(t, i.Dir)
	})
	return i
}

// smallContainer lays out a bundle of the workload for an emulated machine.
func (n *node) smallContainer(t testing.TB) (bundle, root string) {
	t.Helper()
	bundle, root = n.container(t, "job", "parent", n.network)
	require.NoError(t, os.WriteFile(filepath.Join(root, "small"), nil, 0o600))
	return bundle, root
}

// scanned runs one round into w, and returns what it looked at and what it handed on, in bytes.
func (n *node) scanned(t testing.TB, i *Incremental, id string, w *store.Writer) (all, handed int64) {
	t.Helper()
	state, err := n.runc.state(t.Context(), id)
	require.NoError(t, err)
	var sum atomic.Int64
	began := time.Now()
	scan, err := i.Scan(t.Context(), snapshot.Container{ID: id, PID: state.PID}, 4,
		func(ctx context.Context, task string, address uint64, pages []byte) (time.Duration, error) {
			sum.Add(int64(len(pages)))
			return 0, w.AddPages(ctx, task, address, pages)
		})
	require.NoError(t, err)
	require.Equal(t, scan.Bytes-scan.Unread, sum.Load())
	onDisk := sizeOf(t, i.folder(id))
	require.Less(t, onDisk, scan.Bytes/100, "a round keeps more than page maps")
	t.Logf("round: %d of %d bytes, %s of CPU, took %s, of which it stood still %s, %d bytes on disk",
		sum.Load(), scan.Bytes, scan.CPU, time.Since(began), scan.Still, onDisk)
	return scan.Bytes, sum.Load()
}

func sizeOf(t testing.TB, dir string) (sum int64) {
	t.Helper()
	require.NoError(t, filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return err
	}))
	return sum
}

// built dumps the container, which stays frozen, into w, commits, and holds that the dump was an incremental one.
func (n *node) built(t testing.TB, i *Incremental, id string, w *store.Writer) {
	t.Helper()
	require.NoError(t, n.runc.Pause(t.Context(), id))
	taken, err := i.DumpInto(t.Context(), id, "/run/dump", w.AddPages)
	require.NoError(t, err)
	require.NoError(t, taken.NotLazy)
	var onDisk int64
	for _, runs := range taken.Stored {
		onDisk += bytesOf(runs)
	}
	t.Logf("dump: %d of %d bytes written by CRIU, the others read in %.3f s", onDisk, taken.RSSBytes, taken.Read.Seconds)
	require.Equal(t, taken.RSSBytes-onDisk, taken.Read.BytesRead)
	require.Less(t, onDisk, taken.RSSBytes*3/4)
	complete(t, w, taken)
}

// cutOff ends a round while CRIU is in the tasks, which must go on, and returns whether the round came to nothing.
// A round that is over before it was seen in the tasks is begun again.
func (n *node) cutOff(t testing.TB, i *Incremental, id, root string) bool {
	t.Helper()
	state, err := n.runc.state(t.Context(), id)
	require.NoError(t, err)
	stood := rounds(t, root)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := i.Scan(ctx, snapshot.Container{ID: id, PID: state.PID}, 4,
				func(context.Context, string, uint64, []byte) (time.Duration, error) { return 0, nil })
			ended <- err
		}()
		for tracerOf(state.PID) == 0 && len(ended) == 0 {
			<-time.After(time.Millisecond)
		}
		seen := len(ended) == 0
		cancel()
		err := <-ended
		require.Zero(t, tracerOf(state.PID))
		requireRounds(t, root, stood)
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		if seen {
			return err != nil
		}
	}
	require.FailNow(t, "no round was seen in the tasks")
	return false
}

// A container is copied by rounds of pre-dump, dumped on them, lives on, is copied and dumped again, and restored; and all that
// once more, from where it is. A round is cut off in between.
func TestIncrementalForReal(t *testing.T) {
	if !softdirty.Inside(t) {
		return
	}
	n, s := newNode(t), newStore()
	i := n.incremental(t)
	bundle, root := n.smallContainer(t)
	n.runOCI(t, "run", "--detach", "--bundle", bundle, "job")
	requireRounds(t, root, nil)
	var base *store.Base
	fresh := true
	for _, dump := range []struct {
		rounds          int
		cutOff, restore bool // a round is cut off before the others; it is restored from the dump
	}{{rounds: 3}, {rounds: 1, cutOff: true, restore: true}, {rounds: 1, restore: true}} {
		w := beginGeneration(t, s, base)
		whole := fresh || dump.cutOff && n.cutOff(t, i, "job", root)
		for range dump.rounds {
			stood := rounds(t, root)
			all, handed := n.scanned(t, i, "job", w)
			if whole {
				require.Equal(t, all, handed, "the first round has all memory, and so has the next after one that failed")
			} else {
				require.Less(t, handed, all*3/4, "a round has what changed")
			}
			whole = false
			requireRounds(t, root, stood)
		}
		n.built(t, i, "job", w)
		requireStill(t, root)
		base, fresh = w.Base(), dump.restore
		if dump.restore {
			n.restored(t, s, "job", bundle, root)
		} else {
			require.NoError(t, n.runc.Resume(t.Context(), "job"))
		}
	}
}
