package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// kindOf tells the sentinel that damage to an object must show as.
func kindOf(key string) error {
	switch {
	case strings.Contains(key, "/packs/"):
		return store.ErrPackCorrupt
	case strings.HasSuffix(key, "/manifest"):
		return store.ErrManifestCorrupt
	case strings.HasSuffix(key, "/KEY"):
		return store.ErrKeyCorrupt
	default:
		return store.ErrHeadCorrupt
	}
}

// chain are the generations of a target and what each holds.
type chain struct {
	bucket *mem.Bucket
	want   [][]sample
}

// readAll reads all that can be read, as a process that has just begun, and returns the error of each: both generations,
// and the base. What comes without an error must be what was written.
func (c chain) readAll(t *testing.T) []error {
	t.Helper()
	s := store.New(c.bucket, testRing)
	_, err := s.Base(t.Context(), target)
	errs := []error{err}
	for i, want := range c.want {
		got, _, err := read(t.Context(), s, int64(i+1), 0)
		if err == nil {
			requireSame(t, want, got)
		}
		errs = append(errs, err)
	}
	return errs
}

// requireSeen asks that damage to an object is seen, as what it is. A flip in KEY may also look like another master key.
func (c chain) requireSeen(t *testing.T, key, what string) {
	t.Helper()
	seen := 0
	for _, err := range c.readAll(t) {
		if err == nil {
			continue
		}
		seen++
		if strings.HasSuffix(key, "/KEY") && errors.Is(err, store.ErrWrongKey) {
			continue
		}
		require.ErrorIs(t, err, kindOf(key), what)
		require.ErrorIs(t, err, store.ErrCorrupt, what)
		require.ErrorContains(t, err, key, what)
	}
	require.Positive(t, seen, "%s of %s was not seen", what, key)
}

// smallChain is of two generations whose objects have a few hundred bytes each.
func smallChain(t *testing.T, codec store.Codec) chain {
	t.Helper()
	text := bytes.Repeat([]byte("compressible "), 1000)
	pages := func(head string) []byte { return append([]byte(head), text[:2*page-len(head)]...) }
	c := chain{bucket: mem.New(), want: [][]sample{
		{file("a", text[:600]), inline("i", []byte("inline")), image("1", pages("one"), at(1<<20, 1), at(1<<21, 1))},
		{file("a", text[:600]), inline("i", []byte("more")), image("1", pages("two"), at(1<<20, 1), at(1<<21, 1))},
	}}
	if codec == store.CodecNone { // a block is a block there
		c.want = [][]sample{{file("a", text[:600])}, {file("a", text[:600]), file("b", text[:700])}}
	}
	s := store.New(c.bucket, testRing)
	var base *store.Base
	for i, all := range c.want {
		var err error
		_, base, err = writeDelta(t.Context(), s, meta(int64(i+1), 0), all, store.WriteOptions{Base: base, Codec: codec})
		require.NoError(t, err)
	}
	return c
}

func TestEveryFlippedByteIsSeen(t *testing.T) {
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			c := smallChain(t, codec)
			found := objects(t, c.bucket, "")
			require.Len(t, found, 6, "KEY, HEAD, two manifests, two packs")
			for key, body := range found {
				for i := range body {
					damaged := bytes.Clone(body)
					damaged[i] ^= 1 << (i % 8)
					replace(t, c.bucket, key, damaged)
					c.requireSeen(t, key, fmt.Sprintf("flip of byte %d", i))
				}
				for _, damaged := range [][]byte{nil, body[:1], body[:len(body)/2], body[:len(body)-1], append(bytes.Clone(body), 0)} {
					replace(t, c.bucket, key, damaged)
					c.requireSeen(t, key, fmt.Sprintf("%d bytes instead of %d", len(damaged), len(body)))
				}
				replace(t, c.bucket, key, body)
			}
			for _, err := range c.readAll(t) {
				require.NoError(t, err)
			}
		})
	}
}

// A chain of 40 MiB, damaged at random.
func TestSampledFlipsAreSeen(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	one := []sample{image("1", random(1, 36<<20), at(1<<30, 36<<20/page)), fragmented("2", 2, 500)}
	two := []sample{image("1", with(one[0].content, 100, random(2, 4<<20)), at(1<<30, 36<<20/page)), one[1]}
	_, base, err := writeDelta(t.Context(), s, meta(1, 0), one, store.WriteOptions{Codec: store.CodecS2})
	require.NoError(t, err)
	_, _, err = writeDelta(t.Context(), s, meta(2, 0), two, store.WriteOptions{Base: base, Codec: store.CodecZstd})
	require.NoError(t, err)
	found := objects(t, bucket, "")
	keys := slices.Sorted(maps.Keys(found))
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 500 {
		flip := flipped{Bucket: bucket, key: keys[i%len(keys)], mask: 1 << rng.IntN(8)}
		flip.at = rng.Int64N(int64(len(found[flip.key])))
		err := readDamaged(t, flip, flip.key)
		require.Error(t, err, "flip of byte %d of %s", flip.at, flip.key)
		if !errors.Is(err, store.ErrWrongKey) {
			require.ErrorIs(t, err, kindOf(flip.key))
			require.ErrorContains(t, err, flip.key)
		}
	}
	requireGeneration(t, s, 1, 0, one)
	requireGeneration(t, s, 2, 0, two)
}

// flipped is a bucket in which one byte of an object is another.
type flipped struct {
	store.Bucket
	key  string
	at   int64
	mask byte
}

// Get implements store.Bucket.
func (b flipped) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	stream, err := b.Bucket.Get(ctx, key, offset, length)
	if err != nil || key != b.key || b.at < offset || length >= 0 && b.at >= offset+length {
		return stream, err
	}
	before := make([]byte, b.at-offset+1)
	if _, err := io.ReadFull(stream, before); err != nil {
		return nil, err
	}
	before[len(before)-1] ^= b.mask
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(before), stream), stream}, nil
}

// discard is a sink that keeps nothing.
type discard struct{}

func (discard) Make(store.Entry) error                 { return nil }
func (discard) Open(store.Entry) (store.File, error)   { return discard{}, nil }
func (discard) Finish(store.Entry) error               { return nil }
func (discard) Close() error                           { return nil }
func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// readDamaged reads the generations that an object belongs to.
func readDamaged(t *testing.T, bucket store.Bucket, key string) error {
	t.Helper()
	s := store.New(bucket, testRing)
	for number := int64(2); number >= 1; number-- {
		r, err := s.Open(t.Context(), target, number, 0)
		if err != nil {
			return err
		}
		if !slices.Contains(r.PackKeys(), key) {
			continue
		}
		if err := r.Fetch(discard{}).Run(t.Context()); err != nil {
			return err
		}
	}
	return nil
}

func TestMissingObjects(t *testing.T) {
	c := smallChain(t, store.CodecNone)
	for key, body := range objects(t, c.bucket, "") {
		require.NoError(t, c.bucket.Delete(t.Context(), key))
		want := store.ErrNotFound
		switch {
		case strings.Contains(key, "/packs/"):
			want = store.ErrPackMissing
		case strings.HasSuffix(key, "/KEY"):
			want = store.ErrKeyMissing
		}
		seen := 0
		for _, err := range c.readAll(t) {
			if err != nil {
				seen++
				require.ErrorIs(t, err, want)
				require.NotErrorIs(t, err, store.ErrCorrupt)
				require.ErrorContains(t, err, key)
			}
		}
		require.Positive(t, seen, key)
		replace(t, c.bucket, key, body)
	}
}

// Sealed objects are bound to their place: under another target, number or epoch, or as another pack, they do not open.
func TestMovedObjectsDoNotOpen(t *testing.T) {
	c := smallChain(t, store.CodecZstd)
	s := store.New(c.bucket, testRing)
	found := objects(t, c.bucket, "")
	other := target
	other.Name = "other"
	for key, body := range found {
		replace(t, c.bucket, strings.Replace(key, target.Prefix(), other.Prefix(), 1), body)
	}
	_, err := s.Open(t.Context(), other, 2, 0)
	require.ErrorIs(t, err, store.ErrKeyCorrupt, "the key of another target")

	// All but KEY may come from another target: its objects are under other keys.
	require.NoError(t, c.bucket.Delete(t.Context(), other.Prefix()+"KEY"))
	require.NoError(t, c.bucket.Delete(t.Context(), other.Prefix()+"HEAD"))
	require.NoError(t, s.Fence(t.Context(), other, 0))
	replace(t, c.bucket, other.Prefix()+"HEAD", found[target.Prefix()+"HEAD"])
	_, err = s.Open(t.Context(), other, 2, 0)
	require.ErrorIs(t, err, store.ErrHeadCorrupt)

	gen := target.Prefix() + "gen/"
	one, two := gen+"1-0/manifest", gen+"2-0/manifest"
	replace(t, c.bucket, two, found[one])
	_, err = s.Open(t.Context(), target, 2, 0)
	require.ErrorIs(t, err, store.ErrManifestCorrupt, "another number")
	replace(t, c.bucket, two, found[two])
	replace(t, c.bucket, one, found[two])
	_, err = s.Open(t.Context(), target, 1, 0)
	require.ErrorIs(t, err, store.ErrManifestCorrupt, "another number")
	replace(t, c.bucket, one, found[one])

	packs := slices.Sorted(maps.Keys(objects(t, c.bucket, target.Prefix()+"packs/")))
	require.Len(t, packs, 2)
	for i, key := range packs {
		replace(t, c.bucket, key, found[packs[1-i]])
		c.requireSeen(t, key, "swapped")
		replace(t, c.bucket, key, found[key])
	}
}

// A manifest that HEAD does not name, authentic as it may be, is not the generation.
func TestHeadNamesItsManifest(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	gate := storetest.NewGate()
	hold := storetest.Fault{Op: storetest.OpPut, Key: "/HEAD", At: 1, Effect: storetest.Hold, Gate: gate}
	slow := storetest.NewFaulty(t, bucket, hold)
	done := make(chan error)
	go func() {
		_, err := write(t.Context(), store.New(slow, testRing), 1, 0, smallSamples())
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
	require.ErrorContains(t, err, "not the one that was committed")
}
