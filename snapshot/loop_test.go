package snapshot

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
)

func TestRoundsLeaveLittleForTheNotice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.run(t, func() {
			pass(50 * time.Second)
			before := s.uploaded()
			require.Greater(t, before, int64(boxPages*store.BlockSize*9/10))
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
			require.Less(t, s.uploaded()-before, int64(400<<10), "most of it was there before the notice")
		})
	})
}

func TestSeveralTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ids := []string{"c1", "c2", "c3", "c4", "c5", "c6"}
		s := newBoxScene(t, ids...)
		s.run(t, func() {
			pass(5 * time.Minute)
			s.evacuator.Heard(notice(window))
			pass(20 * time.Second)
			for _, id := range ids {
				s.requireFinal(t, id)
			}
		})
	})
}

func TestNoticeInTheMiddleOfARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		rounds := 0
		s.onScan = func(ctx context.Context, _ string) error {
			if rounds++; rounds < 3 {
				return nil
			}
			<-ctx.Done() // longer than anybody wants to wait
			return context.Cause(ctx)
		}
		s.run(t, func() {
			pass(100 * time.Second)
			s.evacuator.Heard(notice(window))
			pass(3 * time.Second)
			s.requireFinal(t, "c1")
		})
		require.GreaterOrEqual(t, rounds, 3)
	})
}

func TestNoticeBeforeTheFirstRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.evacuator.Heard(notice(window))
		s.run(t, func() {
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
			require.EqualValues(t, 1, s.final["c1"].Number)
		})
	})
}

func TestBucketDown(t *testing.T) {
	for _, c := range []struct {
		name string
		from, to,
		notice time.Duration
		failed string
	}{
		{name: "before the first round, and back", from: 0, to: 20 * time.Second, notice: time.Minute},
		{name: "between rounds, and back", from: 40 * time.Second, to: 90 * time.Second, notice: 3 * time.Minute},
		{name: "at the notice, and back", from: 50 * time.Second, to: 90 * time.Second, notice: 55 * time.Second},
		{name: "from before the start on, and back in the window", from: 0, to: 90 * time.Second, notice: 55 * time.Second},
		{name: "for good", from: 50 * time.Second, to: time.Hour, notice: 55 * time.Second, failed: v1alpha1.ReasonBucketFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1")
				begin := time.Now()
				s.bucket.blocked = func(string) bool { at := time.Since(begin); return at >= c.from && at < c.to }
				s.run(t, func() {
					pass(c.notice)
					s.evacuator.Heard(notice(window))
					pass(window)
					if c.failed == "" {
						s.requireFinal(t, "c1")
						return
					}
					require.Equal(t, c.failed, s.failed["c1"])
					require.Equal(t, StatusRunning, s.boxes["c1"].status)
				})
			})
		})
	}
}

func TestATargetThatCannotBeStoredHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1", "c2")
		s.bucket.blocked = func(key string) bool { return strings.Contains(key, "uid-c1") }
		s.run(t, func() {
			pass(2 * time.Minute)
			s.evacuator.Heard(notice(window))
			pass(20 * time.Second)
			s.requireFinal(t, "c2")
			pass(window)
			require.Equal(t, v1alpha1.ReasonBucketFailed, s.failed["c1"])
			require.Equal(t, StatusRunning, s.boxes["c1"].status)
		})
	})
}

// What a Writer had got is lost with it: the next one gets it from the target, which still stands still.
func TestWriterThatFailsInTheWindowIsFollowedByAnother(t *testing.T) {
	denied := errors.New("denied")
	for _, kind := range []string{"/packs/", "/manifest", "/HEAD"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1")
				s.run(t, func() {
					pass(50 * time.Second)
					dumps := 0
					s.onDump = func(context.Context, string) error { dumps++; return nil }
					refusals := 3 // as often as the store tries
					s.bucket.set(func(b *slow) {
						b.refused = func(key string) error {
							if !strings.Contains(key, kind) || refusals == 0 {
								return nil
							}
							refusals--
							return denied
						}
					})
					s.evacuator.Heard(notice(window))
					pass(20 * time.Second)
					s.requireFinal(t, "c1")
					require.Equal(t, 2, dumps)
					require.Zero(t, refusals)
				})
			})
		})
	}
}

// An operator's rewrite takes the number of the generation that is being written.
func TestWriterThatIsOvertakenIsFollowedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.run(t, func() {
			pass(2 * time.Minute)
			require.EqualValues(t, 1, s.safety["c1"].Number)
			folder := hostTarget("c1").Folder("test")
			base, err := s.store.Base(t.Context(), folder)
			require.NoError(t, err)
			w, err := s.store.Begin(t.Context(), folder, store.Meta{Number: 2}, store.WriteOptions{Base: base})
			require.NoError(t, err)
			_, err = w.Commit(t.Context())
			require.NoError(t, err)
			s.evacuator.Heard(notice(window))
			pass(10 * time.Second)
			s.requireFinal(t, "c1")
			require.EqualValues(t, 3, s.final["c1"].Number)
		})
	})
}

// A newer epoch in the bucket says that the pod runs elsewhere.
func TestFencedTargetStaysFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.run(t, func() {
			pass(2 * time.Minute)
			require.NoError(t, s.store.Fence(t.Context(), hostTarget("c1").Folder("test"), 7))
			s.evacuator.Heard(notice(window))
			pass(time.Minute)
			require.Empty(t, s.final)
			require.Equal(t, StatusPaused, s.boxes["c1"].status)
		})
	})
}

func TestThrottledTargetIsReadWithHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.evacuator.options.Policy.CPUShare = 1
		s.run(t, func() {
			pass(90 * time.Second)
			s.lock(func() {
				require.InDelta(t, s.evacuator.options.Policy.TargetCPU, s.share, 1e-9)
				s.throttled = true
			})
			pass(90 * time.Second)
			s.lock(func() { require.InDelta(t, s.evacuator.options.Policy.TargetCPU/2, s.share, 1e-9) })
		})
	})
}

func TestWriterThatFailsBetweenRoundsIsFollowedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		refusals := 3
		s.bucket.refused = func(key string) error {
			if !strings.Contains(key, "/packs/") || refusals == 0 {
				return nil
			}
			refusals--
			return errors.New("denied")
		}
		s.run(t, func() {
			pass(3 * time.Minute)
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
		})
		require.Zero(t, refusals)
	})
}

func TestTargetVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1", "c2")
		s.run(t, func() {
			pass(45 * time.Second)
			s.lock(func() { delete(s.boxes, "c1") })
			pass(45 * time.Second)
			s.evacuator.mu.Lock()
			require.Len(t, s.evacuator.sessions, 1, "its Writer is closed")
			s.evacuator.mu.Unlock()
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c2")
			require.NotContains(t, s.final, "c1")
		})
	})
}

func TestAWithdrawnNoticeHasRoundsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.onDump = func(context.Context, string) error { return errCRIU }
		s.run(t, func() {
			pass(40 * time.Second)
			s.evacuator.Heard(notice(window))
			pass(40 * time.Second)
			require.Equal(t, v1alpha1.ReasonDumpFailed, s.failed["c1"])
			under := s.rounds("c1")
			pass(time.Minute)
			require.Equal(t, under, s.rounds("c1"), "no rounds under a notice")
			s.evacuator.Quiet()
			pass(time.Minute)
			require.Greater(t, s.rounds("c1"), under)
		})
	})
}

// The agent ends and begins anew between rounds: the newest safety generation is the base of the next.
func TestRestartGoesOnFromTheNewestGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.run(t, func() { pass(2 * time.Minute) })
		require.EqualValues(t, 1, s.safety["c1"].Number)
		s.restart()
		before := s.uploaded()
		s.run(t, func() {
			pass(10 * time.Second)
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
		})
		require.Less(t, s.uploaded()-before, int64(600<<10))
	})
}

// A hold of an earlier life of the agent is settled by others; until then the loop waits, and does not try without a pause.
func TestStepsOfATargetOnHoldArePutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		require.NoError(t, s.evacuator.options.Holds.Set("c1"))
		require.NoError(t, s.evacuator.list(t.Context()))
		_, err := s.evacuator.turnOfSteps(t.Context())
		require.NoError(t, err)
		s.evacuator.steps.Wait()
		next, err := s.evacuator.turnOfSteps(t.Context())
		require.NoError(t, err)
		require.Equal(t, retryAfter, time.Until(next))
		require.Zero(t, s.rounds("c1"))
	})
}
