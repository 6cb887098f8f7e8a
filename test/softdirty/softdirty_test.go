package softdirty

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInside(t *testing.T) {
	if !Inside(t, "SOME=thing") {
		return
	}
	require.Equal(t, "thing", os.Getenv("SOME"))
	require.Zero(t, os.Geteuid())
	for _, program := range []string{"/test-binary", "/usr/sbin/criu", "/usr/sbin/runc"} {
		require.FileExists(t, program)
	}
}

func TestStatusOfAJob(t *testing.T) {
	root, disk := os.Getenv(RootVariable), os.Getenv(DiskVariable)
	if root == "" || disk == "" {
		t.Skip("needs the parts of a virtual machine (`make test` brings them)")
	}
	var output bytes.Buffer
	status, err := VM{Root: root, Disk: disk}.Run(t.Context(), Job{
		Program: root + "/usr/bin/bash", Args: []string{"-c", `printf "%s\n" "$@"; sleep 0.1 & kill -9 $$`, "", "a b", "ü"},
		Env: []string{"PATH=/usr/bin"}, Output: &output,
	})
	require.NoError(t, err)
	require.Equal(t, 128+9, status)
	require.Equal(t, "a b\nü\n", output.String())
}

func TestEndOfContextEndsTheVM(t *testing.T) {
	root, disk := os.Getenv(RootVariable), os.Getenv(DiskVariable)
	if root == "" || disk == "" {
		t.Skip("needs the parts of a virtual machine (`make test` brings them)")
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := VM{Root: root, Disk: disk}.Run(ctx, Job{
		Program: root + "/usr/bin/bash", Args: []string{"-c", `echo here; read < <(sleep 1000)`},
		Env: []string{"PATH=/usr/bin"}, Output: writerFunc(func([]byte) { cancel() }),
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name, output string
		faulty       bool
	}{
		{"passed", "=== RUN TestA\n--- PASS: TestA (0.1s)\nPASS\n", false},
		{"skipped", "--- PASS: TestA (0.1s)\n    --- SKIP: TestA/b (0.1s)\nPASS\n", true},
		{"none", "testing: warning: no tests to run\nPASS\n", true},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.faulty, len(Faults(c.output)) > 0) })
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
