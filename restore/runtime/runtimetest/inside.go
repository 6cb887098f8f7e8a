// Package runtimetest runs tests of the runtime wrapper and its installation on a machine of their own: a Debian root
// with runc, CRIU and containerd, entered by pivot_root (CRIU refuses to work in a chroot), with its own mount and PID
// namespace. Writes go to a tmpfs over the root, processes end with the test: nothing is left.
package runtimetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// RootVariable names the Debian root.
const RootVariable = "LIFEBOAT_TEST_ROOT"

// insideVariable is set inside.
const insideVariable = "LIFEBOAT_TEST_INSIDE"

// enter takes the root, an empty folder, the test binary, the wrapper and the test's name. What the root's own
// configuration of CRIU says would hide what the test's does not.
const enter = `set -e
mount -t tmpfs tmpfs "$2"
cd "$2"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work" root
cd root
mkdir -p proc sys dev run tmp opt/lifeboat/bin opt/lifeboat/etc .old
cp "$3" test-binary
cp "$4" opt/lifeboat/bin/lifeboat-runtime
cp usr/sbin/criu opt/lifeboat/bin/criu
rm -f etc/criu/*.conf
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . .old
umount -l /.old
cd /
# Not by exec: the shell is process 1 and reaps what the test leaves behind.
/test-binary -test.v -test.run "$5" || exit 1
`

// Inside says whether the calling test runs in the root already. Where it does not, Inside runs this one test there, as a
// process of its own, passes its verdict on and returns false: the caller then returns. What a test skips inside counts as
// failed. The wrapper is at /opt/lifeboat/bin/lifeboat-runtime with the root's CRIU beside it.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return true
	}
	root := os.Getenv(RootVariable)
	if root == "" || os.Geteuid() != 0 {
		t.Skipf("needs root and %s, a Debian root with runc, criu and containerd (`make test` brings one)", RootVariable)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	wrapper := filepath.Join(t.TempDir(), "lifeboat-runtime")
	build := exec.Command("go", "build", "-trimpath", "-o", wrapper, "github.com/lifeboat-dev/lifeboat/cmd/lifeboat-runtime")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "build the wrapper: %s", output)

	command := exec.CommandContext(t.Context(), "unshare", "-m", "-p", "--fork", "--kill-child", "--propagation", "private",
		"sh", "-c", enter, "sh", root, t.TempDir(), self, wrapper, "^"+regexp.QuoteMeta(t.Name())+"$")
	command.Env = append(os.Environ(), insideVariable+"=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp")
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The kernel sends Pdeathsig when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	output, err = command.CombinedOutput()
	t.Logf("inside %s:\n%s", root, output)
	require.NoError(t, err, "the test failed inside")
	require.Contains(t, string(output), "--- PASS: "+t.Name())
	for line := range strings.Lines(string(output)) {
		require.False(t, strings.HasPrefix(strings.TrimSpace(line), "--- SKIP"), "skipped inside: %s", line)
	}
	return false
}
