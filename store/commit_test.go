package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// twoPacks is content that needs two packs, so that crashes fall between them too.
func twoPacks(seed byte) []sample {
	return append(smallSamples(), file("criu/other", random(seed, 17<<20)))
}

// A single fault that passes is not seen by the caller, or costs no more than the try.
func TestLostReplies(t *testing.T) {
	cases := []struct {
		name  string
		fault storetest.Fault
	}{
		{"KEY put lost", storetest.Fault{Op: storetest.OpPut, Key: "/KEY", At: 1, Effect: storetest.Lose}},
		{"KEY put failed", storetest.Fault{Op: storetest.OpPut, Key: "/KEY", At: 1, Effect: storetest.Fail}},
		{"pack put lost", storetest.Fault{Op: storetest.OpPut, Key: "packs/", At: 1, Effect: storetest.Lose}},
		{"pack put failed", storetest.Fault{Op: storetest.OpPut, Key: "packs/", At: 2, Effect: storetest.Fail}},
		{"manifest put lost", storetest.Fault{Op: storetest.OpPut, Key: "/manifest", At: 1, Effect: storetest.Lose}},
		{"manifest put failed", storetest.Fault{Op: storetest.OpPut, Key: "/manifest", At: 1, Effect: storetest.Fail}},
		{"HEAD put lost", storetest.Fault{Op: storetest.OpPut, Key: "/HEAD", At: 1, Effect: storetest.Lose}},
		{"HEAD put failed", storetest.Fault{Op: storetest.OpPut, Key: "/HEAD", At: 1, Effect: storetest.Fail}},
		{"manifest not read back at once", storetest.Fault{Op: storetest.OpGet, Key: "/manifest", At: 1, Effect: storetest.Fail}},
	}
	for _, c := range cases {
		for number := int64(1); number <= 2; number++ {
			if number == 2 && c.fault.Key == "/KEY" {
				continue // it is there
			}
			t.Run(fmt.Sprintf("%s, generation %d", c.name, number), func(t *testing.T) {
				bucket := mem.New()
				if number == 2 {
					_, err := write(t.Context(), store.New(bucket, testRing), 1, 0, smallSamples())
					require.NoError(t, err)
				}
				s := store.New(storetest.NewFaulty(t, bucket, c.fault), testRing)
				_, err := write(t.Context(), s, number, 0, twoPacks(1))
				require.NoError(t, err)
				requireGeneration(t, s, number, 0, twoPacks(1))
			})
		}
	}
}

// repeating tries every put twice, as an HTTP client does whose first answer was lost: the second may say 412.
type repeating struct{ store.Bucket }

// Put implements store.Bucket.
func (r repeating) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	_, _ = r.Bucket.Put(ctx, key, body, cond)
	return r.Bucket.Put(ctx, key, body, cond)
}

func TestOwnFirstTryLanded(t *testing.T) {
	s := store.New(repeating{mem.New()}, testRing)
	for number := int64(1); number <= 3; number++ {
		_, err := write(t.Context(), s, number, number, twoPacks(byte(number)))
		require.NoError(t, err)
		requireGeneration(t, s, number, number, twoPacks(byte(number)))
		require.NoError(t, s.Fence(t.Context(), target, number+1))
	}
}

// The race without an orphan is in storetest, for every kind of bucket.
func TestRacingWritersOverAnOrphan(t *testing.T) {
	bucket := mem.New()
	dying := storetest.NewFaulty(t, bucket, storetest.Fault{Op: storetest.OpPut, Key: "HEAD", At: 1, Down: true})
	_, err := write(t.Context(), store.New(dying, testRing), 1, 0, smallSamples())
	require.ErrorIs(t, err, storetest.ErrInjected)
	s := store.New(bucket, testRing)
	winners := race(t, s, 64)
	require.Len(t, winners, 1)
	requireGeneration(t, s, 1, 0, []sample{file("by", []byte(winners[0]))})
}

// race lets n writers write generation 1 and returns those that won. Every loser must be told by ErrFenced.
func race(t *testing.T, s *store.Store, n int) []string {
	t.Helper()
	var mu sync.Mutex
	var winners []string
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			me := fmt.Sprintf("writer %d", i)
			_, err := write(t.Context(), s, 1, 0, []sample{file("by", []byte(me))})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners = append(winners, me)
			} else if !errors.Is(err, store.ErrFenced) {
				t.Errorf("%s: %v", me, err)
			}
		})
	}
	running.Wait()
	return winners
}

// A slow writer has put its manifest and stands before HEAD; the next takes the number over; the slow one wakes up.
func TestTakenOverWriterCannotCommit(t *testing.T) {
	for _, held := range []string{"/HEAD", "/manifest"} {
		t.Run("held at "+held, func(t *testing.T) {
			bucket := mem.New()
			_, err := write(t.Context(), store.New(bucket, testRing), 1, 0, smallSamples())
			require.NoError(t, err)
			gate := storetest.NewGate()
			hold := storetest.Fault{Op: storetest.OpPut, Key: held, At: 1, Effect: storetest.Hold, Gate: gate}
			slow := storetest.NewFaulty(t, bucket, hold)
			slowDone := make(chan error)
			go func() {
				_, err := write(t.Context(), store.New(slow, testRing), 2, 0, twoPacks(1))
				slowDone <- err
			}()
			<-gate.Reached()
			s := store.New(bucket, testRing)
			_, err = write(t.Context(), s, 2, 0, twoPacks(2))
			require.NoError(t, err)
			gate.Open()
			require.ErrorIs(t, <-slowDone, store.ErrFenced)
			requireGeneration(t, s, 2, 0, twoPacks(2))
		})
	}
}

func TestBeginRefusesOthersNumbersAndEpochs(t *testing.T) {
	s := store.New(mem.New(), testRing)
	_, err := write(t.Context(), s, 1, 5, smallSamples())
	require.NoError(t, err)
	cases := []struct {
		name          string
		number, epoch int64
		want          error
	}{
		{"number taken", 1, 5, store.ErrFenced},
		{"number skipped", 3, 5, store.ErrFenced},
		{"older epoch", 2, 4, store.ErrFenced},
		{"number zero", 0, 5, store.ErrInvalid},
		{"negative epoch", 2, -1, store.ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.Begin(t.Context(), target, meta(c.number, c.epoch), store.WriteOptions{})
			require.ErrorIs(t, err, c.want)
		})
	}
	_, err = write(t.Context(), s, 2, 6, smallSamples())
	require.NoError(t, err)
}

func TestFence(t *testing.T) {
	s := store.New(mem.New(), testRing)
	_, err := write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
	w, err := s.Begin(t.Context(), target, meta(2, 0), store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, s.Fence(t.Context(), target, 1))
	require.NoError(t, s.Fence(t.Context(), target, 1), "again")
	_, err = w.Commit(t.Context())
	require.ErrorIs(t, err, store.ErrFenced)
	w.Abort(t.Context())
	require.ErrorIs(t, s.Fence(t.Context(), target, 0), store.ErrFenced)
	head, err := s.Head(t.Context(), target)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 1, 0}, []int64{head.Number, head.Epoch, head.WrittenEpoch})
	requireGeneration(t, s, 1, 0, smallSamples())
	_, err = write(t.Context(), s, 2, 0, smallSamples())
	require.ErrorIs(t, err, store.ErrFenced)
	_, err = write(t.Context(), s, 2, 1, twoPacks(4))
	require.NoError(t, err)
	requireGeneration(t, s, 2, 1, twoPacks(4))
}

func TestFenceBeforeTheFirstGeneration(t *testing.T) {
	s := store.New(mem.New(), testRing)
	require.NoError(t, s.Fence(t.Context(), target, 3))
	head, err := s.Head(t.Context(), target)
	require.NoError(t, err)
	require.Zero(t, head.Number)
	_, err = write(t.Context(), s, 1, 2, smallSamples())
	require.ErrorIs(t, err, store.ErrFenced)
	_, err = write(t.Context(), s, 1, 3, smallSamples())
	require.NoError(t, err)
}

func TestRacingFencesAndCommits(t *testing.T) {
	s := store.New(mem.New(), testRing)
	_, err := write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
	var running sync.WaitGroup
	for epoch := int64(1); epoch <= 8; epoch++ {
		running.Go(func() {
			if err := s.Fence(t.Context(), target, epoch); err != nil && !errors.Is(err, store.ErrFenced) {
				t.Error(err)
			}
		})
		running.Go(func() {
			if _, err := write(t.Context(), s, 2, 0, smallSamples()); err != nil && !errors.Is(err, store.ErrFenced) {
				t.Error(err)
			}
		})
	}
	running.Wait()
	head, err := s.Head(t.Context(), target)
	require.NoError(t, err)
	require.Equal(t, int64(8), head.Epoch)
	requireGeneration(t, s, head.Number, 0, smallSamples())
}

func TestAbortLeavesNothing(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	w, err := s.Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, add(t.Context(), w, samples()))
	w.Abort(t.Context())
	w.Abort(t.Context())
	for info := range bucket.List(t.Context(), "") {
		require.Equal(t, target.Prefix()+"KEY", info.Key, "left behind")
	}
	_, err = w.Commit(t.Context())
	require.ErrorIs(t, err, store.ErrInvalid)
	_, err = write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
}

func TestAbortAfterCommitKeepsAll(t *testing.T) {
	s := store.New(mem.New(), testRing)
	w, err := s.Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, add(t.Context(), w, smallSamples()))
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	w.Abort(t.Context())
	requireGeneration(t, s, 1, 0, smallSamples())
}

func TestPackLostBeforeCommit(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	w, err := s.Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, add(t.Context(), w, twoPacks(1)))
	require.Eventually(t, func() bool {
		for info := range bucket.List(t.Context(), target.Prefix()) {
			if strings.Contains(info.Key, "packs/") {
				return bucket.Delete(t.Context(), info.Key) == nil
			}
		}
		return false
	}, 10*time.Second, time.Millisecond)
	_, err = w.Commit(t.Context())
	require.ErrorIs(t, err, store.ErrPackMissing)
	_, err = s.Head(t.Context(), target)
	require.ErrorIs(t, err, store.ErrNotFound)
}

// All 64 have the same base in memory, some of it in common with what they write; none changes it for the others.
func TestRacingWritersWithABase(t *testing.T) {
	for _, orphan := range []bool{false, true} {
		t.Run(fmt.Sprintf("orphan %v", orphan), func(t *testing.T) {
			bucket := mem.New()
			s := store.New(bucket, testRing)
			first := image("1", random(1, 600*page), store.Run{Address: 0x1000, Pages: 600})
			_, base, err := writeDelta(t.Context(), s, meta(1, 0), []sample{first}, store.WriteOptions{})
			require.NoError(t, err)
			if orphan {
				dying := storetest.NewFaulty(t, bucket, storetest.Fault{Op: storetest.OpPut, Key: "HEAD", At: 1, Down: true})
				_, _, err := writeDelta(t.Context(), store.New(dying, testRing), meta(2, 0), []sample{first}, store.WriteOptions{Base: base})
				require.ErrorIs(t, err, storetest.ErrInjected)
			}
			var mu sync.Mutex
			var winners []byte
			var running sync.WaitGroup
			for i := range byte(64) {
				running.Go(func() {
					all := []sample{changed(first, int(i), random(100+i, page)), file("by", []byte{1, i})}
					gen, _, err := writeDelta(t.Context(), s, meta(2, 0), all, store.WriteOptions{Base: base})
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						if gen.NewBlocks != 2 {
							t.Errorf("writer %d stored %d blocks, want 2", i, gen.NewBlocks)
						}
						winners = append(winners, i)
					case !errors.Is(err, store.ErrFenced):
						t.Errorf("writer %d: %v", i, err)
					}
				})
			}
			running.Wait()
			require.Len(t, winners, 1)
			i := winners[0]
			requireGeneration(t, s, 2, 0, []sample{changed(first, int(i), random(100+i, page)), file("by", []byte{1, i})})
		})
	}
}

// changed is an image with one page replaced.
func changed(s sample, at int, by []byte) sample {
	s.content = bytes.Clone(s.content)
	copy(s.content[at*page:], by)
	return s
}

// Writers in processes of their own all make KEY; one does, and the others use it or are fenced.
func TestRacingFirstWritersMakeOneKey(t *testing.T) {
	for range 20 {
		bucket := mem.New()
		var wins atomic.Int32
		var running sync.WaitGroup
		for i := range 16 {
			running.Go(func() {
				_, err := write(t.Context(), store.New(bucket, testRing), 1, 0, []sample{file("by", []byte{byte(i)})})
				if err == nil {
					wins.Add(1)
				} else if !errors.Is(err, store.ErrFenced) {
					t.Errorf("writer %d: %v", i, err)
				}
			})
		}
		running.Wait()
		require.Equal(t, int32(1), wins.Load())
		_, _, err := read(t.Context(), store.New(bucket, testRing), 1, 0)
		require.NoError(t, err)
	}
}

// A reader looks for KEY before there is one; by the time it looks for HEAD, KEY and HEAD are there.
func TestKeyMadeWhileSomeoneLooks(t *testing.T) {
	bucket := mem.New()
	gate := storetest.NewGate()
	hold := storetest.Fault{Op: storetest.OpStat, Key: "/HEAD", At: 1, Effect: storetest.Hold, Gate: gate}
	slow := store.New(storetest.NewFaulty(t, bucket, hold), testRing)
	done := make(chan error)
	go func() {
		_, err := slow.Head(t.Context(), target)
		done <- err
	}()
	<-gate.Reached()
	_, err := write(t.Context(), store.New(bucket, testRing), 1, 0, smallSamples())
	require.NoError(t, err)
	gate.Open()
	require.NoError(t, <-done)
}

// A target that was removed and is written to again gets a KEY of its own, whatever a Store remembers.
func TestRemovedTargetGetsANewKey(t *testing.T) {
	for _, fence := range []bool{false, true} {
		bucket := mem.New()
		s := store.New(bucket, testRing)
		_, err := write(t.Context(), s, 1, 0, smallSamples())
		require.NoError(t, err)
		for key := range objects(t, bucket, "") {
			require.NoError(t, bucket.Delete(t.Context(), key))
		}
		if fence {
			require.NoError(t, s.Fence(t.Context(), target, 1))
		}
		_, err = write(t.Context(), s, 1, 1, smallSamples())
		require.NoError(t, err)
		requireGeneration(t, store.New(bucket, testRing), 1, 1, smallSamples())
	}
}

func TestBeginRefusesOthersBases(t *testing.T) {
	s := store.New(mem.New(), testRing)
	_, one, err := writeDelta(t.Context(), s, meta(1, 0), smallSamples(), store.WriteOptions{})
	require.NoError(t, err)
	_, _, err = writeDelta(t.Context(), s, meta(2, 0), smallSamples(), store.WriteOptions{Base: one})
	require.NoError(t, err)
	_, err = s.Begin(t.Context(), target, meta(3, 0), store.WriteOptions{Base: one})
	require.ErrorIs(t, err, store.ErrFenced, "the base of a generation before")
	_, err = store.New(mem.New(), testRing).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{Base: one})
	require.ErrorIs(t, err, store.ErrFenced, "the base of another bucket")
	_, err = s.Begin(t.Context(), target, meta(3, 0), store.WriteOptions{Codec: 9})
	require.ErrorIs(t, err, store.ErrInvalid)
}

// A fence raises the epoch and leaves the generation: its base is good for the next writer.
func TestBaseSurvivesAFence(t *testing.T) {
	s := store.New(mem.New(), testRing)
	all := []sample{image("1", random(1, 8*page), store.Run{Address: 0x1000, Pages: 8})}
	_, base, err := writeDelta(t.Context(), s, meta(1, 0), all, store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, s.Fence(t.Context(), target, 5))
	gen, _, err := writeDelta(t.Context(), s, meta(2, 5), all, store.WriteOptions{Base: base})
	require.NoError(t, err)
	require.Zero(t, gen.NewBlocks)
	require.Equal(t, 2, gen.Puts, "manifest and HEAD")
	requireGeneration(t, s, 2, 5, all)
	requireGeneration(t, s, 1, 0, all)
}
