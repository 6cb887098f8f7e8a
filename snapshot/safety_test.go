package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSafetyDumpLeavesTheTargetRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.run(t, func() {
			pass(12 * time.Minute)
			require.Equal(t, StatusRunning, s.boxes["c1"].status)
			require.Empty(t, s.final)
			require.Empty(t, s.failed)
			require.EqualValues(t, 2, s.safety["c1"].Number)
			require.Len(t, s.boxes["c1"].still, 2)
			for _, still := range s.boxes["c1"].still {
				require.Less(t, still, time.Second)
			}
			r, err := s.store.Open(t.Context(), hostTarget("c1").Folder("test"), 2, 0)
			require.NoError(t, err)
			require.False(t, r.Meta().Final)
			require.NoDirExists(t, filepath.Join(s.dir, "dump", "c1"))
			require.Equal(t, ReasonWithinShare, s.verdicts["c1"][len(s.verdicts["c1"])-1].Reason)
			require.LessOrEqual(t, len(s.verdicts["c1"]), 6, "verdicts are told when they change")

			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
			require.EqualValues(t, 3, s.final["c1"].Number)
		})
	})
}

func TestGenerationsAreReaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.run(t, func() {
			pass(4 * time.Hour)
			number := s.safety["c1"].Number
			require.Greater(t, number, int64(16))
			manifests, packs := 0, int64(0)
			for info, err := range s.bucket.List(t.Context(), "") {
				require.NoError(t, err)
				if strings.HasSuffix(info.Key, "/manifest") {
					manifests++
				} else if strings.Contains(info.Key, "/packs/") {
					packs += info.Size
				}
			}
			require.Less(t, int64(manifests), number-4, "two stay, those of the last hour, and those since the last reap")
			require.Less(t, packs, 3*int64(len(s.boxes["c1"].memory)))
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
		})
	})
}

func TestTroubleOfSafetyDumps(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(s *boxScene)
	}{
		{"the dump fails", func(s *boxScene) { s.onDump = once(errCRIU) }},
		{"files cannot be read", func(s *boxScene) { s.onFiles = once(errors.New("gone")) }},
		{"it takes too long", func(s *boxScene) {
			first := true
			s.onDump = func(ctx context.Context, _ string) error {
				if !first {
					return nil
				}
				first = false
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}},
		{"the bucket refuses the commit", func(s *boxScene) {
			refusals := 3
			s.bucket.refused = func(key string) error {
				if !strings.Contains(key, "/manifest") || refusals == 0 {
					return nil
				}
				refusals--
				return errors.New("denied")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1")
				c.set(s)
				s.run(t, func() {
					pass(5 * time.Minute)
					require.Equal(t, StatusRunning, s.boxes["c1"].status)
					require.Len(t, s.boxes["c1"].still, 1, "it is not frozen again and again")
					require.LessOrEqual(t, s.boxes["c1"].still[0], 6*time.Second)
					require.Empty(t, s.safety)
					require.Empty(t, s.failed)
					held, err := s.evacuator.options.Holds.List()
					require.NoError(t, err)
					require.Empty(t, held)
					rounds := s.rounds("c1")
					require.Greater(t, rounds, 3)
					pass(20 * time.Minute)
					require.NotEmpty(t, s.safety, "the next one succeeds")
					s.evacuator.Heard(notice(window))
					pass(5 * time.Second)
					s.requireFinal(t, "c1")
				})
			})
		})
	}
}

func TestNoticeInTheMiddleOfASafetyDump(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(s *boxScene, reached chan<- struct{})
	}{
		{"while it is dumped", func(s *boxScene, reached chan<- struct{}) {
			first := true
			s.onDump = func(ctx context.Context, _ string) error {
				if !first {
					return nil
				}
				first = false
				close(reached)
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}},
		{"while it is committed", func(s *boxScene, reached chan<- struct{}) {
			until := time.Time{}
			s.bucket.blocked = func(key string) bool {
				if until.IsZero() && strings.Contains(key, "/manifest") {
					close(reached)
					until = time.Now().Add(10 * time.Second)
				}
				return time.Now().Before(until)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1")
				reached := make(chan struct{})
				c.set(s, reached)
				s.run(t, func() {
					<-reached
					dumps := 0
					s.lock(func() {
						first := s.onDump
						s.onDump = func(ctx context.Context, id string) error {
							dumps++
							return s.call(ctx, first, id)
						}
					})
					s.evacuator.Heard(notice(window))
					pass(20 * time.Second)
					s.requireFinal(t, "c1")
					require.Equal(t, 1, dumps)
				})
			})
		})
	}
}

func TestSignalsOfASafetyDumpAreDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.onFiles = func(context.Context, string) error {
			f, err := os.OpenFile(filepath.Join(s.dir, "hold", "c1"), os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			defer f.Close()
			_, err = f.WriteString("15\n")
			return err
		}
		s.run(t, func() {
			pass(2 * time.Minute)
			require.Equal(t, []syscall.Signal{syscall.SIGTERM}, s.boxes["c1"].signals)
		})
	})
}

// The agent dies in a safety dump: whatever it leaves, the next one has the target run, and records no failure.
func TestCrashInASafetyDump(t *testing.T) {
	for _, c := range []struct {
		name         string
		marker, hold bool
		status       Status
		notice       bool
	}{
		{name: "before the hold", marker: true, status: StatusRunning},
		{name: "before the freeze", marker: true, hold: true, status: StatusRunning},
		{name: "while it stands still", marker: true, hold: true, status: StatusPaused},
		{name: "while it stands still, and the notice comes", marker: true, hold: true, status: StatusPaused, notice: true},
		{name: "after the thaw", marker: true, status: StatusRunning},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1")
				s.boxes["c1"].status, s.boxes["c1"].froze = c.status, time.Now()
				if c.marker {
					require.NoError(t, s.evacuator.safeties().Set("c1"))
				}
				if c.hold {
					require.NoError(t, s.evacuator.options.Holds.Set("c1"))
				}
				if c.notice {
					s.evacuator.Heard(notice(window))
				} else {
					s.evacuator.Quiet()
				}
				s.run(t, func() {
					pass(5 * time.Second)
					require.Empty(t, s.failed)
					left, err := s.evacuator.safeties().List()
					require.NoError(t, err)
					require.Empty(t, left)
					if c.notice {
						s.requireFinal(t, "c1")
						return
					}
					require.Equal(t, StatusRunning, s.boxes["c1"].status)
					held, err := s.evacuator.options.Holds.List()
					require.NoError(t, err)
					require.Empty(t, held)
				})
			})
		})
	}
}

// A hold of an evacuation is never taken for one of a safety dump: what may run elsewhere is not thawed without a fence.
func TestAnEvacuationTakesTheMarkOfASafetyDumpAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		require.NoError(t, s.evacuator.safeties().Set("c1"))
		target := hostTarget("c1")
		require.NoError(t, s.evacuator.holdForGood(target))
		held, err := s.evacuator.holdOf(target)
		require.NoError(t, err)
		require.Equal(t, holdingAll, held)
	})
}
