package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

type thaws struct{ calls []string }

func (r *thaws) Resume(_ context.Context, id string) error {
	r.calls = append(r.calls, "resume "+id)
	return nil
}

func (r *thaws) Signal(_ context.Context, id string, signal syscall.Signal) error {
	r.calls = append(r.calls, fmt.Sprintf("signal %s %d", id, signal))
	return nil
}

type listOfRuntime []snapshot.Container

func (l listOfRuntime) Containers(context.Context) ([]snapshot.Container, error) { return l, nil }

func TestLiveContainersOfAPod(t *testing.T) {
	live, err := liveOf(listOfRuntime{
		{ID: "1", PodUID: "uid", Name: "runs", Status: snapshot.StatusRunning},
		{ID: "2", PodUID: "uid", Name: "held", Status: snapshot.StatusPaused},
		{ID: "3", PodUID: "uid", Name: "ended", Status: snapshot.StatusStopped},
		{ID: "4", PodUID: "another", Name: "runs", Status: snapshot.StatusRunning},
	})(t.Context(), "uid")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"1": "runs", "2": "held"}, live)
}

// A container that runs already may have been frozen for good since: its record outlives the thaw where the API server is away.
func TestAContainerIsThawedOnce(t *testing.T) {
	host, runc := t.TempDir(), &thaws{}
	dir := filepath.Join(host, handover.HeldDir, "uid")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "c1"), []byte("15\n"), 0o600))
	thaw := thaw(host, runc)
	holds := snapshot.Holds{Dir: filepath.Join(host, handover.HoldDir)}
	require.NoError(t, holds.Set("c1"))
	require.ErrorIs(t, thaw(t.Context(), "c1"), errEvacuating, "the agent ended within the thaw, and a notice came")
	require.Empty(t, runc.calls)
	_, err := holds.Clear("c1")
	require.NoError(t, err)
	require.NoError(t, thaw(t.Context(), "c1"))
	require.Equal(t, []string{"resume c1", "signal c1 15"}, runc.calls)
	require.NoDirExists(t, dir)
	require.NoError(t, thaw(t.Context(), "c1"))
	require.Len(t, runc.calls, 2, "it may be an evacuation that has frozen it")
}
