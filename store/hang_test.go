package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// big is more than the buffers of a Writer hold.
var big = sync.OnceValue(func() []byte { return random(1, 110<<20) })

// hanging is a bucket whose packs are never put, until the context ends.
func hanging(t *testing.T) (*storetest.Faulty, *storetest.Gate) {
	gate := storetest.NewGate()
	hold := storetest.Fault{Op: storetest.OpPut, Key: "packs/", Effect: storetest.Hold, Gate: gate}
	return storetest.NewFaulty(t, mem.New(), hold), gate
}

func TestBucketDownDuringUploadEndsAdd(t *testing.T) {
	s := store.New(storetest.NewFaulty(t, mem.New(), storetest.Fault{Op: storetest.OpPut, Key: "packs/"}), testRing)
	w, err := s.Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	err = add(t.Context(), w, []sample{file("big", big())})
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.ErrorContains(t, err, "packs/")
	err = w.AddPages(t.Context(), "1", 0, random(2, page))
	require.ErrorIs(t, err, storetest.ErrInjected, "from now on")
	_, err = w.Commit(t.Context())
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.Nil(t, w.Base())
	w.Abort(t.Context())
}

// Whose context ends, that call ends, and the Writer can still be ended.
func TestContextEndsHangingCalls(t *testing.T) {
	addPages := func(ctx context.Context, w *store.Writer) error { return w.AddPages(ctx, "1", 0, big()) }
	addFile := func(ctx context.Context, w *store.Writer) error { return add(ctx, w, []sample{file("big", big())}) }
	commit := func(ctx context.Context, w *store.Writer) error {
		if err := w.AddPages(context.WithoutCancel(ctx), "1", 0, big()[:20<<20]); err != nil {
			return err
		}
		_, err := w.Commit(ctx)
		return err
	}
	for name, call := range map[string]func(context.Context, *store.Writer) error{
		"AddPages": addPages, "Add": addFile, "Commit": commit,
	} {
		for _, whose := range []string{"Begin", "call"} {
			t.Run(fmt.Sprintf("%s, context of %s", name, whose), func(t *testing.T) {
				bucket, gate := hanging(t)
				begin, cancelBegin := context.WithCancel(t.Context())
				defer cancelBegin()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w, err := store.New(bucket, testRing).Begin(begin, target, meta(1, 0), store.WriteOptions{})
				require.NoError(t, err)
				done := make(chan error)
				go func() { done <- call(ctx, w) }()
				<-gate.Reached()
				if whose == "Begin" {
					cancelBegin()
				} else {
					cancel()
				}
				require.ErrorIs(t, <-done, context.Canceled)
				w.Abort(t.Context())
				_, err = w.Commit(t.Context())
				require.ErrorIs(t, err, store.ErrInvalid)
			})
		}
	}
}

// Abort ends the Adds of others, although the bucket hangs and their contexts live.
func TestAbortEndsHangingAdds(t *testing.T) {
	bucket, gate := hanging(t)
	w, err := store.New(bucket, testRing).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	done := make(chan error)
	for i := range 8 {
		go func() { done <- w.AddPages(t.Context(), fmt.Sprint(i), 0, big()) }()
	}
	<-gate.Reached()
	w.Abort(t.Context())
	for range 8 {
		require.Error(t, <-done)
	}
}

// Deleting hangs: Abort ends with its context, and leaves what it could not delete.
func TestAbortEndsWithItsContext(t *testing.T) {
	gate := storetest.NewGate()
	hold := storetest.Fault{Op: storetest.OpDelete, Effect: storetest.Hold, Gate: gate}
	s := store.New(storetest.NewFaulty(t, mem.New(), hold), testRing)
	w, err := s.Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, w.AddPages(t.Context(), "1", 0, big()[:40<<20]))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.Abort(ctx); close(done) }()
	<-gate.Reached()
	cancel()
	<-done
}

// full takes some packs and then no more.
type full struct {
	store.Bucket
	room atomic.Int32
}

var errFull = errors.New("disk full")

// Put implements store.Bucket.
func (b *full) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if len(body) > 1<<20 && b.room.Add(-1) < 0 {
		return store.Info{}, fmt.Errorf("put %s: %w", key, errFull)
	}
	return b.Bucket.Put(ctx, key, body, cond)
}

func TestFullBucket(t *testing.T) {
	for _, codec := range codecs {
		for room := range int32(6) {
			bucket := &full{Bucket: mem.New()}
			bucket.room.Store(room)
			w, err := store.New(bucket, testRing).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{Codec: codec})
			require.NoError(t, err)
			var running sync.WaitGroup
			for i := range 8 {
				running.Go(func() {
					err := w.AddPages(t.Context(), fmt.Sprint(i), 0, big()[:13<<20])
					if err != nil && !errors.Is(err, errFull) {
						t.Error(err)
					}
				})
			}
			running.Wait()
			_, err = w.Commit(t.Context())
			require.ErrorIs(t, err, errFull)
			w.Abort(t.Context())
			require.Len(t, objects(t, bucket, ""), 1, "KEY alone is left")
		}
	}
}

// A write, and each way to read, over a bucket that hangs at its k-th call until the context ends.
func TestHangAtEveryCall(t *testing.T) {
	prepared := mem.New()
	twoGenerations(t, prepared)
	before := objects(t, prepared, "")
	cases := []struct {
		name string
		call func(context.Context, *store.Store) error
	}{
		{"write", func(ctx context.Context, s *store.Store) error {
			base, err := s.Base(ctx, target)
			if err == nil {
				all := []sample{image("1", random(9, 40*page), at(1<<20, 40)), inline("i", []byte("x"))}
				_, _, err = writeDelta(ctx, s, meta(3, 0), all, store.WriteOptions{Base: base})
			}
			return err
		}},
		{"fetch", func(ctx context.Context, s *store.Store) error { _, _, err := read(ctx, s, 1, 0); return err }},
		{"pages", func(ctx context.Context, s *store.Store) error {
			r, err := s.Open(ctx, target, 2, 0)
			if err != nil {
				return err
			}
			src, err := r.Pages(ctx)
			if err != nil {
				return err
			}
			defer src.Close()
			return src.ReadPage(ctx, "1", 1<<20, make([]byte, page))
		}},
		{"fence", func(ctx context.Context, s *store.Store) error { return s.Fence(ctx, target, 7) }},
		{"rotate", func(ctx context.Context, s *store.Store) error { _, err := s.RotateKey(ctx, target); return err }},
	}
	ring := store.Keyring{{9}, testRing[0]}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			counting := storetest.NewFaulty(t, bucketOf(t, before))
			require.NoError(t, c.call(t.Context(), store.New(counting, ring)))
			for k := range counting.Calls() {
				gate := storetest.NewGate()
				hold := storetest.Fault{At: k + 1, Effect: storetest.Hold, Gate: gate}
				bucket := storetest.NewFaulty(t, bucketOf(t, before), hold)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- c.call(ctx, store.New(bucket, ring)) }()
				<-gate.Reached()
				cancel()
				require.ErrorIs(t, <-done, context.Canceled, "call %d", k+1)
			}
		})
	}
}
