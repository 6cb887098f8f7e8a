package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
)

// settleCase is what an agent finds when it starts anew.
type settleCase struct {
	name     string
	before   func(t *testing.T, s *scene)
	deadline time.Duration
	notice   bool
	quiet    bool
	calls    string
	status   Status
	failed   string
	fault    error
}

var settleCases = []settleCase{
	{
		name: "deadline ahead, metadata not heard yet: finished", deadline: time.Minute,
		calls: "begun pause dump files final", status: StatusPaused,
	},
	{
		name: "notice still there: finished", deadline: time.Minute, notice: true,
		calls: "begun pause dump files final", status: StatusPaused,
	},
	{
		name: "no notice any more: thawed", deadline: time.Minute, quiet: true,
		calls: "failed resume", status: StatusRunning, failed: v1alpha1.ReasonThawed,
	},
	{
		name: "deadline passed: thawed", deadline: -time.Second,
		calls: "failed resume", status: StatusRunning, failed: v1alpha1.ReasonThawed,
	},
	{
		name: "committed but not recorded: recorded, never thawed", deadline: -time.Minute, quiet: true,
		before: func(t *testing.T, s *scene) { commit(t, s, "pod-1", 0) },
		calls:  "final", status: StatusPaused,
	},
	{
		name: "committed by an evacuation before: thawed", deadline: -time.Minute, quiet: true,
		before: func(t *testing.T, s *scene) {
			commit(t, s, "pod-1", 0)
			require.NoError(t, s.evacuator.holdForGood(s.target))
		},
		calls: "failed resume", status: StatusRunning, failed: v1alpha1.ReasonThawed,
	},
	{
		name: "committed, and the stamp of its dump is lost: thawed", deadline: -time.Minute, quiet: true,
		before: func(t *testing.T, s *scene) {
			commit(t, s, "pod-1", 0)
			require.NoError(t, s.evacuator.stamps().clear())
		},
		calls: "failed resume", status: StatusRunning, failed: v1alpha1.ReasonThawed,
	},
	{
		name: "newest generation is of the pod before: thawed", deadline: -time.Minute,
		before: func(t *testing.T, s *scene) { commit(t, s, "pod-0", 0) },
		calls:  "failed resume", status: StatusRunning, failed: v1alpha1.ReasonThawed,
	},
	{
		name: "claimed elsewhere: frozen for ever", deadline: -time.Minute,
		before: func(t *testing.T, s *scene) { commit(t, s, "pod-1", 7) },
		calls:  "", status: StatusPaused, fault: store.ErrFenced,
	},
	{
		name: "bucket cannot be asked, deadline ahead: frozen until it can", deadline: time.Minute, quiet: true,
		before: func(_ *testing.T, s *scene) { s.bucket.down = func() bool { return true } },
		calls:  "", status: StatusPaused, fault: errDown,
	},
	{
		name: "bucket cannot be asked, deadline passed: thawed behind a fence", deadline: -time.Second, quiet: true,
		before: func(_ *testing.T, s *scene) { s.bucket.down = func() bool { return true } },
		calls:  "failed resume", status: StatusRunning, failed: v1alpha1.ReasonThawed,
	},
}

func TestSettleAfterRestart(t *testing.T) {
	for _, c := range settleCases {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			if c.before != nil {
				c.before(t, s)
			}
			s.status = StatusPaused
			require.NoError(t, s.evacuator.options.Holds.Set("c1"))
			s.targets[0].Deadline = time.Now().Add(c.deadline)
			if c.notice {
				s.hear(notice(c.deadline))
			}
			if c.quiet {
				s.evacuator.Quiet()
			}
			require.ErrorIs(t, s.evacuator.round(t.Context()), c.fault)
			require.Equal(t, c.calls, strings.Join(s.calls, " "))
			require.Equal(t, c.status, s.status)
			require.Equal(t, c.failed, s.failed)
			require.Equal(t, c.status == StatusPaused, s.held(t))
		})
	}
}

// The earlier life died with its Journal.Final under way, which may still land: whatever fails of what this life does, nothing is
// thawed before Journal.Failed was taken.
func TestAnInheritedTargetIsNotThawedWithoutAFence(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(t *testing.T, s *scene)
		calls  string
		failed string
	}{
		{"its dump fails", func(_ *testing.T, s *scene) {
			s.dumpErrs = []error{errCRIU, errCRIU, errCRIU, errCRIU}
		}, "begun pause dump pause dump", v1alpha1.ReasonDumpFailed},
		{"its bucket fails", func(_ *testing.T, s *scene) { s.bucket.down = func() bool { return true } },
			"begun pause dump", v1alpha1.ReasonBucketFailed},
		{"its generation is there, and it has not stayed frozen", func(t *testing.T, s *scene) {
			commit(t, s, "pod-1", 0)
			s.status = StatusRunning
		}, "", v1alpha1.ReasonDumpFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t)
				defer s.evacuator.ending.Wait()
				s.status = StatusPaused
				c.set(t, s)
				require.NoError(t, s.evacuator.options.Holds.Set("c1"))
				s.targets[0].Deadline = time.Now().Add(window)
				s.failedErrs = []error{errDown}
				s.hear(notice(window))
				require.ErrorIs(t, s.evacuator.round(t.Context()), errDown)
				require.Equal(t, strings.TrimSpace(c.calls+" failed"), strings.Join(s.calls, " "), "thawed before the fence")
				require.True(t, s.held(t))
				s.calls = nil
				s.evacuator.Heard(notice(window)) // another round settles it, once the API server answers
				s.round(t)
				require.Equal(t, strings.TrimSpace(c.calls+" failed resume"), strings.Join(s.calls, " "))
				require.Equal(t, c.failed, s.failed)
				require.Equal(t, StatusRunning, s.status)
				require.False(t, s.held(t))
			})
		})
	}
}

// commit puts a final generation of pod, of its newest dump, into the bucket and, where fence is above 0, a claim's fence
// behind it.
func commit(t *testing.T, s *scene, pod string, fence int64) {
	t.Helper()
	stamp, err := s.evacuator.stamps().next("pod-1")
	require.NoError(t, err)
	folder := s.target.Folder("test")
	w, err := s.evacuator.options.Store.Begin(t.Context(), folder, store.Meta{
		Number: 1, PodUID: pod, Node: "a", Final: true, Created: stamp,
	}, store.WriteOptions{})
	require.NoError(t, err)
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	if fence > 0 {
		require.NoError(t, s.evacuator.options.Store.Fence(t.Context(), folder, fence))
	}
}

// The commit of an evacuation lands, the bucket cannot be asked whether it did, and the target is thawed at its deadline. The
// agent dies in the next evacuation: whatever that has done, only a generation of its own dump counts.
func TestCrashAfterACommitThatLandedLate(t *testing.T) {
	type world struct {
		*boxScene
		w    *openWriter
		dump intoWriter
	}
	target := hostTarget("c1")
	steps := []struct {
		name string
		do   func(t *testing.T, w *world)
	}{
		{"the hold", func(t *testing.T, w *world) { require.NoError(t, w.evacuator.holdForGood(target)) }},
		{"the freeze", func(t *testing.T, w *world) { require.NoError(t, w.Pause(t.Context(), "c1")) }},
		{"the dump", func(t *testing.T, w *world) {
			var err error
			w.w, err = w.evacuator.open(t.Context(), w.evacuator.session(target))
			require.NoError(t, err)
			w.dump, err = w.evacuator.dump(t.Context(), target, w.w)
			require.NoError(t, err)
		}},
		{"a second dump", func(t *testing.T, w *world) {
			var err error
			w.dump, err = w.evacuator.dump(t.Context(), target, w.w)
			require.NoError(t, err)
		}},
		{"the commit", func(t *testing.T, w *world) {
			_, err := w.evacuator.tryUpload(t.Context(), w.evacuator.session(target), target, &w.dump)
			require.NoError(t, err)
		}},
	}
	for crash := range steps {
		t.Run("after "+steps[crash].name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{boxScene: newBoxScene(t, "c1")}
				for _, step := range steps { // the first evacuation, all of it
					step.do(t, w)
				}
				require.NoError(t, w.evacuator.thaw(t.Context(), target))
				pass(time.Second)
				w.write()
				for _, step := range steps[:crash+1] {
					step.do(t, w)
				}
				w.evacuator.drop(w.evacuator.session(target)) // of its uploads alone the next life cannot know
				w.evacuator.ending.Wait()
				w.restart()
				w.evacuator.Quiet()
				w.run(t, func() {
					pass(5 * time.Second)
					if steps[crash].name == "the commit" {
						w.requireFinal(t, "c1")
						return
					}
					require.Empty(t, w.final, "an older generation is taken for the one of this evacuation")
					require.Equal(t, StatusRunning, w.boxes["c1"].status)
					w.evacuator.Heard(notice(window))
					pass(10 * time.Second)
					w.requireFinal(t, "c1")
				})
			})
		})
	}
}

// The same within one life of the agent: the bucket is away until the second deadline, and then shows the first generation.
func TestCommitThatLandedLateIsNotThatOfTheNextEvacuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		key := s.target.Folder("test").Prefix() + "HEAD"
		s.bucket.loseHead = true
		s.bucket.down = func() bool {
			_, err := s.bucket.Bucket.Stat(t.Context(), key)
			return err == nil
		}
		s.hear(notice(30 * time.Second))
		s.round(t)
		require.Equal(t, StatusRunning, s.status, "nobody could say whether it was committed")
		_, err := s.bucket.Bucket.Stat(t.Context(), key)
		require.NoError(t, err, "the commit has not landed")

		gives := time.Now().Add(30*time.Second - s.evacuator.options.Margin)
		s.bucket.down = func() bool { return time.Now().Before(gives) }
		s.hear(notice(30 * time.Second))
		s.round(t)
		require.Nil(t, s.final)
		require.Equal(t, StatusRunning, s.status)
	})
}

func TestHoldOfEndedContainerIsDropped(t *testing.T) {
	s := newScene(t)
	s.targets, s.status = nil, StatusStopped
	require.NoError(t, s.evacuator.options.Holds.Set("gone"))
	s.round(t)
	require.False(t, s.held(t))
}

// The agent died in a safety dump, and nobody protects the pod any more when it is back.
func TestASafetyDumpThatWasCutOffLeavesNobodyFrozen(t *testing.T) {
	for _, c := range []struct {
		name           string
		marked, inHand bool
		doubted        []bool
		status         Status
	}{
		{"of an earlier life", true, false, []bool{false}, StatusRunning},
		{"and nobody has said how the node is", true, false, nil, StatusPaused},
		{"and the node is in doubt", true, false, []bool{false, true}, StatusPaused},
		{"of this life", true, true, []bool{false}, StatusPaused},
		{"an evacuation", false, false, []bool{false}, StatusPaused},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			s.evacuator.Quiet()
			for _, doubted := range c.doubted {
				s.evacuator.Doubt(doubted)
			}
			if c.inHand {
				require.True(t, s.evacuator.takeInHand(s.target))
			}
			if c.marked {
				require.NoError(t, s.evacuator.safeties().Set("c1"))
			}
			require.NoError(t, s.evacuator.options.Holds.Set("c1"))
			s.targets, s.status = nil, StatusPaused
			s.round(t)
			require.Equal(t, c.status, s.status)
			require.Equal(t, c.status == StatusPaused, s.held(t))
			marks, err := s.evacuator.safeties().List()
			require.NoError(t, err)
			require.Equal(t, c.marked && c.status == StatusPaused, len(marks) > 0)
		})
	}
}

func TestOldDumpsAreSwept(t *testing.T) {
	s := newScene(t)
	for _, id := range []string{"c1", "gone"} {
		require.NoError(t, os.MkdirAll(filepath.Join(s.dir, "dump", id, "images"), 0o700))
	}
	require.NoError(t, s.evacuator.options.Holds.Set("c1"))
	require.NoError(t, s.evacuator.sweep())
	require.DirExists(t, filepath.Join(s.dir, "dump", "c1"), "it may be needed to finish")
	require.NoDirExists(t, filepath.Join(s.dir, "dump", "gone"))
}
