package store_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// ages are four generations: each changes all that the one before has changed, and the last two leave the file alone.
func ages() []memory {
	m := newMemory(48)
	return []memory{m, m.changed(1, 0, 16), m.changed(2, 0, 16), m.changed(3, 0, 16)}
}

func TestReapRetention(t *testing.T) {
	cases := []struct {
		keep                int
		manifests, packs    int // that go
		keptPacks, packsNow int
	}{
		// A generation has the first pack and its own; the first lives on in all.
		{1, 3, 2, 2, 2},
		{2, 2, 1, 3, 3},
		{3, 1, 0, 4, 4},
		{4, 0, 0, 4, 4},
		{100, 0, 0, 4, 4},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint("keep ", c.keep), func(t *testing.T) {
			b := mem.New()
			all := ages()
			committed(t, b, all...)
			s := store.New(b, upkeyed)
			before := upkeepKeys(t, b)
			dry, err := s.Reap(t.Context(), upkept, store.ReapOptions{Keep: c.keep, DryRun: true})
			require.NoError(t, err)
			require.Equal(t, before, upkeepKeys(t, b))
			report, err := s.Reap(t.Context(), upkept, store.ReapOptions{Keep: c.keep})
			require.NoError(t, err)
			require.Equal(t, dry, report)
			require.Equal(t, []int{c.manifests, c.packs, c.keptPacks}, []int{report.Manifests.Objects, report.Packs.Objects, report.KeptPacks.Objects})
			require.Positive(t, report.KeptPacks.Bytes)
			require.Len(t, packsOf(t, b), c.packsNow)
			for number := 1; number <= 4; number++ {
				if number > 4-c.keep {
					requireRestores(t, b, int64(number), all[number-1])
				} else {
					_, err := s.Open(t.Context(), upkept, int64(number), 0)
					require.ErrorIs(t, err, store.ErrNotFound)
				}
			}
			again, err := s.Reap(t.Context(), upkept, store.ReapOptions{Keep: c.keep})
			require.NoError(t, err)
			require.Zero(t, again.Manifests.Objects+again.Packs.Objects)
			requireNextWriter(t, b, all[3])
		})
	}
}

// pass lets the time of a synctest bubble pass.
func pass(d time.Duration) { <-time.After(d) }

// A generation goes once the one after it is old enough, not once it is so itself.
func TestReapGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.New()
		all := ages()
		s := store.New(b, upkeyed)
		reap := func() store.ReapReport {
			report, err := s.Reap(t.Context(), upkept, store.ReapOptions{Keep: 1, Grace: time.Hour})
			require.NoError(t, err)
			return report
		}
		committed(t, b, all[:1]...)
		pass(48 * time.Hour)
		committed(t, b, all[1:3]...)
		pass(59 * time.Minute)
		report := reap()
		require.Zero(t, report.Manifests.Objects+report.Packs.Objects, "a reader of generation 1 may be at work")
		require.Equal(t, 3, report.KeptManifests.Objects)
		pass(2 * time.Minute)
		committed(t, b, all[3])
		report = reap()
		require.Equal(t, 2, report.Manifests.Objects, "1 and 2; 3 was superseded just now")
		requireRestores(t, b, 3, all[2])
		require.Equal(t, 1, report.Packs.Objects)
		pass(2 * time.Hour)
		require.Equal(t, 1, reap().Manifests.Objects)
		requireRestores(t, b, 0, all[3])
	})
}

// What writers have left that died goes when it is old, what may be an open writer's never.
func TestReapLeftOvers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.New()
		all := ages()
		committed(t, b, all[0])
		dying := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpPut, Key: "HEAD", At: 1, Down: true})
		_, err := all[1].commit(t.Context(), store.New(dying, upkeyed), 0, nil)
		require.ErrorIs(t, err, storetest.ErrInjected)
		pass(100 * time.Hour)
		s := store.New(b, upkeyed)
		reap := func() store.ReapReport {
			report, err := s.Reap(t.Context(), upkept, store.ReapOptions{Keep: 5, Grace: time.Hour})
			require.NoError(t, err)
			return report
		}
		report := reap()
		require.Zero(t, report.Manifests.Objects+report.Packs.Objects)
		require.Equal(t, []int{1, 1}, []int{report.OpenManifests.Objects, report.OpenPacks.Objects}, "it might still commit")
		// Another writer takes the number under a newer epoch: now nobody can.
		_, err = all[2].commit(t.Context(), s, 1, nil)
		require.NoError(t, err)
		report = reap()
		require.Equal(t, []int{1, 1}, []int{report.Manifests.Objects, report.Packs.Objects})
		requireRestores(t, b, 0, all[2])
		requireRestores(t, b, 1, all[0])
	})
}

func TestReapRefuses(t *testing.T) {
	s := func(b store.Bucket) *store.Store { return store.New(b, upkeyed) }
	head, key := upkept.Prefix()+"HEAD", upkept.Prefix()+"KEY"
	cases := []struct {
		name   string
		damage func(t *testing.T, b *mem.Bucket)
		keep   int
		want   error
		text   string
	}{
		{"no HEAD", func(t *testing.T, b *mem.Bucket) { require.NoError(t, b.Delete(t.Context(), head)) }, 1, store.ErrNotFound, "rebuild HEAD, or remove"},
		{"damaged HEAD", func(t *testing.T, b *mem.Bucket) { flip(t, b, head, -1) }, 1, store.ErrHeadCorrupt, "rebuild HEAD, or remove"},
		{"no KEY", func(t *testing.T, b *mem.Bucket) { require.NoError(t, b.Delete(t.Context(), key)) }, 1, store.ErrKeyMissing, "backup"},
		{"damaged manifest of HEAD", func(t *testing.T, b *mem.Bucket) { flip(t, b, upkept.Prefix()+"gen/4-0/manifest", -1) }, 1, store.ErrManifestCorrupt, "nothing was deleted"},
		{"manifest of HEAD gone", func(t *testing.T, b *mem.Bucket) {
			require.NoError(t, b.Delete(t.Context(), upkept.Prefix()+"gen/4-0/manifest"))
		}, 1, store.ErrManifestCorrupt, "nothing was deleted"},
		{"damaged manifest that stays", func(t *testing.T, b *mem.Bucket) { flip(t, b, upkept.Prefix()+"gen/3-0/manifest", 50) }, 2, store.ErrManifestCorrupt, "generation 3 stays"},
		{"keep nothing", func(*testing.T, *mem.Bucket) {}, 0, store.ErrInvalid, "at least 1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := mem.New()
			committed(t, b, ages()...)
			c.damage(t, b)
			before := upkeepKeys(t, b)
			_, err := s(b).Reap(t.Context(), upkept, store.ReapOptions{Keep: c.keep})
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.text)
			require.Equal(t, before, upkeepKeys(t, b))
		})
	}
	t.Run("damaged manifest that goes", func(t *testing.T) {
		b := mem.New()
		committed(t, b, ages()...)
		flip(t, b, upkept.Prefix()+"gen/3-0/manifest", 50)
		report, err := s(b).Reap(t.Context(), upkept, store.ReapOptions{Keep: 1})
		require.NoError(t, err)
		require.Equal(t, 3, report.Manifests.Objects)
		requireRestores(t, b, 0, ages()[3])
	})
	t.Run("what is no pack stays", func(t *testing.T) {
		b := mem.New()
		committed(t, b, ages()...)
		_, err := b.Put(t.Context(), upkept.Prefix()+"packs/00000000000000000000000000", make([]byte, 100), store.Condition{})
		require.NoError(t, err)
		report, err := s(b).Reap(t.Context(), upkept, store.ReapOptions{Keep: 1})
		require.NoError(t, err)
		require.Equal(t, 1, report.UnreadablePacks.Objects)
	})
}

func TestCrashOfReap(t *testing.T) {
	all := ages()
	full := mem.New()
	committed(t, full, all...)
	prepare := func(t *testing.T) *mem.Bucket { return copied(t, full) }
	act := func(ctx context.Context, s *store.Store) error {
		_, err := s.Reap(ctx, upkept, store.ReapOptions{Keep: 2})
		return err
	}
	crashEverywhere(t, prepare, act, func(t *testing.T, b *mem.Bucket) {
		// What stays is whole, and so is whatever is left of the others.
		s := store.New(b, upkeyed)
		generations, err := s.Generations(t.Context(), upkept)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(generations), 2)
		for _, g := range generations {
			requireRestores(t, b, g.Number, all[g.Number-1])
		}
		requireNextWriter(t, b, all[3])
		_, err = s.Reap(t.Context(), upkept, store.ReapOptions{Keep: 1})
		require.NoError(t, err)
		require.Len(t, manifestsOf(t, b), 1)
		requireNextWriter(t, b, all[3].changed(77, 3, 5))
	})
}

// A writer that began before the reap commits at each point of it, and another one after it: the argument at reaper.
func TestReapBesideAWriter(t *testing.T) {
	all := ages()
	full := mem.New()
	committed(t, full, all[:3]...)
	counting := storetest.NewFaulty(t, copied(t, full))
	_, err := store.New(counting, upkeyed).Reap(t.Context(), upkept, store.ReapOptions{Keep: 1})
	require.NoError(t, err)
	for at := range counting.Calls() {
		t.Run(fmt.Sprint("call ", at+1), func(t *testing.T) {
			b := copied(t, full)
			s := store.New(b, upkeyed)
			base, err := s.Base(t.Context(), upkept)
			require.NoError(t, err)
			w, err := s.Begin(t.Context(), upkept, upkeepMeta(4, 0), store.WriteOptions{Base: base})
			require.NoError(t, err)
			require.NoError(t, all[3].add(t.Context(), w))
			gate := storetest.NewGate()
			held := storetest.NewFaulty(t, b, storetest.Fault{At: at + 1, Effect: storetest.Hold, Gate: gate})
			reaped := make(chan error)
			go func() {
				_, err := store.New(held, upkeyed).Reap(t.Context(), upkept, store.ReapOptions{Keep: 1})
				reaped <- err
			}()
			<-gate.Reached()
			_, err = w.Commit(t.Context())
			require.NoError(t, err)
			fifth := all[3].changed(9, 40, 4)
			_, err = fifth.commit(t.Context(), s, 0, nil)
			require.NoError(t, err)
			gate.Open()
			require.NoError(t, <-reaped)
			requireRestores(t, b, 0, fifth)
			requireNextWriter(t, b, fifth)
		})
	}
}

// A reader that is in the middle of HEAD's generation ends well, although the next is committed and all else reaped.
func TestReapBesideAReader(t *testing.T) {
	all := ages()
	b := mem.New()
	committed(t, b, all[:3]...)
	gate := storetest.NewGate()
	held := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpGet, Key: "packs/", Effect: storetest.Hold, Gate: gate})
	r := openNewest(t, held)
	done := make(chan error)
	var got memory
	go func() {
		var err error
		got, err = restored(t.Context(), r)
		done <- err
	}()
	<-gate.Reached()
	committed(t, b, all[3])
	report, err := store.New(b, upkeyed).Reap(t.Context(), upkept, store.ReapOptions{Keep: 1, Grace: time.Hour})
	require.NoError(t, err)
	require.Equal(t, 4, report.KeptManifests.Objects)
	gate.Open()
	require.NoError(t, <-done)
	require.True(t, bytes.Equal(all[2].pages, got.pages))
}
