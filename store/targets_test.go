package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestParseTarget(t *testing.T) {
	const uuid = "6f1d6c1c-0000-4000-8000-00000000000a"
	cases := []struct {
		name, text string
		want       store.Target
	}{
		{"uuid", "c/ns/name-" + uuid, store.Target{Cluster: "c", Namespace: "ns", Name: "name", UID: uuid}},
		{"name with dashes", "c/ns/a-b-c-" + uuid, store.Target{Cluster: "c", Namespace: "ns", Name: "a-b-c", UID: uuid}},
		{"other uid", "c/ns/a-b-7", store.Target{Cluster: "c", Namespace: "ns", Name: "a-b", UID: "7"}},
		{"nearly a uuid", "c/ns/n-" + uuid[:35] + "x", store.Target{Cluster: "c", Namespace: "ns", Name: "n-" + uuid[:23], UID: uuid[24:35] + "x"}},
		{"as a key", "v1/c/ns/name-" + uuid + "/", store.Target{Cluster: "c", Namespace: "ns", Name: "name", UID: uuid}},
		{"cluster v1", "v1/ns/name-1", store.Target{Cluster: "v1", Namespace: "ns", Name: "name", UID: "1"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := store.ParseTarget(c.text)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			again, err := store.ParseTarget(got.String())
			require.NoError(t, err)
			require.Equal(t, got, again)
		})
	}
	for _, text := range []string{"", "c", "c/ns", "c/ns/name", "c/ns/-" + uuid, "c/../a-b", "a/b/c-d/e", "v2/a/b/c-d"} {
		_, err := store.ParseTarget(text)
		require.ErrorIs(t, err, store.ErrInvalid, text)
	}
}

// What parses names the same objects when it is printed and parsed again.
func FuzzParseTarget(f *testing.F) {
	f.Add("c/ns/name-6f1d6c1c-0000-4000-8000-00000000000a")
	f.Add("v1/c/ns/a-b/")
	f.Add("v1/v1/v1/v1-v1")
	f.Fuzz(func(t *testing.T, text string) {
		target, err := store.ParseTarget(text)
		if err != nil {
			require.ErrorIs(t, err, store.ErrInvalid)
			return
		}
		require.NoError(t, store.ValidateKey(target.Prefix()+"HEAD"))
		again, err := store.ParseTarget(target.String())
		require.NoError(t, err)
		require.Equal(t, target, again)
	})
}

func TestTargets(t *testing.T) {
	b := mem.New()
	objects := []string{
		"v1/a/ns/x-1/HEAD", "v1/a/ns/x-1/gen/1-0/manifest", "v1/a/ns/x-1/packs/01ARZ3NDEKTSV4RRFFQ69G5FAV",
		"v1/a/ns/y-1/KEY",
		"v1/b/ns/x-1/packs/01ARZ3NDEKTSV4RRFFQ69G5FAV",
		"v1/b/ns/y-1/gen/7-3/manifest",
		"v1/b/other/z-1/HEAD",
		// none of the store's
		"v1/b/ns/foreign-1/HEAD.bak", "v1/b/ns/foreign-1/gen/07-3/manifest", "v1/b/ns/foreign-1/gen/1-0/manifest/x",
		"v1/b/ns/foreign-1/packs/x", "v1/b/ns/foreign-1/gen/0-0/manifest", "v1/HEAD", "v1/b/HEAD", "other/b/ns/x-1/HEAD",
		"v1/b/ns/foreign/HEAD", "v1/b/ns/foreign-1/packs/01arz3ndektsv4rrffq69g5fav",
	}
	for _, key := range objects {
		_, err := b.Put(t.Context(), key, []byte("x"), store.Condition{})
		require.NoError(t, err)
	}
	cases := []struct {
		prefix string
		want   string
	}{
		{"", "a/ns/x-1 a/ns/y-1 b/ns/x-1 b/ns/y-1 b/other/z-1"},
		{"b/", "b/ns/x-1 b/ns/y-1 b/other/z-1"},
		{"b/ns/x", "b/ns/x-1"},
		{"c", ""},
	}
	for _, c := range cases {
		t.Run(c.prefix, func(t *testing.T) {
			var got []string
			for target, err := range store.New(b, nil).Targets(t.Context(), c.prefix) {
				require.NoError(t, err)
				got = append(got, target.String())
			}
			require.Equal(t, c.want, strings.Join(got, " "))
		})
	}
	faulty := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpList})
	for _, err := range store.New(faulty, nil).Targets(t.Context(), "") {
		require.ErrorIs(t, err, storetest.ErrInjected)
	}
}

func TestGenerationsAndUsage(t *testing.T) {
	first := newMemory(64)
	second := first.changed(1, 20, 10)
	b := mem.New()
	committed(t, b, first, second)
	s := store.New(b, upkeyed)
	generations, err := s.Generations(t.Context(), upkept)
	require.NoError(t, err)
	require.Len(t, generations, 2)
	newest, oldest := generations[0], generations[1]
	require.Equal(t, upkeepMeta(2, 0), newest.Meta)
	require.Equal(t, []int64{2, 1}, []int64{newest.Number, oldest.Number})
	require.Equal(t, int64(63+4+10), newest.Blocks)
	require.Equal(t, int64(63+4), newest.LiveBlocks)
	require.Equal(t, []int{2, 1, 3}, []int{newest.Packs, newest.OwnPacks, newest.Entries})
	require.Equal(t, int64(len(first.pages)+len(first.file)+4), newest.ContentBytes)
	require.Equal(t, int64(63+4), oldest.LiveBlocks)
	require.Equal(t, oldest.PackBytes, oldest.LiveBytes)
	require.Equal(t, oldest.PackBytes, newest.PackBytes-newest.OwnPackBytes)
	require.Greater(t, newest.ReadAmplification(), 1.1)

	// An open writer's pack, a dead one, an orphan, and something foreign.
	open, err := s.Begin(t.Context(), upkept, upkeepMeta(3, 0), store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, open.AddPages(t.Context(), "t", 0, noise(5, 17<<20)))
	dead := "packs/" + strings.Repeat("0", 26)
	_, err = b.Put(t.Context(), upkept.Prefix()+dead, []byte("no pack"), store.Condition{})
	require.NoError(t, err)
	_, err = b.Put(t.Context(), upkept.Prefix()+"note.txt", []byte("x"), store.Condition{})
	require.NoError(t, err)
	require.NoError(t, b.Delete(t.Context(), upkept.Prefix()+"gen/1-0/manifest"))
	waitForPacks(t, b, 4)
	usage, err := store.New(b, upkeyed).Usage(t.Context(), upkept)
	require.NoError(t, err)
	counts := func(u store.Usage) string {
		return fmt.Sprint(u.Head.Objects, u.Key.Objects, u.Manifests.Objects, u.Orphans.Objects, u.LivePacks.Objects,
			u.OpenPacks.Objects, u.DeadPacks.Objects, u.Unclassified.Objects, u.Foreign.Objects)
	}
	require.Equal(t, "1 1 1 0 2 1 0 1 1", counts(usage))
	require.Equal(t, newest.PackBytes, usage.RestoreBytes)
	require.Equal(t, newest.LiveBytes, usage.LiveBytes)
	require.Equal(t, len(upkeepKeys(t, b)), usage.Total().Objects)
	usage, err = store.New(b, nil).Usage(t.Context(), upkept)
	require.NoError(t, err)
	require.Equal(t, "1 1 0 0 0 0 0 5 1", counts(usage), "without a key")
	open.Abort(t.Context())
}

// waitForPacks returns once the bucket has that many; the Writer puts them by itself.
func waitForPacks(t *testing.T, b store.Bucket, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30e9)
	defer cancel()
	for len(packsOf(t, b)) < n {
		require.NoError(t, ctx.Err())
	}
}
