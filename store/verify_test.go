package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func openNewest(t *testing.T, b store.Bucket) *store.Reader {
	t.Helper()
	s := store.New(b, upkeyed)
	head, err := s.Head(t.Context(), upkept)
	require.NoError(t, err)
	r, err := s.Open(t.Context(), upkept, head.Number, head.WrittenEpoch)
	require.NoError(t, err)
	return r
}

// fivePacks is a generation of as many packs, one of each number.
func fivePacks(t *testing.T) *mem.Bucket {
	t.Helper()
	b := mem.New()
	m := newMemory(64)
	committed(t, b, m, m.changed(1, 10, 5), m.changed(1, 10, 5).changed(2, 20, 5))
	m = m.changed(1, 10, 5).changed(2, 20, 5)
	committed(t, b, m.changed(3, 30, 5), m.changed(3, 30, 5).changed(4, 40, 5))
	require.Len(t, packsOf(t, b), 5)
	return b
}

func TestVerify(t *testing.T) {
	b := fivePacks(t)
	var done, total int64
	report, err := openNewest(t, b).Verify(t.Context(), store.VerifyOptions{Progress: func(d, of int64) { done, total = d, of }})
	require.NoError(t, err)
	require.Empty(t, report.Faults)
	require.Equal(t, []int{5, 5}, []int{report.Packs, report.PacksRead})
	require.Equal(t, int64(63+4+20), report.Blocks)
	require.Equal(t, report.Bytes, done)
	require.Equal(t, done, total)
}

func TestVerifyFindsEveryFault(t *testing.T) {
	b := fivePacks(t)
	keys := packsOf(t, b)
	gone, cut, frame, tail := upkept.Prefix()+keys[0], upkept.Prefix()+keys[1], upkept.Prefix()+keys[2], upkept.Prefix()+keys[4]
	require.NoError(t, b.Delete(t.Context(), gone))
	_, err := b.Put(t.Context(), cut, objectBytes(t, b, cut)[:1000], store.Condition{})
	require.NoError(t, err)
	flip(t, b, frame, 100)
	flip(t, b, tail, -1)
	want := map[string]error{
		gone: store.ErrPackMissing, cut: store.ErrPackCorrupt, frame: store.ErrPackCorrupt, tail: store.ErrPackCorrupt,
	}
	report, err := openNewest(t, b).Verify(t.Context(), store.VerifyOptions{})
	require.NoError(t, err)
	require.Len(t, report.Faults, len(want))
	for _, fault := range report.Faults {
		require.ErrorIs(t, fault.Err, want[fault.Key], fault.Key)
	}
}

// Every flipped byte of a pack is found.
func TestVerifyFindsEveryFlip(t *testing.T) {
	b := mem.New()
	m := memory{pages: noise(3, store.BlockSize), file: []byte("x")}
	committed(t, b, m)
	key := upkept.Prefix() + packsOf(t, b)[0]
	r := openNewest(t, b)
	size := len(objectBytes(t, b, key))
	for at := 0; at < size; at += 1 + size/700 {
		flip(t, b, key, at)
		report, err := r.Verify(t.Context(), store.VerifyOptions{})
		require.NoError(t, err)
		require.Len(t, report.Faults, 1, at)
		flip(t, b, key, at)
	}
}

func TestVerifySample(t *testing.T) {
	b := fivePacks(t)
	cases := []struct {
		sample float64
		want   int
	}{{0.01, 1}, {0.4, 2}, {0.5, 3}, {1, 5}, {0, 5}}
	for _, c := range cases {
		report, err := openNewest(t, b).Verify(t.Context(), store.VerifyOptions{Sample: c.sample})
		require.NoError(t, err)
		require.Equal(t, c.want, report.PacksRead, "%v", c.sample)
	}
	// The footers of those that are not chosen are read all the same.
	for _, key := range packsOf(t, b) {
		flip(t, b, upkept.Prefix()+key, -60)
	}
	report, err := openNewest(t, b).Verify(t.Context(), store.VerifyOptions{Sample: 0.2})
	require.NoError(t, err)
	require.Len(t, report.Faults, 5)
	_, err = openNewest(t, b).Verify(t.Context(), store.VerifyOptions{Sample: 1.1})
	require.ErrorIs(t, err, store.ErrInvalid)
}

func TestVerifySparesSharedPacks(t *testing.T) {
	b := fivePacks(t)
	s := store.New(b, upkeyed)
	var checked store.Checked
	read := 0
	for number := int64(5); number >= 1; number-- {
		r, err := s.Open(t.Context(), upkept, number, 0)
		require.NoError(t, err)
		report, err := r.Verify(t.Context(), store.VerifyOptions{Checked: &checked})
		require.NoError(t, err)
		require.Empty(t, report.Faults)
		read += report.PacksRead
	}
	require.Equal(t, 5, read)
}

func TestVerifySaysWhereItCouldNotLook(t *testing.T) {
	b := fivePacks(t)
	faulty := storetest.NewFaulty(t, b, storetest.Fault{Op: storetest.OpGet, Key: "packs/"})
	_, err := openNewest(t, faulty).Verify(t.Context(), store.VerifyOptions{})
	require.ErrorIs(t, err, storetest.ErrInjected)
}
