package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

// twoPacks is content that needs two packs, so that crashes fall between them too.
func twoPacks(seed byte) []sample {
	return append(smallSamples(), file("criu/pages-1.img", random(seed, 17<<20)))
}

// Crash windows of a write: whatever call the process dies at, before or after it has landed, what was committed opens
// whole, and the next writer of the same number goes on.
func TestCrashAtEveryCall(t *testing.T) {
	older, dying, next := smallSamples(), twoPacks(2), []sample{file("next", random(3, 100))}
	for _, first := range []bool{true, false} {
		number := int64(2)
		if first {
			number = 1
		}
		prepare := func(t *testing.T) *mem.Bucket {
			bucket := mem.New()
			if !first {
				_, err := write(t.Context(), store.New(bucket, testKey), 1, 0, older)
				require.NoError(t, err)
			}
			return bucket
		}
		counting := storetest.NewFaulty(t, prepare(t))
		_, err := write(t.Context(), store.New(counting, testKey), number, 0, dying)
		require.NoError(t, err)
		for at := range counting.Calls() {
			for _, effect := range []storetest.Effect{storetest.Fail, storetest.Lose} {
				t.Run(fmt.Sprintf("number %d call %d effect %d", number, at+1, effect), func(t *testing.T) {
					bucket := prepare(t)
					faulty := storetest.NewFaulty(t, bucket, storetest.Fault{At: at + 1, Effect: effect, Down: true})
					_, err := write(t.Context(), store.New(faulty, testKey), number, 0, dying)
					require.ErrorIs(t, err, storetest.ErrInjected)
					requireGoesOn(t, store.New(bucket, testKey), number, map[int64][]sample{1: older, number: dying}, next)
				})
			}
		}
	}
}

// requireGoesOn checks HEAD's generation against what was written under each number, and writes one more.
func requireGoesOn(t *testing.T, s *store.Store, number int64, written map[int64][]sample, next []sample) {
	t.Helper()
	head, err := s.Head(t.Context(), target)
	if err != nil {
		require.ErrorIs(t, err, store.ErrNotFound)
	}
	require.Contains(t, []int64{number - 1, number}, head.Number)
	if head.Number > 0 {
		requireGeneration(t, s, head.Number, 0, written[head.Number])
	}
	_, err = write(t.Context(), s, head.Number+1, 0, next)
	require.NoError(t, err)
	requireGeneration(t, s, head.Number+1, 0, next)
	if head.Number > 0 {
		requireGeneration(t, s, head.Number, 0, written[head.Number])
	}
}

// A single fault that passes is not seen by the caller, or costs no more than the try.
func TestLostReplies(t *testing.T) {
	cases := []struct {
		name  string
		fault storetest.Fault
	}{
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
			t.Run(fmt.Sprintf("%s, generation %d", c.name, number), func(t *testing.T) {
				bucket := mem.New()
				if number == 2 {
					_, err := write(t.Context(), store.New(bucket, testKey), 1, 0, smallSamples())
					require.NoError(t, err)
				}
				s := store.New(storetest.NewFaulty(t, bucket, c.fault), testKey)
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
	s := store.New(repeating{mem.New()}, testKey)
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
	_, err := write(t.Context(), store.New(dying, testKey), 1, 0, smallSamples())
	require.ErrorIs(t, err, storetest.ErrInjected)
	s := store.New(bucket, testKey)
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
			_, err := write(t.Context(), store.New(bucket, testKey), 1, 0, smallSamples())
			require.NoError(t, err)
			gate := storetest.NewGate()
			hold := storetest.Fault{Op: storetest.OpPut, Key: held, At: 1, Effect: storetest.Hold, Gate: gate}
			slow := storetest.NewFaulty(t, bucket, hold)
			slowDone := make(chan error)
			go func() {
				_, err := write(t.Context(), store.New(slow, testKey), 2, 0, twoPacks(1))
				slowDone <- err
			}()
			<-gate.Reached()
			s := store.New(bucket, testKey)
			_, err = write(t.Context(), s, 2, 0, twoPacks(2))
			require.NoError(t, err)
			gate.Open()
			require.ErrorIs(t, <-slowDone, store.ErrFenced)
			requireGeneration(t, s, 2, 0, twoPacks(2))
		})
	}
}

func TestBeginRefusesOthersNumbersAndEpochs(t *testing.T) {
	s := store.New(mem.New(), testKey)
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
			_, err := s.Begin(t.Context(), target, meta(c.number, c.epoch))
			require.ErrorIs(t, err, c.want)
		})
	}
	_, err = write(t.Context(), s, 2, 6, smallSamples())
	require.NoError(t, err)
}

func TestFence(t *testing.T) {
	s := store.New(mem.New(), testKey)
	_, err := write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
	w, err := s.Begin(t.Context(), target, meta(2, 0))
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
	s := store.New(mem.New(), testKey)
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
	s := store.New(mem.New(), testKey)
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
	s := store.New(bucket, testKey)
	w, err := s.Begin(t.Context(), target, meta(1, 0))
	require.NoError(t, err)
	require.NoError(t, add(t.Context(), w, samples()))
	w.Abort(t.Context())
	w.Abort(t.Context())
	for info := range bucket.List(t.Context(), "") {
		require.Fail(t, "left behind", info.Key)
	}
	_, err = w.Commit(t.Context())
	require.ErrorIs(t, err, store.ErrInvalid)
	_, err = write(t.Context(), s, 1, 0, smallSamples())
	require.NoError(t, err)
}

func TestAbortAfterCommitKeepsAll(t *testing.T) {
	s := store.New(mem.New(), testKey)
	w, err := s.Begin(t.Context(), target, meta(1, 0))
	require.NoError(t, err)
	require.NoError(t, add(t.Context(), w, smallSamples()))
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	w.Abort(t.Context())
	requireGeneration(t, s, 1, 0, smallSamples())
}

func TestBucketDownDuringUploadEndsAdd(t *testing.T) {
	s := store.New(storetest.NewFaulty(t, mem.New(), storetest.Fault{Op: storetest.OpPut, Effect: storetest.Fail}), testKey)
	w, err := s.Begin(t.Context(), target, meta(1, 0))
	require.NoError(t, err)
	err = add(t.Context(), w, []sample{file("big", random(1, 100<<20))})
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.ErrorContains(t, err, "packs/")
	_, err = w.Commit(t.Context())
	require.ErrorIs(t, err, storetest.ErrInjected)
	w.Abort(t.Context())
}

func TestContextEndsHangingUploads(t *testing.T) {
	gate := storetest.NewGate()
	hanging := storetest.NewFaulty(t, mem.New(), storetest.Fault{Op: storetest.OpPut, Effect: storetest.Hold, Gate: gate})
	big := []sample{file("big", random(1, 100<<20))} // more than the buffers of a writer
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := write(ctx, store.New(hanging, testKey), 1, 0, big)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestPackLostBeforeCommit(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	w, err := s.Begin(t.Context(), target, meta(1, 0))
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
