package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// crashCase is a write that dies: of generation number, over a bucket that holds those before it.
type crashCase struct {
	name   string
	number int64
	before map[string][]byte
	dying  []sample
	delta  bool
}

func (c crashCase) write(ctx context.Context, s *store.Store) error {
	var opts store.WriteOptions
	var err error
	if c.delta {
		if opts.Base, err = s.Base(ctx, target); err != nil {
			return err
		}
	}
	_, _, err = writeDelta(ctx, s, meta(c.number, 0), c.dying, opts)
	return err
}

// Crash windows of a write: whatever call the process dies at, before or after it has landed, what was committed opens
// whole, and the next writer of the same number goes on from a base that it reads from the bucket.
func TestCrashAtEveryCall(t *testing.T) {
	older := append(smallSamples(), image("1", random(1, 64*page), store.Run{Address: 0x10000, Pages: 64}))
	first := mem.New()
	_, err := write(t.Context(), store.New(first, testRing), 1, 0, older)
	require.NoError(t, err)
	delta := append(smallSamples(), changed(older[len(older)-1], 7, random(2, page)), file("new", random(3, 5*page)))
	cases := []crashCase{
		{"first", 1, nil, older, false},
		{"first of two packs", 1, nil, twoPacks(2), false},
		{"delta", 2, objects(t, first, ""), delta, true},
		{"delta of two packs", 2, objects(t, first, ""), append(twoPacks(2), older[len(older)-1]), true},
		{"second without a base", 2, objects(t, first, ""), delta, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			counting := storetest.NewFaulty(t, bucketOf(t, c.before))
			require.NoError(t, c.write(t.Context(), store.New(counting, testRing)))
			for at := range counting.Calls() {
				for _, effect := range []storetest.Effect{storetest.Fail, storetest.Lose} {
					t.Run(fmt.Sprintf("call %d effect %d", at+1, effect), func(t *testing.T) {
						bucket := bucketOf(t, c.before)
						faulty := storetest.NewFaulty(t, bucket, storetest.Fault{At: at + 1, Effect: effect, Down: true})
						require.ErrorIs(t, c.write(t.Context(), store.New(faulty, testRing)), storetest.ErrInjected)
						requireGoesOn(t, store.New(bucket, testRing), c.number, map[int64][]sample{1: older, c.number: c.dying})
					})
				}
			}
		})
	}
}

// requireGoesOn checks HEAD's generation against what was written under each number, and writes one more.
func requireGoesOn(t *testing.T, s *store.Store, number int64, written map[int64][]sample) {
	t.Helper()
	head, err := s.Head(t.Context(), target)
	if err != nil {
		require.ErrorIs(t, err, store.ErrNotFound)
	}
	require.Contains(t, []int64{number - 1, number}, head.Number)
	next := append([]sample{file("next", random(9, 100))}, smallSamples()...)
	var base *store.Base
	if head.Number > 0 {
		requireGeneration(t, s, head.Number, 0, written[head.Number])
		base, err = s.Base(t.Context(), target)
		require.NoError(t, err)
		next = append(next, written[head.Number][len(written[head.Number])-1])
	}
	gen, _, err := writeDelta(t.Context(), s, meta(head.Number+1, 0), next, store.WriteOptions{Base: base})
	require.NoError(t, err)
	if base != nil {
		require.Equal(t, int64(1), gen.NewBlocks, "all but the new file is in the base")
	}
	requireGeneration(t, s, head.Number+1, 0, next)
	if head.Number > 0 {
		requireGeneration(t, s, head.Number, 0, written[head.Number])
	}
}

// A single failure anywhere, however it ends, never costs more than the try.
func TestOneFailureAnywhere(t *testing.T) {
	older := append(smallSamples(), image("1", random(1, 64*page), store.Run{Address: 0x10000, Pages: 64}))
	first := mem.New()
	_, err := write(t.Context(), store.New(first, testRing), 1, 0, older)
	require.NoError(t, err)
	delta := append(smallSamples(), changed(older[len(older)-1], 7, random(2, page)))
	for _, c := range []crashCase{{"first", 1, nil, older, false}, {"delta", 2, objects(t, first, ""), delta, true}} {
		counting := storetest.NewFaulty(t, bucketOf(t, c.before))
		require.NoError(t, c.write(t.Context(), store.New(counting, testRing)))
		for at := range counting.Calls() {
			for _, effect := range []storetest.Effect{storetest.Fail, storetest.Lose} {
				t.Run(fmt.Sprintf("%s call %d effect %d", c.name, at+1, effect), func(t *testing.T) {
					bucket := bucketOf(t, c.before)
					faulty := storetest.NewFaulty(t, bucket, storetest.Fault{At: at + 1, Effect: effect})
					written := map[int64][]sample{1: older, c.number: c.dying}
					if err := c.write(t.Context(), store.New(faulty, testRing)); err != nil {
						require.ErrorIs(t, err, storetest.ErrInjected)
					} else {
						requireGeneration(t, store.New(bucket, testRing), c.number, 0, c.dying)
					}
					requireGoesOn(t, store.New(bucket, testRing), c.number, written)
				})
			}
		}
	}
}
