package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/dir"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

var target = store.Target{Cluster: "c", Namespace: "n", Name: "t", UID: "u"}

func newStore() *store.Store { return store.New(mem.New(), store.Keyring{{1}}) }

func beginGeneration(t testing.TB, s *store.Store, base *store.Base) *store.Writer {
	t.Helper()
	var number int64 = 1
	if base != nil {
		number = base.Head().Number + 1
	}
	w, err := s.Begin(t.Context(), target, store.Meta{Number: number}, store.WriteOptions{Base: base, Codec: store.CodecZstd})
	require.NoError(t, err)
	return w
}

// complete adds to w what of a dump no sink has got, and commits it.
func complete(t testing.TB, w *store.Writer, taken Taken) {
	t.Helper()
	ctx := t.Context()
	memories := map[string]snapshot.Memory{}
	for _, m := range taken.Memory {
		memories[m.Image] = m
	}
	files, err := os.ReadDir(taken.Images)
	require.NoError(t, err)
	for _, file := range files {
		f, err := os.Open(filepath.Join(taken.Images, file.Name()))
		require.NoError(t, err)
		entry := store.Entry{Path: file.Name(), Type: store.TypeRegular, Mode: 0o600, ModTime: time.Unix(0, 0)}
		m, isMemory := memories[file.Name()]
		if !isMemory {
			info, err := f.Stat()
			require.NoError(t, err)
			entry.Size = info.Size()
			require.NoError(t, w.Add(ctx, entry, f))
		} else {
			for _, run := range taken.Stored[m.Image] {
				pages := make([]byte, run.Pages*store.BlockSize)
				_, err := io.ReadFull(f, pages)
				require.NoError(t, err)
				require.NoError(t, w.AddPages(ctx, m.Task, run.Address, pages))
			}
			entry.Size = bytesOf(m.Runs)
			require.NoError(t, w.AddImage(ctx, entry, m.Task, m.Runs))
			delete(memories, file.Name())
		}
		require.NoError(t, f.Close())
	}
	require.Empty(t, memories, "memory without an image")
	_, err = w.Commit(ctx)
	require.NoError(t, err)
}

// fetch writes the newest generation into a folder.
func fetch(t testing.TB, s *store.Store, into string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(into, 0o700))
	root, err := os.OpenRoot(into)
	require.NoError(t, err)
	defer root.Close()
	head, err := s.Head(t.Context(), target)
	require.NoError(t, err)
	r, err := s.Open(t.Context(), target, head.Number, head.WrittenEpoch)
	require.NoError(t, err)
	require.NoError(t, r.Fetch(dir.New(root)).Run(t.Context()))
}

// restored kills the container, restores it from the newest generation, and holds that it goes on with its memory.
func (n *node) restored(t testing.TB, s *store.Store, id, bundle, root string) {
	t.Helper()
	stood := rounds(t, root)
	n.kill(t, id)
	images := filepath.Join(t.TempDir(), "fetched")
	fetch(t, s, images)
	args := append([]string{"restore", "--detach", "--image-path", images, "--work-path", t.TempDir()}, n.restoreFlags...)
	n.runOCI(t, append(args, "--bundle", bundle, id)...)
	requireRounds(t, root, stood)
	require.Greater(t, rounds(t, root)["parent"], stood["parent"], "it began anew")
}

func TestLazyDumpForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	if !hugePages() {
		t.Log("no huge pages are set aside on this machine: hugetlb is not tried")
	}
	n, s := newNode(t), newStore()
	choice, err := n.runc.Choose(t.Context(), Auto)
	require.NoError(t, err)
	require.Equal(t, Lazy, choice.Way, choice.Reason)
	require.Equal(t, dumpFlags, n.runc.dumpFlags(), "runc has them all")
	bundle, root := n.container(t, "job", "parent", n.network)
	n.runOCI(t, "run", "--detach", "--bundle", bundle, "job")
	requireRounds(t, root, nil)
	var base *store.Base
	for range 3 {
		w := beginGeneration(t, s, base)
		state, err := n.runc.state(t.Context(), "job")
		require.NoError(t, err)
		seen := newSeen(w.AddPages)
		before, err := (&memory.Reader{Proc: proc}).Read(t.Context(), state.PID, seen.take)
		require.NoError(t, err)
		require.NoError(t, n.runc.Pause(t.Context(), "job"))
		taken, err := n.runc.DumpInto(t.Context(), "job", "/run/dump", w.AddPages)
		require.NoError(t, err)
		require.NoError(t, taken.NotLazy)
		require.Greater(t, taken.Read.PagesRead, int64(4000))
		requireStill(t, root)
		requireSameShared(t, seen, taken)
		complete(t, w, taken)
		base = w.Base()
		t.Logf("read before: %+v; frozen: %+v; %d bytes in all", before, taken.Read, taken.RSSBytes)
		n.restored(t, s, "job", bundle, root)
	}
}

// seen counts the pages that a sink gets, by task.
type seen struct {
	sink  memory.Sink
	mu    sync.Mutex
	pages map[string]int64
}

func newSeen(sink memory.Sink) *seen { return &seen{sink: sink, pages: map[string]int64{}} }

func (s *seen) take(ctx context.Context, task string, address uint64, pages []byte) error {
	s.mu.Lock()
	s.pages[task] += int64(len(pages)) / store.BlockSize
	s.mu.Unlock()
	return s.sink(ctx, task, address, pages)
}

// requireSameShared holds that what was read before has the names under which CRIU dumps it: shared memory that does not
// grow has the same pages.
func requireSameShared(t *testing.T, before *seen, taken Taken) {
	t.Helper()
	shared := 0
	for _, m := range taken.Memory {
		require.Contains(t, before.pages, m.Task)
		if strings.HasPrefix(m.Task, "shm/") {
			shared++
			require.Equal(t, bytesOf(m.Runs)/store.BlockSize, before.pages[m.Task], m.Task)
			require.Equal(t, m.Runs, taken.Stored[m.Image], "shared memory is in CRIU's images")
		}
	}
	require.Equal(t, 4, shared)
}

// Under the freezer of cgroup v1 the dump of a stopped task hangs, and must be given up by ctx. Under cgroup v2 it works.
func TestStoppedTaskForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	n, s := newNode(t), newStore()
	bundle, root := n.container(t, "job", "parent", n.network)
	require.NoError(t, os.WriteFile(filepath.Join(root, "stopped-too"), nil, 0o600))
	n.runOCI(t, "run", "--detach", "--bundle", bundle, "job")
	requireRounds(t, root, nil)
	stood := rounds(t, root)
	require.NoError(t, n.runc.Pause(t.Context(), "job"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	w := beginGeneration(t, s, nil)
	taken, err := n.runc.DumpInto(ctx, "job", "/run/dump", w.AddPages)
	requireStill(t, root)
	require.NoError(t, n.runc.stillFrozen(t.Context(), "job"))
	if _, v1 := os.Stat("/sys/fs/cgroup/freezer"); v1 == nil {
		t.Log("this machine has the freezer of cgroup v1: the dump of a stopped task must be given up")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		w.Abort(t.Context())
		require.NoError(t, n.runc.Resume(t.Context(), "job"))
		requireRounds(t, root, stood)
		return
	}
	require.NoError(t, err)
	complete(t, w, taken)
	n.restored(t, s, "job", bundle, root)
}

// Whatever goes wrong: the container is still frozen, another dump succeeds, and it goes on.
func TestTroubleOfLazyDumpsForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	n := newNode(t)
	bundle, root := n.container(t, "job", "parent", n.network)
	n.runOCI(t, "run", "--detach", "--bundle", bundle, "job")
	requireRounds(t, root, nil)
	full := errors.New("the bucket is full")
	refused := errors.New("connection refused")
	for _, c := range []struct {
		name string
		// after is how many calls of sink go well, early how long ctx lives.
		after   int64
		sink    error
		early   time.Duration
		connect error
		is      error
	}{
		{name: "the sink fails midway", after: 3, sink: full, is: full},
		{name: "the context ends while pages are read", after: 3, is: context.Canceled},
		{name: "the context ends at once", early: time.Millisecond, is: context.Canceled},
		{name: "the context ends as CRIU starts", early: 20 * time.Millisecond, is: context.Canceled},
		{name: "the context ends while CRIU is in the tasks", early: 40 * time.Millisecond, is: context.Canceled},
		{name: "the context ends around when CRIU serves", early: 80 * time.Millisecond, is: context.Canceled},
		{name: "the connection is refused", after: 1 << 30, connect: refused, is: refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			stood := rounds(t, root)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			require.NoError(t, n.runc.Pause(t.Context(), "job"))
			if c.early > 0 {
				defer time.AfterFunc(c.early, cancel).Stop()
			}
			var calls atomic.Int64
			sink := func(context.Context, string, uint64, []byte) error {
				if c.early > 0 {
					<-ctx.Done()
					return nil
				}
				if calls.Add(1) < c.after {
					return nil
				}
				if c.sink == nil {
					cancel()
				}
				return c.sink
			}
			_, err := n.runc.dumpLazily(ctx, "job", "/run/dump", sink, func() error {
				if c.connect != nil {
					return c.connect
				}
				return closeServer()
			})
			require.ErrorIs(t, err, c.is)
			require.NoError(t, n.runc.stillFrozen(t.Context(), "job"))
			requireStill(t, root)

			s := newStore()
			w := beginGeneration(t, s, nil)
			taken, err := n.runc.DumpInto(t.Context(), "job", "/run/dump", w.AddPages)
			require.NoError(t, err)
			require.NoError(t, taken.NotLazy)
			complete(t, w, taken)
			require.NoError(t, n.runc.Resume(t.Context(), "job"))
			requireRounds(t, root, stood)
			require.NoError(t, n.runc.Pause(t.Context(), "job"))
			n.restoredOlder(t, s, bundle, root)
		})
	}
}

// restoredOlder is restored for a generation after which the container went on.
func (n *node) restoredOlder(t *testing.T, s *store.Store, bundle, root string) {
	t.Helper()
	n.kill(t, "job")
	for _, name := range []string{"parent", "child"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), fmt.Appendf(nil, countFormat, 0), 0o600))
	}
	images := filepath.Join(t.TempDir(), "fetched")
	fetch(t, s, images)
	n.runOCI(t, "restore", "--detach", "--image-path", images, "--work-path", t.TempDir(), "--bundle", bundle, "job")
	requireRounds(t, root, nil)
}

func TestFullDumpWhereThereIsNoLazyOneForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	n, s := newNode(t), newStore()
	bundle, root := n.container(t, "job", "parent", "")
	n.runOCI(t, "run", "--detach", "--bundle", bundle, "job")
	requireRounds(t, root, nil)
	require.NoError(t, n.runc.Pause(t.Context(), "job"))
	w := beginGeneration(t, s, nil)
	taken, err := n.runc.DumpInto(t.Context(), "job", "/run/dump", w.AddPages)
	require.NoError(t, err)
	require.ErrorContains(t, taken.NotLazy, "the host's network")
	require.Zero(t, taken.Read.PagesRead)
	complete(t, w, taken)
	n.restored(t, s, "job", bundle, root)
}

// BenchmarkFrozen freezes a container of one GiB of which nothing has changed since it was read before.
func BenchmarkFrozen(b *testing.B) {
	if !inside(b) {
		return
	}
	n, s := newNode(b), newStore()
	bundle, root := n.container(b, "big", "big", n.network)
	n.runOCI(b, "run", "--detach", "--bundle", bundle, "big")
	require.Eventually(b, func() bool { return rounds(b, root)["parent"] == 1 }, 60*time.Second, 20*time.Millisecond)
	w := beginGeneration(b, s, nil)
	defer w.Abort(context.WithoutCancel(b.Context()))
	state, err := n.runc.state(b.Context(), "big")
	require.NoError(b, err)
	_, err = (&memory.Reader{Proc: proc}).Read(b.Context(), state.PID, func(ctx context.Context, task string, address uint64, pages []byte) error {
		return w.AddPages(ctx, task, address, pages)
	})
	require.NoError(b, err)
	frozen := func(b *testing.B, dump func() error) {
		shortest := time.Hour
		for b.Loop() {
			require.NoError(b, n.runc.Pause(b.Context(), "big"))
			began := time.Now()
			require.NoError(b, dump())
			shortest = min(shortest, time.Since(began))
			require.NoError(b, n.runc.Resume(b.Context(), "big"))
		}
		b.ReportMetric(shortest.Seconds(), "shortest-s")
	}
	b.Run("lazy, read, hash, compare", func(b *testing.B) {
		frozen(b, func() error {
			taken, err := n.runc.DumpInto(b.Context(), "big", "/run/dump", w.AddPages)
			b.ReportMetric(taken.Read.Seconds, "read-s")
			b.ReportMetric(taken.Read.CPUSeconds, "read-cpu-s")
			return errors.Join(err, taken.NotLazy)
		})
	})
	b.Run("full to tmpfs", func(b *testing.B) {
		frozen(b, func() error {
			_, err := n.runc.Dump(b.Context(), "big", "/run/dump")
			return err
		})
	})
}

func TestLazyMaps(t *testing.T) {
	folder := t.TempDir()
	writePagemap(t, folder, "pagemap-5.img", 1, 2,
		newEntry(0x1000, 1, present), newEntry(0x2000, 3, lazy), newEntry(0x8000, 1, present|lazy), newEntry(0x9000, 2, lazy))
	writePagemap(t, folder, "pagemap-shmem-77.img", 2, 1, newEntry(0, 1, present))
	maps, err := pageMaps(folder, flagLazy)
	require.NoError(t, err)
	require.Len(t, maps, 2)
	require.Equal(t, snapshot.Memory{Image: "pages-1.img", Task: "mem/5", Runs: runs(0x1000, 4, 0x8000, 3)}, maps[0].memory)
	require.Equal(t, runs(0x1000, 1, 0x8000, 1), maps[0].present)
	require.Equal(t, runs(0x2000, 3, 0x9000, 2), maps[0].absent)
	require.Equal(t, "shm/0", maps[1].memory.Task)

	for _, m := range maps {
		require.NoError(t, m.flatten())
	}
	require.NoError(t, os.Truncate(filepath.Join(folder, "pages-1.img"), 7*store.BlockSize))
	flat, err := memoryOf(folder)
	require.NoError(t, err)
	require.ElementsMatch(t, []snapshot.Memory{maps[0].memory, maps[1].memory}, flat, "it is a full dump now")
	left, err := filepath.Glob(filepath.Join(folder, "mended-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestLazyMapsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(t *testing.T, dir string)
	}{
		{"in the parent", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 0, newEntry(0x1000, 1, flagParent))
		}},
		{"nowhere", func(t *testing.T, dir string) { writePagemap(t, dir, "pagemap-1.img", 1, 0, newEntry(0x1000, 1, 0)) }},
		{"out of order", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 0, newEntry(0x2000, 1, lazy), newEntry(0x1000, 1, lazy))
		}},
		{"fewer pages than named", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x2000, 2, present), newEntry(0x5000, 1, lazy))
		}},
		{"not a pagemap", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "pagemap-1.img"), []byte(strings.Repeat("?", 100)), 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.write(t, dir)
			_, err := pageMaps(dir, flagLazy)
			require.ErrorIs(t, err, errNotUnderstood)
		})
	}
}
