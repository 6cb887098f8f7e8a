package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// copied is a sink that keeps everything, and holds what Sink promises.
type copied struct {
	mu    sync.Mutex
	last  map[string]uint64
	pages map[string]map[uint64][]byte
	fault string
}

func newCopy() *copied {
	return &copied{last: map[string]uint64{}, pages: map[string]map[uint64][]byte{}}
}

func (c *copied) take(_ context.Context, task string, address uint64, pages []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pages[task] == nil {
		c.pages[task] = map[uint64][]byte{}
	}
	if len(pages) == 0 || len(pages)%pageSize != 0 || address%uint64(pageSize) != 0 || address < c.last[task] {
		c.fault = fmt.Sprintf("%d bytes of %s at %#x, after %#x", len(pages), task, address, c.last[task])
	}
	for n := 0; n < len(pages); n += pageSize {
		c.pages[task][address+uint64(n)] = bytes.Clone(pages[n : n+pageSize])
	}
	c.last[task] = address + uint64(len(pages))
	return nil
}

// requireHeld holds that of each area exactly what was written has been read.
func (c *copied) requireHeld(t *testing.T, all []held) {
	t.Helper()
	require.Empty(t, c.fault)
	inodes := map[uint64]int{}
	for _, h := range all {
		if h.Shared {
			inodes[h.Inode] = 0
		}
	}
	for rank, inode := range slices.Sorted(maps.Keys(inodes)) {
		inodes[inode] = rank
	}
	for _, h := range all {
		var got []int
		for n := range int(h.Length) / pageSize {
			page := c.pages[h.task(inodes)][h.Address+uint64(n*pageSize)]
			if page == nil {
				continue
			}
			got = append(got, n)
			require.True(t, bytes.Equal(h.page(n), page), "page %d of %q differs", n, h.Name)
		}
		require.Equal(t, h.Pages, got, "pages of %q", h.Name)
	}
}

func TestQuietMemoryIsReadExactly(t *testing.T) {
	for _, c := range []struct {
		name string
		// search is whether the kernel's search of page tables is used.
		search bool
	}{{"page tables searched by the kernel", true}, {"page tables read", false}} {
		t.Run(c.name, func(t *testing.T) {
			if c.search && searchable() == 0 {
				t.Log("this kernel has no PAGEMAP_SCAN (Linux 6.7): page tables are read here as well")
			}
			if !c.search {
				with := searchable
				searchable = func() uint64 { return 0 }
				defer func() { searchable = with }()
			}
			if !hugePages() {
				t.Log("no huge pages are set aside on this machine: hugetlb is not tried")
			}
			init, all := start(t, "quiet")
			got := newCopy()
			stats, err := (&Reader{Proc: "/proc"}).Read(t.Context(), init, got.take)
			require.NoError(t, err)
			got.requireHeld(t, all)
			require.Equal(t, 2, stats.Tasks)
			require.EqualValues(t, 1, stats.Vanished, "the zombie alone")
			require.Positive(t, stats.PagesSkipped)
			require.Equal(t, stats.PagesRead*int64(pageSize), stats.BytesRead)
			require.Positive(t, stats.CPUSeconds)
			t.Logf("%+v", stats)
		})
	}
}

func TestReadExactly(t *testing.T) {
	init, all := start(t, "quiet")
	var private []held
	var wanted []Wanted
	for _, h := range all {
		if h.Shared {
			continue
		}
		want := Wanted{Task: h.task(nil)}
		for _, n := range h.Pages {
			want.Runs = append(want.Runs, store.Run{Address: h.Address + uint64(n*pageSize), Pages: int64(pageSize / store.BlockSize)})
		}
		private, wanted = append(private, h), append(wanted, want)
	}
	got := newCopy()
	stats, err := (&Reader{Proc: "/proc"}).ReadExactly(t.Context(), init, wanted, func(ctx context.Context, task string, address uint64, pages []byte) error {
		got.mu.Lock()
		delete(got.last, task) // the areas are not in order
		got.mu.Unlock()
		return got.take(ctx, task, address, pages)
	})
	require.NoError(t, err)
	got.fault = ""
	got.requireHeld(t, private)
	require.Zero(t, stats.Vanished)

	for _, c := range []struct {
		name string
		want Wanted
	}{
		{"page that is not mapped", Wanted{Task: "mem/1", Runs: []store.Run{{Address: 0x1000, Pages: 1}}}},
		{"page after one that is there", Wanted{Task: "mem/1", Runs: []store.Run{wanted[0].Runs[0], {Address: 1 << 46, Pages: 1}}}},
		{"process that does not exist", Wanted{Task: "mem/99", Runs: wanted[0].Runs}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := (&Reader{Proc: "/proc"}).ReadExactly(t.Context(), init, []Wanted{c.want}, newCopy().take)
			require.Error(t, err)
		})
	}
}

func TestStretches(t *testing.T) {
	const pages = stretch / store.BlockSize
	require.Equal(t, [][]span{
		{{0x1000, 0x2000}, {0x5000, 0x5000 + stretch - 0x1000}}, {{0x5000 + stretch - 0x1000, 0x5000 + stretch}, {1 << 40, 1<<40 + 0x1000}},
	}, stretches([]store.Run{{Address: 0x1000, Pages: 1}, {Address: 0x5000, Pages: pages}, {Address: 1 << 40, Pages: 1}}))
	require.Empty(t, stretches(nil))
}

func TestRacesAreNoErrors(t *testing.T) {
	init, all := start(t, "racing")
	var sum Stats
	for range 200 {
		got := newCopy()
		stats, err := (&Reader{Proc: "/proc"}).Read(t.Context(), init, got.take)
		require.NoError(t, err)
		got.requireHeld(t, all)
		sum.add(stats)
	}
	require.Positive(t, sum.Vanished, "nothing raced")
	t.Logf("%+v", sum)
}

func TestReadEnds(t *testing.T) {
	init, _ := start(t, "quiet")
	full := errors.New("full")
	ended, end := context.WithCancelCause(t.Context())
	end(errors.New("enough"))
	for _, c := range []struct {
		name  string
		ctx   context.Context
		init  int
		sink  error
		fault string
		is    error
	}{
		{name: "no such process", ctx: t.Context(), init: 1 << 22, is: snapshot.ErrGone},
		{name: "the sink fails", ctx: t.Context(), init: init, sink: full, is: full},
		{name: "the context has ended", ctx: ended, init: init, fault: "enough"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sink := func(context.Context, string, uint64, []byte) error { return c.sink }
			_, err := (&Reader{Proc: "/proc", Limit: NewLimit(1)}).Read(c.ctx, c.init, sink)
			require.ErrorContains(t, err, c.fault)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
		})
	}
}

func TestLimitHoldsAgainstTheClock(t *testing.T) {
	init, _ := start(t, "quiet")
	spin := func(context.Context, string, uint64, []byte) error {
		for from := threadTime(); threadTime()-from < time.Millisecond; {
			continue
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	stats, err := (&Reader{Proc: "/proc", Limit: NewLimit(0.1)}).Read(ctx, init, spin)
	t.Logf("%+v (%v)", stats, err)
	require.Less(t, stats.CPUSeconds/stats.Seconds, 0.2)
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		name  string
		share float64
		spent []time.Duration
		takes time.Duration
	}{
		{"a fifth", 0.2, []time.Duration{time.Second, time.Second}, 10 * time.Second},
		{"two cores", 2, []time.Duration{time.Second}, 500 * time.Millisecond},
		{"nothing used", 0.1, []time.Duration{0, 0}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limit, began := NewLimit(c.share), time.Now()
				for _, used := range c.spent {
					require.NoError(t, limit.Spend(t.Context(), used))
				}
				require.InDelta(t, c.takes.Seconds(), time.Since(began).Seconds(), 0.03)
			})
		})
	}
}

func TestLimitIsSetWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit, began := NewLimit(0), time.Now()
		done := make(chan error)
		go func() { done <- limit.Spend(t.Context(), time.Second) }()
		<-time.After(time.Hour)
		synctest.Wait()
		require.Empty(t, done, "a share of nothing stands still")
		limit.Set(0.001)
		<-time.After(time.Second)
		limit.Set(1)
		require.NoError(t, <-done)
		require.InDelta(t, (time.Hour + 2*time.Second).Seconds(), time.Since(began).Seconds(), 0.1)
		require.InDelta(t, 1, limit.Share(), 0)
	})
}

func TestLimitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, NewLimit(0).Spend(ctx, time.Second), context.DeadlineExceeded)
	})
}

func TestParseArea(t *testing.T) {
	for _, c := range []struct {
		name, line     string
		want           area
		bad            bool
		kernel, shared bool
	}{
		{
			name: "anonymous", line: "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ",
			want: area{start: 0x7f0000000000, end: 0x7f0000001000, readable: true, private: true, flags: "rw-p", device: "00:00"},
		},
		{
			name: "file with blanks", line: "1000-2000 ---p 00000000 fe:01 77                         /a b (deleted)",
			want: area{start: 0x1000, end: 0x2000, private: true, flags: "---p", device: "fe:01", inode: 77, name: "/a b (deleted)"},
		},
		{
			name: "shared", line: "1000-2000 rw-s 00000000 00:01 9    /dev/zero (deleted)", kernel: true, shared: true,
			want: area{start: 0x1000, end: 0x2000, readable: true, flags: "rw-s", device: "00:01", inode: 9, name: "/dev/zero (deleted)"},
		},
		{
			name: "vvar", line: "1000-2000 r--p 00000000 00:00 0    [vvar_vclock]", kernel: true,
			want: area{start: 0x1000, end: 0x2000, readable: true, private: true, flags: "r--p", device: "00:00", name: "[vvar_vclock]"},
		},
		{
			name: "vsyscall", line: "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]", kernel: true,
			want: area{start: 0xffffffffff600000, end: 0xffffffffff601000, private: true, flags: "--xp", device: "00:00", name: "[vsyscall]"},
		},
		{
			name: "named", line: "1000-2000 r--p 00000000 00:00 0    [anon:Go: heap]",
			want: area{start: 0x1000, end: 0x2000, readable: true, private: true, flags: "r--p", device: "00:00", name: "[anon:Go: heap]"},
		},
		{name: "cut off", line: "1000-2000 rw-p 0000", bad: true},
		{name: "empty", line: "", bad: true},
		{name: "ends before it begins", line: "2000-1000 rw-p 00000000 00:00 0 ", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseArea(c.line)
			require.Equal(t, !c.bad, ok)
			require.Equal(t, c.want, got)
			require.Equal(t, c.kernel, got.ofKernel())
			require.Equal(t, c.shared, got.sharedMemory())
		})
	}
}

func FuzzAreas(f *testing.F) {
	own, err := os.ReadFile("/proc/self/maps")
	require.NoError(f, err)
	f.Add(string(own))
	f.Fuzz(func(t *testing.T, text string) {
		for a := range areasOf(strings.NewReader(text)) {
			require.LessOrEqual(t, a.start, a.end)
		}
	})
}

// BenchmarkRead reads a quiet process of 1 GiB, beside a copy of as much in this process.
func BenchmarkRead(b *testing.B) {
	init, _ := start(b, "big")
	target := store.Target{Cluster: "c", Namespace: "n", Name: "t", UID: "u"}
	w, err := store.New(mem.New(), store.Keyring{{1}}).Begin(b.Context(), target, store.Meta{Number: 1}, store.WriteOptions{Codec: store.CodecZstd})
	require.NoError(b, err)
	defer w.Abort(context.WithoutCancel(b.Context()))
	count := func(context.Context, string, uint64, []byte) error { return nil }
	read := func(b *testing.B, sink Sink) {
		for b.Loop() {
			stats, err := (&Reader{Proc: "/proc"}).Read(b.Context(), init, sink)
			require.NoError(b, err)
			require.GreaterOrEqual(b, stats.PagesRead, int64(bigPages))
			b.SetBytes(stats.BytesRead)
			b.ReportMetric(stats.CPUSeconds, "cpu-s/GiB")
		}
	}
	b.Run("copy", func(b *testing.B) {
		from, to := bytes.Repeat([]byte{1}, bigPages*pageSize/4), make([]byte, bigPages*pageSize/4)
		b.SetBytes(int64(len(to)))
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		copy(to, from)
		began := threadTime()
		for b.Loop() {
			copy(to, from)
		}
		b.ReportMetric((threadTime()-began).Seconds()/float64(b.N)*4, "cpu-s/GiB")
	})
	b.Run("read", func(b *testing.B) { read(b, count) })
	require.NoError(b, second(b, w, init))
	b.Run("read, hash, compare", func(b *testing.B) { read(b, w.AddPages) })
}

// second is the first round of w, which stores everything.
func second(b *testing.B, w *store.Writer, init int) error {
	stats, err := (&Reader{Proc: "/proc"}).Read(b.Context(), init, w.AddPages)
	b.Logf("first round: %+v", stats)
	return err
}
