package criu

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// fakeRunc is a runtime whose container c1 has the status in the file "status", and which logs its calls. nsenter is
// replaced by a script that stays in this namespace.
func fakeRunc(t *testing.T, script string) (*Runc, string) {
	t.Helper()
	dir := t.TempDir()
	program := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/bash\n"+text), 0o755))
	}
	program("nsenter", `while [ "$1" != -- ]; do shift; done; shift; exec "$@"`)
	program("runc", `cd `+dir+`; echo "$@" >> calls; root=$2; shift 2; verb=$1; shift
case $verb in
state) [ "$(cat status)" = gone ] && { echo "container does not exist" >&2; exit 1; }; echo "{\"id\":\"c1\",\"status\":\"$(cat status)\"}";;
pause) [ -s busy ] && { sed -i 1d busy; echo "unable to freeze" >&2; exit 1; }; echo paused > status;;
resume) echo running > status;;
`+script+`
esac`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "status"), []byte("running\n"), 0o644))
	return &Runc{Binary: filepath.Join(dir, "runc"), Root: "/root", CRIUDir: "/criu", ConfigFile: "/conf", HostRoot: "/"}, dir
}

func setStatus(t *testing.T, dir, status string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "status"), []byte(status+"\n"), 0o644))
}

func TestTurns(t *testing.T) {
	ctx := t.Context()
	r, dir := fakeRunc(t, "")
	for range 2 {
		require.NoError(t, r.Pause(ctx, "c1"))
	}
	require.NoError(t, r.Resume(ctx, "c1"))
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(calls), " pause "), "what is paused is not paused again")
	setStatus(t, dir, "gone")
	require.ErrorIs(t, r.Pause(ctx, "c1"), snapshot.ErrGone)
	status, err := r.Status(ctx, "c1")
	require.NoError(t, err)
	require.Equal(t, snapshot.StatusStopped, status)
}

func TestPauseOnABusyNode(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails int
		want  string
	}{
		{"comes to a stop in the end", pauseTries - 1, ""},
		{"does not", pauseTries, "unable to freeze"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir := fakeRunc(t, "")
			require.NoError(t, os.WriteFile(filepath.Join(dir, "busy"), []byte(strings.Repeat("\n", c.fails)), 0o644))
			err := r.Pause(t.Context(), "c1")
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestEndMeanwhileIsTold(t *testing.T) {
	r, _ := fakeRunc(t, `kill) echo gone > status; echo "no such process" >&2; exit 1;;`)
	require.ErrorIs(t, r.Signal(t.Context(), "c1", syscall.SIGKILL), snapshot.ErrGone)
}

func TestContainers(t *testing.T) {
	const listed = `[{"id":"s","status":"running","annotations":{"io.kubernetes.cri.container-type":"sandbox"}},
{"id":"c1","pid":7,"status":"running","bundle":"/b","annotations":{"io.kubernetes.cri.container-type":"container",
"io.kubernetes.cri.sandbox-namespace":"ns","io.kubernetes.cri.sandbox-name":"job","io.kubernetes.cri.sandbox-uid":"u",
"io.kubernetes.cri.container-name":"main"}}, {"id":"other","status":"running"}]`
	r, dir := fakeRunc(t, `list) cat listed;;`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "listed"), []byte(listed), 0o644))
	got, err := r.Containers(t.Context())
	require.NoError(t, err)
	require.Equal(t, []snapshot.Container{{
		ID: "c1", PID: 7, Status: "running", Bundle: "/b", Namespace: "ns", Pod: "job", PodUID: "u", Name: "main",
	}}, got)
}

func TestDump(t *testing.T) {
	const log = `[ "$1" = --image-path ] && work=$4; echo "(00.1) Error (criu/files.c:1): Can't dump io_uring" > $work/dump.log`
	for _, c := range []struct{ name, script, fault string }{
		{"CRIU refuses", `checkpoint) ` + log + `; exit 1;;`, "Can't dump io_uring"},
		{"the container did not stay frozen", `checkpoint) echo running > status;;`, "did not stay frozen"},
		{"no statistics", `checkpoint) ;;`, "statistics"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir := fakeRunc(t, c.script)
			setStatus(t, dir, "paused")
			_, err := r.Dump(t.Context(), "c1", filepath.Join(dir, "dump"))
			require.ErrorContains(t, err, c.fault)
		})
	}
}

func TestDumpEndsWithItsContext(t *testing.T) {
	r, dir := fakeRunc(t, `checkpoint) sleep 600 & echo $! > child; wait;;`)
	setStatus(t, dir, "paused")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := r.Dump(ctx, "c1", filepath.Join(dir, "dump"))
		ended <- err
	}()
	var child []byte
	require.Eventually(t, func() bool {
		child, _ = os.ReadFile(filepath.Join(dir, "child"))
		return len(child) > 0
	}, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Eventually(t, func() bool {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ")
	}, 10*time.Second, time.Millisecond, "runc's child outlived the call")
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dump.log")
	require.Empty(t, tail(path))
	require.NoError(t, os.WriteFile(path, []byte("a\nWarn\n(00.2) Error (x.c:1): bad\nb\n"), 0o644))
	require.Equal(t, "; CRIU says: (00.2) Error (x.c:1): bad", tail(path))
	require.NoError(t, os.WriteFile(path, []byte("a\nb\n"), 0o644))
	require.Equal(t, "; CRIU says: a | b", tail(path))
}
