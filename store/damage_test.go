package store_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// objects reads a bucket's objects below a prefix.
func objects(t *testing.T, bucket store.Bucket, prefix string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for info, err := range bucket.List(t.Context(), prefix) {
		require.NoError(t, err)
		stream, err := bucket.Get(t.Context(), info.Key, 0, -1)
		require.NoError(t, err)
		all[info.Key], err = io.ReadAll(stream)
		require.NoError(t, err)
	}
	return all
}

func replace(t *testing.T, bucket store.Bucket, key string, body []byte) {
	t.Helper()
	_, err := bucket.Put(t.Context(), key, body, store.Condition{})
	require.NoError(t, err)
}

// kindOf tells the sentinel that damage to an object must show as.
func kindOf(key string) error {
	switch {
	case strings.Contains(key, "/packs/"):
		return store.ErrPackCorrupt
	case strings.HasSuffix(key, "/manifest"):
		return store.ErrManifestCorrupt
	default:
		return store.ErrHeadCorrupt
	}
}

func requireDamageSeen(t *testing.T, s *store.Store, key, what string) {
	t.Helper()
	got, _, err := read(t.Context(), s, 1, 0)
	require.ErrorIs(t, err, kindOf(key), what)
	require.ErrorIs(t, err, store.ErrCorrupt, what)
	require.ErrorContains(t, err, key, what)
	for _, sample := range got {
		require.Empty(t, sample.content, "bytes of a damaged generation came out")
	}
}

func TestEveryFlippedByteIsSeen(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	all := []sample{file("a", []byte(strings.Repeat("compressible ", 20))), file("b", random(1, 100))}
	_, err := write(t.Context(), s, 1, 0, all)
	require.NoError(t, err)
	found := objects(t, bucket, "")
	require.Len(t, found, 3)
	for key, body := range found {
		for i := range body {
			for _, mask := range []byte{0x01, 0x80} {
				damaged := bytes.Clone(body)
				damaged[i] ^= mask
				replace(t, bucket, key, damaged)
				requireDamageSeen(t, s, key, "flipped")
			}
		}
		for _, damaged := range [][]byte{nil, body[:1], body[:len(body)/2], body[:len(body)-1], append(bytes.Clone(body), 0)} {
			replace(t, bucket, key, damaged)
			requireDamageSeen(t, s, key, "another length")
		}
		replace(t, bucket, key, body)
	}
	requireGeneration(t, s, 1, 0, all)
}

func TestDamageInTheSecondPack(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	_, err := write(t.Context(), s, 1, 0, twoPacks(1))
	require.NoError(t, err)
	packs := objects(t, bucket, target.Prefix()+"packs/")
	require.Len(t, packs, 2)
	for key, body := range packs {
		damaged := bytes.Clone(body)
		damaged[len(body)/2]++
		replace(t, bucket, key, damaged)
		_, _, err := read(t.Context(), s, 1, 0)
		require.ErrorIs(t, err, store.ErrPackCorrupt)
		require.NotErrorIs(t, err, store.ErrManifestCorrupt)
		require.ErrorContains(t, err, key)

		require.NoError(t, bucket.Delete(t.Context(), key))
		_, _, err = read(t.Context(), s, 1, 0)
		require.ErrorIs(t, err, store.ErrPackMissing)
		require.NotErrorIs(t, err, store.ErrCorrupt)
		require.ErrorContains(t, err, key)
		replace(t, bucket, key, body)
	}
	requireGeneration(t, s, 1, 0, twoPacks(1))
}

// An error that fn swallows still ends Fetch.
func TestFetchDoesNotForgetDamage(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	_, err := write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
	for key := range objects(t, bucket, target.Prefix()+"packs/") {
		require.NoError(t, bucket.Delete(t.Context(), key))
	}
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	err = r.Fetch(t.Context(), func(_ store.Entry, content io.Reader) error {
		_, _ = io.Copy(io.Discard, content)
		return nil
	})
	require.ErrorIs(t, err, store.ErrPackMissing)
}

func TestManifestMissing(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	_, err := write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
	key := target.Prefix() + "gen/1-0/manifest"
	require.NoError(t, bucket.Delete(t.Context(), key))
	_, err = s.Open(t.Context(), target, 1, 0)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorContains(t, err, key)
}

func TestWrongKeyIsNamed(t *testing.T) {
	bucket := mem.New()
	_, err := write(t.Context(), store.New(bucket, testKey), 1, 0, smallSamples())
	require.NoError(t, err)
	s := store.New(bucket, store.Key{9})
	cases := []struct {
		name string
		call func(context.Context) error
	}{
		{"head", func(ctx context.Context) error { _, err := s.Head(ctx, target); return err }},
		{"open", func(ctx context.Context) error { _, err := s.Open(ctx, target, 1, 0); return err }},
		{"begin", func(ctx context.Context) error { _, err := s.Begin(ctx, target, meta(2, 0)); return err }},
		{"fence", func(ctx context.Context) error { return s.Fence(ctx, target, 1) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.call(t.Context())
			require.ErrorIs(t, err, store.ErrWrongKey)
			require.NotErrorIs(t, err, store.ErrCorrupt)
		})
	}
}

// Sealed objects are bound to their place: under another target, number or epoch, or as another pack, they do not open.
func TestMovedObjectsDoNotOpen(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	for number := int64(1); number <= 3; number++ {
		_, err := write(t.Context(), s, number, 0, []sample{file("a", random(byte(number), 100))})
		require.NoError(t, err)
	}
	other := target
	other.Name = "other"
	for key, body := range objects(t, bucket, "") {
		replace(t, bucket, strings.Replace(key, target.Prefix(), other.Prefix(), 1), body)
	}
	_, err := s.Open(t.Context(), other, 3, 0)
	require.ErrorIs(t, err, store.ErrWrongKey, "another target has other keys")

	gen := target.Prefix() + "gen/"
	manifests := objects(t, bucket, gen)
	replace(t, bucket, gen+"2-0/manifest", manifests[gen+"1-0/manifest"])
	_, err = s.Open(t.Context(), target, 2, 0)
	require.ErrorIs(t, err, store.ErrManifestCorrupt, "another number")
	replace(t, bucket, gen+"2-1/manifest", manifests[gen+"2-0/manifest"])
	_, err = s.Open(t.Context(), target, 2, 1)
	require.ErrorIs(t, err, store.ErrManifestCorrupt, "another epoch")

	packs := objects(t, bucket, target.Prefix()+"packs/")
	var first []byte
	for key, body := range packs {
		if first == nil {
			first = body
			continue
		}
		replace(t, bucket, key, first)
	}
	for _, number := range []int64{1, 3} {
		_, _, err = read(t.Context(), s, number, 0)
		if err == nil {
			continue // the one whose pack was taken
		}
		require.ErrorIs(t, err, store.ErrPackCorrupt)
	}
}

// A manifest that HEAD does not name, authentic as it may be, is not the generation.
func TestHeadNamesItsManifest(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	gate := storetest.NewGate()
	hold := storetest.Fault{Op: storetest.OpPut, Key: "/HEAD", At: 1, Effect: storetest.Hold, Gate: gate}
	slow := storetest.NewFaulty(t, bucket, hold)
	done := make(chan error)
	go func() {
		_, err := write(t.Context(), store.New(slow, testKey), 1, 0, smallSamples())
		done <- err
	}()
	<-gate.Reached()
	key := target.Prefix() + "gen/1-0/manifest"
	authentic := objects(t, bucket, key)[key]
	_, err := write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
	gate.Open()
	require.ErrorIs(t, <-done, store.ErrFenced)
	replace(t, bucket, key, authentic)
	_, err = s.Open(t.Context(), target, 1, 0)
	require.ErrorIs(t, err, store.ErrManifestCorrupt)
	require.ErrorContains(t, err, "not the one that HEAD names")
}
