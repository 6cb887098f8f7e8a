package store_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestTargetValidate(t *testing.T) {
	require.NoError(t, target.Validate())
	require.Equal(t, "v1/test/default/train-6f1d6c1c-0000-4000-8000-000000000001/", target.Prefix())
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "ü", strings.Repeat("a", 254)} {
		for i := range 4 {
			c := target
			*[]*string{&c.Cluster, &c.Namespace, &c.Name, &c.UID}[i] = bad
			require.ErrorIs(t, c.Validate(), store.ErrInvalid)
			_, err := store.New(mem.New(), testRing).Begin(t.Context(), c, meta(1, 0), store.WriteOptions{})
			require.ErrorIs(t, err, store.ErrInvalid)
		}
	}
}

func TestParseKey(t *testing.T) {
	raw := random(9, 32)
	short := raw[:31]
	cases := []struct {
		name string
		text string
		ok   bool
	}{
		{"raw", string(raw), true},
		{"hex", hex.EncodeToString(raw), true},
		{"hex in capitals with newline", strings.ToUpper(hex.EncodeToString(raw)) + "\n", true},
		{"base64 with newline", base64.StdEncoding.EncodeToString(raw) + "\n", true},
		{"base64 without padding", base64.RawStdEncoding.EncodeToString(raw), true},
		{"base64 for URLs", base64.URLEncoding.EncodeToString(raw), true},
		{"empty", "", false},
		{"short", string(short), false},
		{"short base64", base64.StdEncoding.EncodeToString(short), false},
		{"long", string(raw) + "xx", false},
		{"zeros", string(make([]byte, 32)), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			key, err := store.ParseKey([]byte(c.text))
			if !c.ok {
				require.ErrorIs(t, err, store.ErrInvalid)
				require.ErrorContains(t, err, "make one with")
				return
			}
			require.NoError(t, err)
			require.Equal(t, store.Key(raw), key)
			require.NotContains(t, fmt.Sprintf("%v %s %#v %+v", key, key, key, key), fmt.Sprint(raw[0]))
		})
	}
}

func TestParseKeyring(t *testing.T) {
	one, two := hex.EncodeToString(random(1, 32)), base64.StdEncoding.EncodeToString(random(2, 32))
	raw := bytes.Repeat([]byte("\n\n\n\n\n\n\n\x01"), 4)
	cases := []struct {
		name string
		text string
		want int // keys, or 0 for ErrInvalid
	}{
		{"one", one, 1},
		{"one with a newline", one + "\n", 1},
		{"two", one + "\n" + two, 2},
		{"empty lines and white space", "\n\t" + one + "  \r\n\n" + two + "\n\n", 2},
		{"raw, of newlines mostly", string(raw), 1},
		{"nothing", "", 0},
		{"empty lines", "\n\n", 0},
		{"the same twice", one + "\n" + two + "\n" + one, 0},
		{"one bad line", one + "\nxyz\n", 0},
		{"zeros", one + "\n" + strings.Repeat("00", 32), 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ring, err := store.ParseKeyring([]byte(c.text))
			if c.want == 0 {
				require.ErrorIs(t, err, store.ErrInvalid)
				require.NotContains(t, err.Error(), "xyz")
				return
			}
			require.NoError(t, err)
			require.Len(t, ring, c.want)
			hidden := fmt.Sprintf("%v %s %#v %+v %d %x", ring, ring, ring, ring, len(ring), ring[0])
			require.NotContains(t, hidden, fmt.Sprint(ring[0][:]))
		})
	}
}

func TestWrongKeyIsNamed(t *testing.T) {
	bucket := mem.New()
	_, err := write(t.Context(), store.New(bucket, testRing), 1, 0, smallSamples())
	require.NoError(t, err)
	wrong := store.Keyring{{9}, {10}}
	cases := []struct {
		name string
		call func(context.Context, *store.Store) error
	}{
		{"head", func(ctx context.Context, s *store.Store) error { _, err := s.Head(ctx, target); return err }},
		{"open", func(ctx context.Context, s *store.Store) error { _, err := s.Open(ctx, target, 1, 0); return err }},
		{"base", func(ctx context.Context, s *store.Store) error { _, err := s.Base(ctx, target); return err }},
		{"begin", func(ctx context.Context, s *store.Store) error {
			_, err := s.Begin(ctx, target, meta(2, 0), store.WriteOptions{})
			return err
		}},
		{"fence", func(ctx context.Context, s *store.Store) error { return s.Fence(ctx, target, 1) }},
		{"rotate", func(ctx context.Context, s *store.Store) error { _, err := s.RotateKey(ctx, target); return err }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.call(t.Context(), store.New(bucket, wrong))
			require.ErrorIs(t, err, store.ErrWrongKey)
			require.NotErrorIs(t, err, store.ErrCorrupt)
			for _, key := range append(wrong, testRing...) {
				require.ErrorContains(t, err, key.ID().String())
			}
		})
	}
	_, err = store.New(mem.New(), nil).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.ErrorIs(t, err, store.ErrInvalid, "no key at all")
}

func TestKeyIsGone(t *testing.T) {
	bucket := mem.New()
	_, err := write(t.Context(), store.New(bucket, testRing), 1, 0, smallSamples())
	require.NoError(t, err)
	key := objects(t, bucket, target.Prefix()+"KEY")
	require.NoError(t, bucket.Delete(t.Context(), target.Prefix()+"KEY"))
	s := store.New(bucket, testRing)
	_, err = s.Head(t.Context(), target)
	require.ErrorIs(t, err, store.ErrKeyMissing)
	require.ErrorContains(t, err, target.Prefix()+"KEY")
	_, err = s.Begin(t.Context(), target, meta(2, 0), store.WriteOptions{})
	require.ErrorIs(t, err, store.ErrKeyMissing)
	require.ErrorIs(t, s.Fence(t.Context(), target, 1), store.ErrKeyMissing)
	require.Empty(t, objects(t, bucket, target.Prefix()+"KEY"), "no other key takes its place")
	replace(t, bucket, target.Prefix()+"KEY", key[target.Prefix()+"KEY"])
	requireGeneration(t, s, 1, 0, smallSamples())
}

var (
	oldKey, newKey   = testRing[0], store.Key{7}
	oldRing, newRing = store.Keyring{oldKey}, store.Keyring{newKey}
	rotating         = store.Keyring{newKey, oldKey}
)

func TestRotateKey(t *testing.T) {
	bucket := mem.New()
	before := store.New(bucket, oldRing)
	_, err := before.RotateKey(t.Context(), target)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, base, err := writeDelta(t.Context(), before, meta(1, 0), smallSamples(), store.WriteOptions{})
	require.NoError(t, err)
	w, err := before.Begin(t.Context(), target, meta(2, 0), store.WriteOptions{Base: base})
	require.NoError(t, err)

	s := store.New(bucket, rotating)
	for _, want := range []bool{true, false} {
		rotated, err := s.RotateKey(t.Context(), target)
		require.NoError(t, err)
		require.Equal(t, want, rotated)
	}
	require.NoError(t, add(t.Context(), w, smallSamples()))
	_, err = w.Commit(t.Context())
	require.NoError(t, err, "a writer from before goes on")
	for _, ring := range []store.Keyring{rotating, newRing, {oldKey, newKey}} {
		requireGeneration(t, store.New(bucket, ring), 1, 0, smallSamples())
		requireGeneration(t, store.New(bucket, ring), 2, 0, smallSamples())
	}
	requireGeneration(t, before, 2, 0, smallSamples())
	_, err = store.New(bucket, oldRing).Head(t.Context(), target)
	require.ErrorIs(t, err, store.ErrWrongKey)
	_, err = store.New(bucket, nil).RotateKey(t.Context(), target)
	require.ErrorIs(t, err, store.ErrInvalid)
}

// Whatever call a rotation dies at, the target opens with either ring that has the key it is under, and with both.
func TestCrashOfARotation(t *testing.T) {
	prepared := mem.New()
	want := twoGenerations(t, prepared)
	before := objects(t, prepared, "")
	counting := storetest.NewFaulty(t, bucketOf(t, before))
	_, err := store.New(counting, rotating).RotateKey(t.Context(), target)
	require.NoError(t, err)
	for at := range counting.Calls() {
		for _, effect := range []storetest.Effect{storetest.Fail, storetest.Lose} {
			for _, down := range []bool{true, false} {
				t.Run(fmt.Sprintf("call %d effect %d down %v", at+1, effect, down), func(t *testing.T) {
					bucket := bucketOf(t, before)
					faulty := storetest.NewFaulty(t, bucket, storetest.Fault{At: at + 1, Effect: effect, Down: down})
					rotated, err := store.New(faulty, rotating).RotateKey(t.Context(), target)
					if down {
						require.ErrorIs(t, err, storetest.ErrInjected)
					}
					requireGeneration(t, store.New(bucket, rotating), 2, 0, want)
					requireGeneration(t, store.New(bucket, store.Keyring{oldKey, newKey}), 2, 0, want)
					_, withOld := store.New(bucket, oldRing).Head(t.Context(), target)
					_, withNew := store.New(bucket, newRing).Head(t.Context(), target)
					require.NotEqual(t, withOld == nil, withNew == nil, "one of them opens it")
					require.Equal(t, rotated, rotated && withNew == nil)
					_, err = store.New(bucket, rotating).RotateKey(t.Context(), target)
					require.NoError(t, err)
					requireGeneration(t, store.New(bucket, newRing), 2, 0, want)
				})
			}
		}
	}
}

func TestRacingRotations(t *testing.T) {
	bucket := mem.New()
	want := twoGenerations(t, bucket)
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			if _, err := store.New(bucket, rotating).RotateKey(t.Context(), target); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	requireGeneration(t, store.New(bucket, newRing), 2, 0, want)
}
