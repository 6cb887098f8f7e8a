package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
)

func TestSettleAfterRestart(t *testing.T) {
	for _, c := range []struct {
		name     string
		before   func(t *testing.T, s *scene)
		deadline time.Duration
		notice   bool
		quiet    bool
		calls    string
		status   Status
		failed   string
		fault    error
	}{
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
			calls: "failed resume failed", status: StatusRunning, failed: v1alpha1.ReasonThawed,
		},
		{
			name: "deadline passed: thawed", deadline: -time.Second,
			calls: "failed resume failed", status: StatusRunning, failed: v1alpha1.ReasonThawed,
		},
		{
			name: "committed but not recorded: recorded, never thawed", deadline: -time.Minute, quiet: true,
			before: func(t *testing.T, s *scene) { commit(t, s, "pod-1", 0) },
			calls:  "final", status: StatusPaused,
		},
		{
			name: "newest generation is of the pod before: thawed", deadline: -time.Minute,
			before: func(t *testing.T, s *scene) { commit(t, s, "pod-0", 0) },
			calls:  "failed resume failed", status: StatusRunning, failed: v1alpha1.ReasonThawed,
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
			calls:  "failed resume failed", status: StatusRunning, failed: v1alpha1.ReasonThawed,
		},
	} {
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

// commit puts a final generation of pod into the bucket and, where fence is above 0, a claim's fence behind it.
func commit(t *testing.T, s *scene, pod string, fence int64) {
	t.Helper()
	folder := s.target.Folder("test")
	w, err := s.evacuator.options.Store.Begin(t.Context(), folder, store.Meta{
		Number: 1, PodUID: pod, Node: "a", Final: true, Created: time.Now(),
	}, store.WriteOptions{})
	require.NoError(t, err)
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	if fence > 0 {
		require.NoError(t, s.evacuator.options.Store.Fence(t.Context(), folder, fence))
	}
}

func TestHoldOfEndedContainerIsDropped(t *testing.T) {
	s := newScene(t)
	s.targets, s.status = nil, StatusStopped
	require.NoError(t, s.evacuator.options.Holds.Set("gone"))
	s.round(t)
	require.False(t, s.held(t))
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
