package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestRemove(t *testing.T) {
	b := mem.New()
	committed(t, b, ages()...)
	foreign := upkept.Prefix() + "note.txt"
	_, err := b.Put(t.Context(), foreign, []byte("x"), store.Condition{})
	require.NoError(t, err)
	watched := storetest.NewFaulty(t, b)
	require.NoError(t, store.New(watched, nil).Remove(t.Context(), upkept), "it takes no key")
	require.Equal(t, []string{"note.txt"}, upkeepKeys(t, b))
	var order []string
	for _, call := range watched.Calls() {
		if call.Op == storetest.OpDelete {
			order = append(order, strings.Split(strings.TrimPrefix(call.Key, upkept.Prefix()), "/")[0])
		}
	}
	require.Equal(t, "HEAD KEY gen gen gen gen packs packs packs packs", strings.Join(order, " "))
	require.NoError(t, store.New(b, nil).Remove(t.Context(), upkept), "again")
	requireNewBeginning(t, b)
}

// requireNewBeginning writes generation 1.
func requireNewBeginning(t *testing.T, b store.Bucket) {
	t.Helper()
	first := newMemory(20)
	committed(t, b, first)
	requireRestores(t, b, 1, first)
}

func TestCrashOfRemove(t *testing.T) {
	all := ages()
	full := mem.New()
	committed(t, full, all[:2]...)
	prepare := func(t *testing.T) *mem.Bucket { return copied(t, full) }
	act := func(ctx context.Context, s *store.Store) error { return s.Remove(ctx, upkept) }
	crashEverywhere(t, prepare, act, func(t *testing.T, b *mem.Bucket) {
		s := store.New(b, upkeyed)
		_, err := s.Head(t.Context(), upkept)
		if err == nil {
			requireRestores(t, b, 0, all[1])
		} else {
			require.True(t, errors.Is(err, store.ErrNotFound), err)
		}
		require.NoError(t, s.Remove(t.Context(), upkept))
		require.Empty(t, upkeepKeys(t, b))
		requireNewBeginning(t, b)
	})
}

// A Store that has read the target does not write with keys that are gone.
func TestRemoveForgetsKeys(t *testing.T) {
	b := mem.New()
	s := store.New(b, upkeyed)
	m := newMemory(20)
	_, err := m.commit(t.Context(), s, 0, nil)
	require.NoError(t, err)
	require.NoError(t, s.Remove(t.Context(), upkept))
	_, err = m.commit(t.Context(), s, 0, nil)
	require.NoError(t, err)
	requireRestores(t, b, 1, m)
}
