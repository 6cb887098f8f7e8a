package store_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// sparse are generations whose packs end at about 30 %, 70 % and 100 % live: 100 pages, of which 70 change, then 20 of these.
func sparse() []memory {
	m := newMemory(100)
	second := m.changed(1, 30, 70)
	return []memory{m, second, second.changed(2, 80, 20)}
}

func TestRewrite(t *testing.T) {
	cases := []struct {
		name  string
		opts  store.RewriteOptions
		packs int // given up
		now   int // that the generation has
	}{
		// The first pack is below half; that leaves 20 dead blocks to 104 live ones, below 1.25.
		{"defaults", store.RewriteOptions{}, 1, 3},
		{"the second too, for what a restore reads", store.RewriteOptions{MaxRead: 1.1}, 2, 2},
		{"the second too, for its share", store.RewriteOptions{MinLive: 0.8}, 2, 2},
		{"what is wholly live stays", store.RewriteOptions{MinLive: 1, MaxRead: 1}, 2, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := mem.New()
			all := sparse()
			committed(t, b, all...)
			s := store.New(b, upkeyed)
			next := all[2].changed(3, 0, 1)
			var report store.RewriteReport
			_, err := next.commit(t.Context(), s, 0, func(w *store.Writer) (err error) {
				report, err = w.Rewrite(t.Context(), c.opts)
				return err
			})
			require.NoError(t, err)
			require.Equal(t, c.packs, report.Packs)
			requireRestores(t, b, 0, next)
			requireRestores(t, b, 3, all[2])
			generations, err := s.Generations(t.Context(), upkept)
			require.NoError(t, err)
			require.Equal(t, c.now, generations[0].Packs)
			require.Equal(t, int64(104), generations[0].LiveBlocks)
			require.InDelta(t, generations[0].PackBytes, report.RewrittenBytes, 4000)
			require.InDelta(t, generations[0].LiveBytes, report.LiveBytes, 4000)
			require.Greater(t, report.RestoreBytes, report.RewrittenBytes)
			_, err = s.Reap(t.Context(), upkept, store.ReapOptions{Keep: 1})
			require.NoError(t, err)
			require.Len(t, packsOf(t, b), c.now)
			requireNextWriter(t, b, next)
		})
	}
}

func TestRewriteHasNothingToDo(t *testing.T) {
	b := mem.New()
	s := store.New(b, upkeyed)
	nothing := func(w *store.Writer) error {
		report, err := w.Rewrite(t.Context(), store.RewriteOptions{})
		require.Zero(t, report.Packs)
		require.Zero(t, report.Blocks)
		return err
	}
	m := newMemory(60)
	for range 3 {
		_, err := m.commit(t.Context(), s, 0, nothing)
		require.NoError(t, err)
	}
	require.Len(t, packsOf(t, b), 1)
	requireRestores(t, b, 0, m)
	w, err := s.Begin(t.Context(), upkept, upkeepMeta(4, 0), store.WriteOptions{})
	require.NoError(t, err)
	_, err = w.Rewrite(t.Context(), store.RewriteOptions{MinLive: 2})
	require.ErrorIs(t, err, store.ErrInvalid)
	w.Abort(t.Context())
	_, err = w.Rewrite(t.Context(), store.RewriteOptions{})
	require.ErrorIs(t, err, store.ErrInvalid, "it has ended")
}

// Between rounds of pre-dump: nothing has been added as an entry yet, and pages come in meanwhile.
func TestRewriteBesideAddPages(t *testing.T) {
	b := mem.New()
	all := sparse()
	committed(t, b, all...)
	s := store.New(b, upkeyed)
	base, err := s.Base(t.Context(), upkept)
	require.NoError(t, err)
	w, err := s.Begin(t.Context(), upkept, upkeepMeta(4, 0), store.WriteOptions{Base: base})
	require.NoError(t, err)
	var adding sync.WaitGroup
	now := all[2]
	for round := range 5 {
		now = now.changed(uint64(10+round), 10*round, 10)
		pages := now.pages
		adding.Go(func() {
			at := 10 * round * store.BlockSize
			err := w.AddPages(t.Context(), upkeepTask, upkeepAddress+uint64(at), pages[at:at+10*store.BlockSize])
			if err != nil {
				t.Error(err)
			}
		})
	}
	report, err := w.Rewrite(t.Context(), store.RewriteOptions{})
	require.NoError(t, err)
	adding.Wait()
	require.LessOrEqual(t, report.Packs, 2)
	require.NoError(t, now.add(t.Context(), w))
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	requireRestores(t, b, 0, now)
	// The Base that the Writer offers leads on too.
	w, err = s.Begin(t.Context(), upkept, upkeepMeta(5, 0), store.WriteOptions{Base: w.Base()})
	require.NoError(t, err)
	require.NoError(t, now.add(t.Context(), w))
	gen, err := w.Commit(t.Context())
	require.NoError(t, err)
	require.Zero(t, gen.NewBlocks)
	requireRestores(t, b, 0, now)
}

func TestRewriteChecksWhatItReads(t *testing.T) {
	b := mem.New()
	all := sparse()
	committed(t, b, all...)
	s := store.New(b, upkeyed)
	base, err := s.Base(t.Context(), upkept)
	require.NoError(t, err)
	key := upkept.Prefix() + packsOf(t, b)[0]
	flip(t, b, key, 20_000)
	w, err := s.Begin(t.Context(), upkept, upkeepMeta(4, 0), store.WriteOptions{Base: base})
	require.NoError(t, err)
	require.NoError(t, all[2].add(t.Context(), w))
	_, err = w.Rewrite(t.Context(), store.RewriteOptions{})
	require.ErrorIs(t, err, store.ErrPackCorrupt)
	require.ErrorContains(t, err, key)
	flip(t, b, key, 20_000)
	_, err = w.Commit(t.Context())
	require.NoError(t, err, "the writer is usable")
	requireRestores(t, b, 0, all[2])
}

func TestStoreRewrite(t *testing.T) {
	b := mem.New()
	all := sparse()
	committed(t, b, all...)
	s := store.New(b, upkeyed)
	gen, err := s.Rewrite(t.Context(), upkept, 5)
	require.NoError(t, err)
	require.Equal(t, []int64{4, 5}, []int64{gen.Number, gen.Epoch})
	requireRestores(t, b, 0, all[2])
	meta := upkeepMeta(3, 0)
	meta.Number, meta.Epoch = 4, 5
	require.Equal(t, meta, openNewest(t, b).Meta())
	gen, err = s.Rewrite(t.Context(), upkept, 5)
	require.NoError(t, err)
	require.Zero(t, gen.Puts, "nothing left to do")
	require.Equal(t, int64(4), gen.Number)
	_, err = s.Rewrite(t.Context(), upkept, 4)
	require.ErrorIs(t, err, store.ErrFenced)
	requireNextWriter(t, b, all[2])
}

func TestCrashOfRewrite(t *testing.T) {
	all := sparse()
	full := mem.New()
	committed(t, full, all...)
	prepare := func(t *testing.T) *mem.Bucket { return copied(t, full) }
	after := func(t *testing.T, b *mem.Bucket) {
		head, err := store.New(b, upkeyed).Head(t.Context(), upkept)
		require.NoError(t, err)
		require.Contains(t, []int64{3, 4}, head.Number)
		requireRestores(t, b, 0, all[2])
		requireRestores(t, b, 3, all[2])
		requireNextWriter(t, b, all[2])
		_, err = store.New(b, upkeyed).Reap(t.Context(), upkept, store.ReapOptions{Keep: 1})
		require.NoError(t, err)
		requireRestores(t, b, 0, all[2].changed(77, 3, 5))
	}
	t.Run("by the store", func(t *testing.T) {
		crashEverywhere(t, prepare, func(ctx context.Context, s *store.Store) error {
			_, err := s.Rewrite(ctx, upkept, 0)
			return err
		}, after)
	})
	t.Run("by a writer", func(t *testing.T) {
		crashEverywhere(t, prepare, func(ctx context.Context, s *store.Store) error {
			_, err := all[2].commit(ctx, s, 0, func(w *store.Writer) error {
				_, err := w.Rewrite(ctx, store.RewriteOptions{MaxRead: 1})
				return err
			})
			return err
		}, after)
	})
}

// A rewrite waits while the bucket is slow, and ends with its context.
func TestRewriteEndsWithItsContext(t *testing.T) {
	b := mem.New()
	all := sparse()
	committed(t, b, all...)
	gate := storetest.NewGate()
	defer gate.Open()
	held := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpGet, Key: "packs/", At: 4, Effect: storetest.Hold, Gate: gate})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := store.New(held, upkeyed).Rewrite(ctx, upkept, 0)
		done <- err
	}()
	<-gate.Reached()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	requireRestores(t, b, 0, all[2])
}

// More than the packer holds at a time, scattered over several packs, while pages are added.
func TestRewriteOfManyPacks(t *testing.T) {
	b := mem.New()
	const pages = 12 << 10 // three packs
	first := newMemory(pages)
	second := memory{pages: bytes.Clone(first.pages), file: first.file}
	for at := range pages {
		if at%16 != 3 && at%16 != 9 {
			copy(second.pages[at*store.BlockSize:], noise(uint64(at+7), 64))
		}
	}
	committed(t, b, first, second)
	s := store.New(b, upkeyed)
	third := second.changed(1, 100, 1)
	var report store.RewriteReport
	_, err := third.commit(t.Context(), s, 0, func(w *store.Writer) error {
		var adding sync.WaitGroup
		defer adding.Wait()
		for at := 0; at < len(third.pages); at += 1 << 20 {
			adding.Go(func() {
				if err := w.AddPages(t.Context(), upkeepTask, upkeepAddress+uint64(at), third.pages[at:at+1<<20]); err != nil {
					t.Error(err)
				}
			})
		}
		var err error
		report, err = w.Rewrite(t.Context(), store.RewriteOptions{})
		return err
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, report.Packs, 3)
	require.InDelta(t, pages/8, report.Blocks, 10)
	requireRestores(t, b, 0, third)
	generations, err := s.Generations(t.Context(), upkept)
	require.NoError(t, err)
	require.Less(t, generations[0].ReadAmplification(), 1.25)
}
