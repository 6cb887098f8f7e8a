package store_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestRebuild(t *testing.T) {
	all := ages()
	head := upkept.Prefix() + "HEAD"
	manifest := func(number string) string { return upkept.Prefix() + "gen/" + number + "-0/manifest" }
	lost := func(t *testing.T, b store.Bucket, key string) { require.NoError(t, b.Delete(t.Context(), key)) }
	ownPack := func(t *testing.T, b store.Bucket) string { return upkept.Prefix() + packsOf(t, b)[3] }
	cases := []struct {
		name   string
		damage func(t *testing.T, b *mem.Bucket)
		want   int64
		unsure bool
		cause  error
	}{
		{"HEAD lost", func(t *testing.T, b *mem.Bucket) { lost(t, b, head) }, 4, true, store.ErrNotFound},
		{"HEAD damaged", func(t *testing.T, b *mem.Bucket) { flip(t, b, head, -3) }, 4, true, store.ErrHeadCorrupt},
		{"HEAD cut", func(t *testing.T, b *mem.Bucket) {
			_, err := b.Put(t.Context(), head, []byte("x"), store.Condition{})
			require.NoError(t, err)
		}, 4, true, store.ErrHeadCorrupt},
		{"manifest lost", func(t *testing.T, b *mem.Bucket) { lost(t, b, manifest("4")) }, 3, true, store.ErrNotFound},
		{"manifest damaged", func(t *testing.T, b *mem.Bucket) { flip(t, b, manifest("4"), 40) }, 3, true, store.ErrManifestCorrupt},
		{"pack lost", func(t *testing.T, b *mem.Bucket) { lost(t, b, ownPack(t, b)) }, 3, false, store.ErrPackMissing},
		{"footer damaged", func(t *testing.T, b *mem.Bucket) { flip(t, b, ownPack(t, b), -50) }, 3, false, store.ErrPackCorrupt},
		{"all at once", func(t *testing.T, b *mem.Bucket) {
			lost(t, b, head)
			lost(t, b, ownPack(t, b))
			flip(t, b, manifest("3"), 40)
		}, 2, true, store.ErrNotFound},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := mem.New()
			committed(t, b, all...)
			c.damage(t, b)
			s := store.New(b, upkeyed)
			before := upkeepKeys(t, b)
			dry, err := s.Rebuild(t.Context(), upkept, store.RebuildOptions{DryRun: true})
			require.NoError(t, err)
			require.Equal(t, before, upkeepKeys(t, b))
			report, err := s.Rebuild(t.Context(), upkept, store.RebuildOptions{})
			require.NoError(t, err)
			require.Equal(t, c.want, report.Head.Number)
			require.Equal(t, c.want, dry.Head.Number)
			require.Equal(t, int64(1), report.Head.Epoch)
			require.Equal(t, c.unsure, report.Unsure)
			require.ErrorIs(t, report.Cause, c.cause)
			for number := int64(1); number <= c.want; number++ {
				requireRestores(t, b, number, all[number-1])
			}
			// Whoever wrote before is fenced.
			_, err = s.Begin(t.Context(), upkept, upkeepMeta(c.want+1, 0), store.WriteOptions{})
			require.ErrorIs(t, err, store.ErrFenced)
			requireNextWriter(t, b, all[c.want-1])
			_, err = s.Rebuild(t.Context(), upkept, store.RebuildOptions{})
			require.ErrorIs(t, err, store.ErrInvalid, "HEAD is sound")
			require.ErrorContains(t, err, "nothing to rebuild")
		})
	}
}

func TestRebuildFencesEveryEpoch(t *testing.T) {
	b := mem.New()
	all := ages()
	committed(t, b, all[0])
	s := store.New(b, upkeyed)
	// A writer at epoch 7 has put a pack and no manifest.
	dying := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpPut, Key: "/manifest", At: 1, Down: true})
	_, err := all[1].commit(t.Context(), store.New(dying, upkeyed), 7, nil)
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.NoError(t, b.Delete(t.Context(), upkept.Prefix()+"HEAD"))
	report, err := s.Rebuild(t.Context(), upkept, store.RebuildOptions{})
	require.NoError(t, err)
	require.Equal(t, int64(8), report.Head.Epoch)
	requireRestores(t, b, 1, all[0])
}

// A generation that was never committed looks like one that was, and the report says so.
func TestRebuildOfAnOrphan(t *testing.T) {
	b := mem.New()
	all := ages()
	committed(t, b, all[0])
	dying := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpPut, Key: "HEAD", At: 1, Down: true})
	_, err := all[1].commit(t.Context(), store.New(dying, upkeyed), 0, nil)
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.NoError(t, b.Delete(t.Context(), upkept.Prefix()+"HEAD"))
	report, err := store.New(b, upkeyed).Rebuild(t.Context(), upkept, store.RebuildOptions{})
	require.NoError(t, err)
	require.True(t, report.Unsure)
	requireRestores(t, b, 2, all[1])
	requireRestores(t, b, 1, all[0])
}

func TestRebuildWithNothingToBuildFrom(t *testing.T) {
	b := mem.New()
	s := store.New(b, upkeyed)
	_, err := s.Rebuild(t.Context(), upkept, store.RebuildOptions{})
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, s.Fence(t.Context(), upkept, 3))
	_, err = s.Rebuild(t.Context(), upkept, store.RebuildOptions{})
	require.ErrorIs(t, err, store.ErrInvalid)
	require.NoError(t, b.Delete(t.Context(), upkept.Prefix()+"HEAD"))
	_, err = s.Rebuild(t.Context(), upkept, store.RebuildOptions{})
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorContains(t, err, "remove the target")
}

func TestCrashOfRebuild(t *testing.T) {
	all := ages()
	full := mem.New()
	committed(t, full, all...)
	flip(t, full, upkept.Prefix()+"HEAD", -1)
	require.NoError(t, full.Delete(t.Context(), upkept.Prefix()+packsOf(t, full)[3]))
	prepare := func(t *testing.T) *mem.Bucket { return copied(t, full) }
	act := func(ctx context.Context, s *store.Store) error {
		_, err := s.Rebuild(ctx, upkept, store.RebuildOptions{})
		return err
	}
	crashEverywhere(t, prepare, act, func(t *testing.T, b *mem.Bucket) {
		s := store.New(b, upkeyed)
		if _, err := s.Head(t.Context(), upkept); err != nil {
			require.ErrorIs(t, err, store.ErrHeadCorrupt)
			require.NoError(t, act(t.Context(), s))
		}
		requireRestores(t, b, 3, all[2])
		requireNextWriter(t, b, all[2])
	})
}

// Of two that rebuild at a time one writes HEAD; the other is told.
func TestRebuildByTwo(t *testing.T) {
	b := mem.New()
	all := ages()
	committed(t, b, all...)
	require.NoError(t, b.Delete(t.Context(), upkept.Prefix()+"HEAD"))
	gate := storetest.NewGate()
	held := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpPut, Key: "HEAD", At: 1, Effect: storetest.Hold, Gate: gate})
	done := make(chan error)
	go func() {
		_, err := store.New(held, upkeyed).Rebuild(t.Context(), upkept, store.RebuildOptions{})
		done <- err
	}()
	<-gate.Reached()
	_, err := store.New(b, upkeyed).Rebuild(t.Context(), upkept, store.RebuildOptions{})
	require.NoError(t, err)
	requireNextWriter(t, b, all[3])
	gate.Open()
	require.ErrorIs(t, <-done, store.ErrFenced)
	requireRestores(t, b, 0, all[3].changed(77, 3, 5))
}
