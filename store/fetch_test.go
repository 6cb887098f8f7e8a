package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// twoGenerations are a chain whose second generation needs packs of both.
func twoGenerations(t *testing.T, bucket store.Bucket) []sample {
	t.Helper()
	s := store.New(bucket, testRing)
	one := append(smallSamples(), image("1", random(1, 40*page), at(1<<20, 40)), fragmented("2", 5, 30))
	_, base, err := writeDelta(t.Context(), s, meta(1, 0), one, store.WriteOptions{})
	require.NoError(t, err)
	two := append(smallSamples(), image("1", with(one[len(one)-2].content, 20, random(3, page)), at(1<<20, 40)), one[len(one)-1],
		file("new", random(4, 3*page+7)))
	_, _, err = writeDelta(t.Context(), s, meta(2, 0), two, store.WriteOptions{Base: base})
	require.NoError(t, err)
	return two
}

// Whatever a sink refuses, Run says so as it is, and goes on where it was when it is called again.
func TestFetchGoesOnAfterASinkFailed(t *testing.T) {
	bucket := mem.New()
	want := twoGenerations(t, bucket)
	s := store.New(bucket, testRing)
	var mu sync.Mutex
	for at := 1; ; at++ {
		calls, refused, failed := 0, errors.New("disk full"), ""
		sink := newSink()
		sink.before = func(op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == at {
				failed = op + " " + path
				return refused
			}
			return nil
		}
		r, err := s.Open(t.Context(), target, 2, 0)
		require.NoError(t, err)
		fetch := r.Fetch(sink)
		err = fetch.Run(t.Context())
		if calls < at {
			require.NoError(t, err)
			return
		}
		require.Equal(t, refused, err, failed)
		require.NoError(t, fetch.Run(t.Context()), failed)
		require.Equal(t, r.PackBytes(), fetch.ReadBytes(), failed)
		requireSame(t, want, sink.samples())
		require.Equal(t, len(want), sink.finished)
		require.NoError(t, fetch.Run(t.Context()), "once more")
	}
}

// A bucket that is down for good at some call, and back later.
func TestFetchGoesOnAfterTheBucketFailed(t *testing.T) {
	beneath := mem.New()
	want := twoGenerations(t, beneath)
	counting := storetest.NewFaulty(t, beneath)
	_, _, err := read(t.Context(), store.New(counting, testRing), 2, 0)
	require.NoError(t, err)
	opening := 3 // KEY, HEAD, manifest
	for at := opening + 1; at <= len(counting.Calls()); at++ {
		var bucket swapped
		bucket.Bucket = storetest.NewFaulty(t, beneath, storetest.Fault{At: at, Down: true})
		r, err := store.New(&bucket, testRing).Open(t.Context(), target, 2, 0)
		require.NoError(t, err)
		sink := newSink()
		fetch := r.Fetch(sink)
		require.ErrorIs(t, fetch.Run(t.Context()), storetest.ErrInjected)
		bucket.Bucket = beneath
		require.NoError(t, fetch.Run(t.Context()))
		require.Equal(t, r.PackBytes(), fetch.ReadBytes())
		requireSame(t, want, sink.samples())
	}
}

// swapped is a bucket that may be replaced between calls.
type swapped struct{ store.Bucket }

// A failure that passes is not seen at all.
func TestReadsAreTriedAgain(t *testing.T) {
	beneath := mem.New()
	want := twoGenerations(t, beneath)
	counting := storetest.NewFaulty(t, beneath)
	_, _, err := read(t.Context(), store.New(counting, testRing), 2, 0)
	require.NoError(t, err)
	for at := range counting.Calls() {
		s := store.New(storetest.NewFaulty(t, beneath, storetest.Fault{At: at + 1}), testRing)
		requireGeneration(t, s, 2, 0, want)
	}
}

// breaking is a bucket whose streams break off.
type breaking struct {
	store.Bucket
	mu    sync.Mutex
	every int
	count int
}

// Get implements store.Bucket.
func (b *breaking) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	stream, err := b.Bucket.Get(ctx, key, offset, length)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count++; err != nil || b.count%b.every != 0 {
		return stream, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(stream, 10), failing{storetest.ErrInjected})), nil
}

func TestStreamsThatBreakOff(t *testing.T) {
	beneath := mem.New()
	want := twoGenerations(t, beneath)
	for every := 2; every < 5; every++ {
		requireGeneration(t, store.New(&breaking{Bucket: beneath, every: every}, testRing), 2, 0, want)
	}
	_, _, err := read(t.Context(), store.New(&breaking{Bucket: beneath, every: 1}, testRing), 2, 0)
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.NotErrorIs(t, err, store.ErrCorrupt)
}

func TestFetchEndsWithItsContext(t *testing.T) {
	bucket := mem.New()
	want := twoGenerations(t, bucket)
	r, err := store.New(bucket, testRing).Open(t.Context(), target, 2, 0)
	require.NoError(t, err)
	for _, op := range []string{"make", "open", "write", "close"} {
		ctx, cancel := context.WithCancel(t.Context())
		sink := newSink()
		sink.before = func(now, _ string) error {
			if now == op {
				cancel()
			}
			return nil
		}
		fetch := r.Fetch(sink)
		require.ErrorIs(t, fetch.Run(ctx), context.Canceled, op)
		sink.before = nil
		require.NoError(t, fetch.Run(t.Context()), op)
		requireSame(t, want, sink.samples())
	}
}

func TestReadPage(t *testing.T) {
	bucket := mem.New()
	want := twoGenerations(t, bucket)
	r, err := store.New(bucket, testRing).Open(t.Context(), target, 2, 0)
	require.NoError(t, err)
	src, err := r.Pages(t.Context())
	require.NoError(t, err)
	defer src.Close()
	got := make([]byte, page)
	require.ErrorIs(t, src.ReadPage(t.Context(), "1", 1<<20-page, got), store.ErrNotFound, "before")
	require.ErrorIs(t, src.ReadPage(t.Context(), "1", 1<<20+40*page, got), store.ErrNotFound, "after")
	require.ErrorIs(t, src.ReadPage(t.Context(), "no such", 1<<20, got), store.ErrNotFound)
	require.ErrorIs(t, src.ReadPage(t.Context(), "1", 1<<20+1, got), store.ErrInvalid)
	require.ErrorIs(t, src.ReadPage(t.Context(), "1", 1<<20, got[1:]), store.ErrInvalid)

	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			got := make([]byte, page)
			for _, s := range want {
				content := s.content
				for _, run := range s.runs {
					for i := range uint64(run.Pages) {
						if err := src.ReadPage(t.Context(), s.task, run.Address+i*page, got); err != nil {
							t.Error(err)
						} else if !bytes.Equal(content[:page], got) {
							t.Errorf("page %#x of %s differs", run.Address+i*page, s.task)
						}
						content = content[page:]
					}
				}
			}
		})
	}
	running.Wait()
}

// A page that could not be read is an error, and is read when the bucket is back.
func TestReadPageFails(t *testing.T) {
	beneath := mem.New()
	want := twoGenerations(t, beneath)
	bucket := swapped{beneath}
	r, err := store.New(&bucket, testRing).Open(t.Context(), target, 2, 0)
	require.NoError(t, err)
	src, err := r.Pages(t.Context())
	require.NoError(t, err)
	img, got := want[len(want)-3], make([]byte, page)
	require.Equal(t, "1", img.task)
	require.NoError(t, src.ReadPage(t.Context(), "1", 1<<20, got))
	bucket.Bucket = storetest.NewFaulty(t, beneath, storetest.Fault{Op: storetest.OpGet})
	require.ErrorIs(t, src.ReadPage(t.Context(), "1", 1<<20+20*page, got), storetest.ErrInjected)
	bucket.Bucket = beneath
	require.NoError(t, src.ReadPage(t.Context(), "1", 1<<20+20*page, got))
	require.True(t, bytes.Equal(img.content[20*page:21*page], got))
	for key, body := range objects(t, beneath, target.Prefix()+"packs/") {
		damaged := bytes.Clone(body)
		damaged[100] ^= 1 // in the first frame
		replace(t, beneath, key, damaged)
	}
	require.ErrorIs(t, src.ReadPage(t.Context(), "1", 1<<20, got), store.ErrPackCorrupt)
	for key := range objects(t, beneath, target.Prefix()+"packs/") {
		require.NoError(t, beneath.Delete(t.Context(), key))
	}
	require.ErrorIs(t, src.ReadPage(t.Context(), "1", 1<<20, got), store.ErrPackMissing)
	src.Close()
}

// live is what the heap holds after a collection.
func live() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// measured measures the heap at every Put of a pack, and forgets the packs.
type measured struct {
	store.Bucket
	mu   sync.Mutex
	most int64
}

// Put implements store.Bucket.
func (b *measured) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if len(body) < 1<<20 {
		return b.Bucket.Put(ctx, key, body, cond)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.most = max(b.most, live())
	return store.Info{Key: key, Size: int64(len(body))}, nil
}

// The bounds that Writer and Fetch state.
func TestMemoryOfAWriter(t *testing.T) {
	bucket := &measured{Bucket: mem.New()}
	pages := random(1, 1<<20)
	before := live()
	w, err := store.New(bucket, testRing).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	const size = 256 << 20
	for at := uint64(0); at < size; at += 1 << 20 {
		require.NoError(t, w.AddPages(t.Context(), "1", at, pages))
	}
	w.Abort(t.Context())
	bound := int64(85<<20 + 40*size/page)
	t.Logf("%d MiB of %d MiB", (bucket.most-before)>>20, bound>>20)
	require.LessOrEqual(t, bucket.most-before, bound)
}

// weighing is a sink that keeps nothing and measures the heap now and then.
type weighing struct {
	mu          sync.Mutex
	count, most int64
}

func (s *weighing) Make(store.Entry) error               { return nil }
func (s *weighing) Open(store.Entry) (store.File, error) { return s, nil }
func (s *weighing) Finish(store.Entry) error             { return nil }
func (s *weighing) Close() error                         { return nil }

func (s *weighing) WriteAt(b []byte, _ int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count++; s.count%128 == 0 {
		s.most = max(s.most, live())
	}
	return len(b), nil
}

func TestMemoryOfAFetch(t *testing.T) {
	s := store.New(mem.New(), testRing)
	_, err := write(t.Context(), s, 1, 0, []sample{file("f", random(1, 128<<20))})
	require.NoError(t, err)
	before := live()
	sink := &weighing{}
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	require.NoError(t, r.Fetch(sink).Run(t.Context()))
	t.Logf("%d MiB", (sink.most-before)>>20)
	require.LessOrEqual(t, sink.most-before, int64(66<<20), "65 MiB and the manifest")
}

// counting is a sink that keeps count of the files that are open.
type counting struct {
	*memSink
	mu         sync.Mutex
	open, most int
}

func (s *counting) Open(e store.Entry) (store.File, error) {
	f, err := s.memSink.Open(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.most = max(s.most, s.open)
	return countedFile{f, s}, err
}

type countedFile struct {
	store.File
	sink *counting
}

func (f countedFile) Close() error {
	f.sink.mu.Lock()
	defer f.sink.mu.Unlock()
	f.sink.open--
	return f.File.Close()
}

func TestManyFilesOfAPack(t *testing.T) {
	s := store.New(mem.New(), testRing)
	var all []sample
	for i := range 200 {
		all = append(all, file(fmt.Sprintf("f/%d", i), random(byte(i), 1+i*50)))
	}
	_, err := write(t.Context(), s, 1, 0, all)
	require.NoError(t, err)
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	sink := &counting{memSink: newSink()}
	require.NoError(t, r.Fetch(sink).Run(t.Context()))
	requireSame(t, all, sink.samples())
	require.Zero(t, sink.open, "all are closed")
	require.LessOrEqual(t, sink.most, 16)
}
