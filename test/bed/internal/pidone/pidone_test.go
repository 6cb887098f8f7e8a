package pidone

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

func newReaper(t *testing.T) *Reaper {
	t.Helper()
	r := NewReaper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func TestCommand(t *testing.T) {
	r := newReaper(t)
	require.NoError(t, r.Command("true"))
	err := r.Command("sh", "-c", "echo the cause >&2; exit 3")
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "the cause")
	require.ErrorContains(t, r.Command("no-such-program"), "no-such-program")
	require.ErrorContains(t, r.Command("sh", "-c", "kill -9 $$"), "killed")
}

func TestServiceLife(t *testing.T) {
	r := newReaper(t)
	log := filepath.Join(t.TempDir(), "log")
	s := NewService(r, zerolog.Nop(), "sleeper", log, Spec{Args: []string{"sh", "-c", "echo started; exec sleep 1000"}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	running := func(other int) int {
		var pid int
		require.Eventually(t, func() bool { pid = s.PID(); return pid != 0 && pid != other }, time.Minute, time.Millisecond)
		return pid
	}

	first := running(0)
	s.Restart(syscall.SIGTERM)
	second := running(first)
	require.NoError(t, syscall.Kill(second, syscall.SIGKILL)) // an accident
	third := running(second)
	s.Stop(syscall.SIGTERM)
	require.Zero(t, s.PID())
	require.ErrorIs(t, syscall.Kill(third, 0), syscall.ESRCH)
	s.Start()
	last := running(third)
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(b), "started")
	}, time.Minute, time.Millisecond)

	cancel()
	require.NoError(t, <-done)
	require.ErrorIs(t, syscall.Kill(last, 0), syscall.ESRCH, "ends with its context")
}
