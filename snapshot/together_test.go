package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
)

// requireRunning holds that nothing of a pod stands still or is on hold.
func (s *boxScene) requireRunning(t *testing.T, ids ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.final)
	for _, id := range ids {
		require.Equal(t, StatusRunning, s.boxes[id].status, id)
	}
	held, err := s.evacuator.options.Holds.List()
	require.NoError(t, err)
	require.Empty(t, held)
}

func TestContainersOfAPodGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1", "c1.side", "c2")
		s.run(t, func() {
			pass(3 * time.Minute)
			require.Positive(t, s.rounds("c1"))
			require.Equal(t, s.rounds("c1"), s.rounds("c1.side"), "a round is of the whole pod")
			require.EqualValues(t, 1, s.safety["c1"].Number)
			require.EqualValues(t, 2*boxPages*store.BlockSize, s.safety["c1"].RSSBytes, "the sum over the containers")
			require.Equal(t, s.boxes["c1"].still, s.boxes["c1.side"].still, "they stand still and go on together")
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
			s.requireFinal(t, "c2")
			require.Equal(t, s.boxes["c1"].froze, s.boxes["c1.side"].froze)
		})
	})
}

// A container that was started anew meets the session of the one before.
func TestContainerIsStartedAnewBetweenRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1", "c1.old")
		s.run(t, func() {
			pass(100 * time.Second)
			s.lock(func() {
				delete(s.boxes, "c1.old")
				s.missing = map[string][]string{"c1": {"new"}}
			})
			pass(time.Minute)
			s.lock(func() {
				s.add("c1.new")
				s.missing = nil
			})
			pass(time.Minute)
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
		})
	})
}

func TestPodThatIsNotWholeIsNoTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.missing = map[string][]string{"c1": {"side"}}
		s.run(t, func() {
			pass(time.Minute)
			require.Zero(t, s.rounds("c1"))
			s.evacuator.Heard(notice(window))
			pass(10 * time.Second)
			s.requireRunning(t, "c1")
			require.Empty(t, s.failed)
			s.lock(func() {
				s.add("c1.side")
				s.missing = nil
			})
			pass(10 * time.Second)
			s.requireFinal(t, "c1")
		})
	})
}

func TestTroubleOfOneContainer(t *testing.T) {
	onSide := func(do func() error) func(context.Context, string) error {
		return func(_ context.Context, id string) error {
			if id == "c1.side" {
				return do()
			}
			return nil
		}
	}
	for _, c := range []struct {
		name string
		set  func(s *boxScene)
		says string
	}{
		{"its dump fails", func(s *boxScene) { s.onDump = onSide(func() error { return errCRIU }) }, errCRIU.Error()},
		{"it holds something together with another", func(s *boxScene) {
			s.evacuator.options.Together = func([]Container) error { return errors.New("a FIFO") }
		}, "a FIFO"},
		{"it ends while others are dumped", func(s *boxScene) {
			s.onDump = onSide(func() error { s.lock(func() { delete(s.boxes, "c1.side") }); return nil })
		}, "side"},
		{"it is killed before the record, and its kubelet makes another", func(s *boxScene) {
			s.bucket.refused = func(key string) error {
				if strings.HasSuffix(key, "HEAD") && s.evacuator.leaving() {
					s.lock(func() { delete(s.boxes, "c1.side") })
				}
				return nil
			}
		}, "side is stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1", "c1.side")
				s.run(t, func() {
					pass(45 * time.Second)
					s.lock(func() { c.set(s) })
					s.evacuator.Heard(notice(window))
					pass(40 * time.Second)
					s.requireRunning(t, "c1")
					require.Equal(t, v1alpha1.ReasonDumpFailed, s.failed["c1"])
					require.Contains(t, s.causes["c1"], c.says)
				})
			})
		})
	}
}

// A container ends while its pod waits for its turn: the pod is evacuated once it is whole again, or is told to have failed when
// there is no time left for it.
func TestContainerIsStartedAnewUnderANotice(t *testing.T) {
	for _, again := range []bool{true, false} {
		t.Run(fmt.Sprint("again ", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1", "c1.old")
				s.onBegun = func(context.Context, string) error {
					s.lock(func() {
						delete(s.boxes, "c1.old")
						if s.boxes["c1.new"] == nil {
							s.missing = map[string][]string{"c1": {"new"}}
						}
					})
					return nil
				}
				s.run(t, func() {
					pass(45 * time.Second)
					s.evacuator.Heard(notice(window))
					pass(10 * time.Second)
					s.requireRunning(t, "c1")
					require.Empty(t, s.failed)
					if !again {
						pass(window)
						s.requireRunning(t, "c1")
						require.Equal(t, v1alpha1.ReasonDeadlinePassed, s.failed["c1"])
						require.Contains(t, s.causes["c1"], "new")
						return
					}
					s.lock(func() {
						s.add("c1.new")
						s.missing = nil
					})
					pass(5 * time.Second)
					s.requireFinal(t, "c1")
				})
			})
		})
	}
}

// A container that is killed in the freeze because its pod is leaving has nobody to follow it here.
func TestContainerIsKilledBeforeTheRecordOfALeavingPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1", "c1.side")
		s.leaving.Store(true)
		s.bucket.refused = func(key string) error {
			if strings.HasSuffix(key, "HEAD") {
				s.lock(func() { s.boxes["c1.side"].status = StatusStopped })
			}
			return nil
		}
		s.evacuator.Heard(notice(window))
		s.run(t, func() {
			pass(10 * time.Second)
			require.Contains(t, s.final, "c1")
			require.Equal(t, StatusPaused, s.boxes["c1"].status)
		})
	})
}

// The agent dies at any point: what it leaves of a pod is settled as one.
func TestCrashWithAPartOfAPodOnHold(t *testing.T) {
	for _, c := range []struct {
		name string
		// held and paused are containers; marked says that the hold is that of a safety dump.
		held, paused, marked []string
		missing, committed   bool
		notice               bool
		final                bool
		failed               string
	}{
		{name: "while the holds were set", held: []string{"c1"}, failed: v1alpha1.ReasonThawed},
		{name: "while the holds were set, and the notice stands", held: []string{"c1"}, notice: true, final: true},
		{name: "while they were frozen", held: []string{"c1", "c1.side"}, paused: []string{"c1"}, failed: v1alpha1.ReasonThawed},
		{name: "all frozen, committed", held: []string{"c1", "c1.side"}, paused: []string{"c1", "c1.side"}, committed: true, final: true},
		{name: "while they were thawed, and the commit has landed", held: []string{"c1"}, paused: []string{"c1"}, committed: true,
			failed: v1alpha1.ReasonThawed},
		{name: "one thawed and still on hold, and the commit has landed", held: []string{"c1", "c1.side"}, paused: []string{"c1"},
			committed: true, failed: v1alpha1.ReasonDumpFailed},
		{name: "one has ended since", held: []string{"c1"}, paused: []string{"c1"}, missing: true, committed: true, notice: true,
			failed: v1alpha1.ReasonThawed},
		{name: "a safety dump: while the holds were set", held: []string{"c1"}, marked: []string{"c1", "c1.side"}},
		{name: "a safety dump: all frozen", held: []string{"c1", "c1.side"}, paused: []string{"c1", "c1.side"}, marked: []string{"c1", "c1.side"}},
		{name: "a safety dump: while they were thawed", held: []string{"c1.side"}, paused: []string{"c1.side"}, marked: []string{"c1", "c1.side"}},
		{name: "a safety dump: while the marks were removed", marked: []string{"c1.side"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBoxScene(t, "c1", "c1.side")
				if c.committed {
					s.commitFinal(t)
				}
				for _, id := range c.marked {
					require.NoError(t, s.evacuator.safeties().Set(id))
				}
				for _, id := range c.held {
					require.NoError(t, s.evacuator.options.Holds.Set(id))
				}
				for _, id := range c.paused {
					require.NoError(t, s.Pause(t.Context(), id))
				}
				if c.missing {
					delete(s.boxes, "c1.side")
					s.missing = map[string][]string{"c1": {"side"}}
				}
				if c.notice {
					s.evacuator.Heard(notice(window))
				} else {
					s.evacuator.Quiet()
				}
				s.run(t, func() {
					pass(time.Second)
					require.Equal(t, c.failed, s.failed["c1"])
					if c.final {
						require.Contains(t, s.final, "c1")
						require.Equal(t, []Status{StatusPaused, StatusPaused}, []Status{s.boxes["c1"].status, s.boxes["c1.side"].status})
						return
					}
					running := []string{"c1", "c1.side"}
					if c.missing {
						running = running[:1]
					}
					s.requireRunning(t, running...)
					left, err := s.evacuator.safeties().List()
					require.NoError(t, err)
					require.Empty(t, left)
				})
			})
		})
	}
}

// commitFinal puts a final generation of the newest dump of pod c1 into the bucket, which nobody has recorded.
func (s *boxScene) commitFinal(t *testing.T) {
	t.Helper()
	target := hostTarget("c1", "c1.side")
	stamp, err := s.evacuator.stamps().next(target.PodUID)
	require.NoError(t, err)
	w, err := s.store.Begin(t.Context(), target.Folder("test"), store.Meta{
		Number: 1, PodUID: target.PodUID, Node: "a", Final: true, Created: stamp,
	}, store.WriteOptions{})
	require.NoError(t, err)
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
}

// A thaw that is cut off, and a commit that lands after it: nothing of it counts, though all of the pod is on hold.
func TestGivenUpPodIsForgottenBeforeItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1", "c1.side")
		target := hostTarget("c1", "c1.side")
		require.NoError(t, s.evacuator.holdForGood(target))
		s.commitFinal(t)
		require.NoError(t, s.evacuator.giveUp(t.Context(), target, plain, v1alpha1.ReasonDumpFailed, errCRIU))
		require.NoError(t, s.evacuator.hold(target)) // as if it had been cut off before the first was cleared
		_, found, err := s.evacuator.committed(t.Context(), target)
		require.NoError(t, err)
		require.False(t, found)
	})
}

// The kubelet stops native sidecars only after all others have ended.
func TestEachContainerIsKilledOnceTheKubeletStopsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1", "c1.side")
		proc := filepath.Join(s.dir, "proc", "0")
		require.NoError(t, os.MkdirAll(proc, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(proc, "status"), []byte("SigPnd:\t0000000000000000\n"), 0o644))
		s.evacuator.Heard(notice(window))
		s.run(t, func() {
			pass(5 * time.Second)
			s.leaving.Store(true)
			for _, step := range []struct{ stopped, not string }{{"c1", "c1.side"}, {"c1.side", ""}} {
				require.NoError(t, os.WriteFile(filepath.Join(s.dir, "hold", step.stopped), []byte("15\n"), 0o600))
				pass(time.Second)
				require.Equal(t, []syscall.Signal{syscall.SIGKILL}, s.boxes[step.stopped].signals)
				if step.not != "" {
					require.Empty(t, s.boxes[step.not].signals)
				}
			}
		})
	})
}

func TestFaultsOfContainersAreOne(t *testing.T) {
	pod := hostTarget("c1", "c1.side")
	other := errors.New("no")
	for _, c := range []struct {
		name   string
		faults []error
		is     []error
		isNot  []error
	}{
		{"none", []error{nil, nil}, nil, nil},
		{"all have ended", []error{ErrGone, ErrGone}, []error{ErrGone}, []error{errPartly}},
		{"one has ended", []error{nil, ErrGone}, []error{errPartly}, []error{ErrGone}},
		{"one has ended, and the other has another fault", []error{other, ErrGone}, []error{errPartly, other}, []error{ErrGone}},
		{"one is not frozen", []error{nil, ErrNotFrozen}, []error{ErrNotFrozen}, []error{errPartly}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := partly(pod, c.faults)
			require.Equal(t, c.is == nil, err == nil)
			for _, want := range c.is {
				require.ErrorIs(t, err, want)
			}
			for _, not := range c.isNot {
				require.NotErrorIs(t, err, not)
			}
		})
	}
}
