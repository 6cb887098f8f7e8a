package softdirty

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// RootVariable names the Debian root of the VM that `bed prepare` makes.
	RootVariable = "LIFEBOAT_VM_ROOT"
	// DiskVariable names the disk.
	DiskVariable   = "LIFEBOAT_VM_DISK"
	insideVariable = "LIFEBOAT_VM_INSIDE"
	// timeout bounds one run, grace is what of it is for boot and end.
	timeout, grace = 8 * time.Minute, time.Minute
)

// Inside says whether the test already runs in the VM. Otherwise it runs it there, it alone, from this test binary and as
// root, and passes on how it went; the caller then returns:
//
//	if !softdirty.Inside(t) {
//		return
//	}
//
// What a test skips inside counts as failed. env are variables for the test beside PATH, TMPDIR and HOME. The test finds its
// binary as /test-binary, the root writable, tmpfs at /tmp, /run and /dev/shm, and cgroups of version 2.
func Inside(t testing.TB, env ...string) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return true
	}
	root, disk := os.Getenv(RootVariable), os.Getenv(DiskVariable)
	if root == "" || disk == "" {
		t.Skipf("needs %s and %s, the parts of a virtual machine (`make test` brings them)", RootVariable, DiskVariable)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeoutCause(t.Context(), timeout, fmt.Errorf("it took longer than %s", timeout))
	defer cancel()
	var output bytes.Buffer
	status, err := VM{Root: root, Disk: disk}.Run(ctx, Job{
		Program: self, Output: &output,
		Args: []string{"-test.v", "-test.count=1", "-test.run", pattern(t.Name()), "-test.timeout", (timeout - grace).String()},
		Env:  append(env, insideVariable+"=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp", "HOME=/root"),
	})
	t.Logf("inside the VM:\n%s", output.Bytes())
	require.NoError(t, err)
	require.Zero(t, status, "the test failed inside the VM")
	require.Empty(t, Faults(output.String()))
	return false
}

// pattern is that of go test for a test of that name, and its subtests.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// Faults are why a run that ended well does not count: tests that were skipped, or that none was run.
func Faults(output string) []string {
	var all []string
	passed := false
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		passed = passed || strings.HasPrefix(line, "--- PASS")
		if strings.HasPrefix(line, "--- SKIP") {
			all = append(all, line)
		}
	}
	if !passed {
		all = append(all, "no test passed")
	}
	return all
}
