package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/test/softdirty"
)

const (
	// rootVariable names a Debian root with runc and CRIU; `bed prepare` makes one.
	rootVariable   = "LIFEBOAT_TEST_ROOT"
	insideVariable = "LIFEBOAT_CRIU_TEST_INSIDE"
)

// enter makes a machine of its own for one test: $1 is the Debian root, $2 an empty folder, $3 the test binary, $4 the test.
const enter = `set -e
mount -t tmpfs tmpfs "$2"
cd "$2"
mkdir up work root
mount -t overlay overlay -o "lowerdir=$1,upperdir=up,workdir=work" root
cd root
mkdir -p proc sys dev run tmp old
cp "$3" test-binary
rm -f etc/criu/*.conf
mount -t proc proc proc
for d in sys dev; do mount --rbind /$d $d; done
for d in run tmp; do mount -t tmpfs tmpfs $d; done
pivot_root . old
umount -l /old
cd /
# Process 1 stays a shell, which reaps what the test leaves behind.
/test-binary -test.v -test.count=1 -test.run "$4" -test.bench "$5" -test.benchtime 10x || exit 1
`

// inside says whether the test already runs on such a machine. Otherwise it runs it on one and passes on how it went; the
// caller then returns. What a test skips inside counts as failed.
func inside(t testing.TB) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return true
	}
	root := os.Getenv(rootVariable)
	if root == "" || os.Geteuid() != 0 {
		t.Skipf("needs root and %s, a Debian root with runc and criu (`make test` brings one)", rootVariable)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	run, bench := "^"+regexp.QuoteMeta(t.Name())+"$", "^$"
	if _, ok := t.(*testing.B); ok {
		run, bench = bench, run
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "-m", "-p", "--fork", "--kill-child", "--propagation", "private",
		"sh", "-c", enter, "sh", root, t.TempDir(), self, run, bench)
	cmd.Env = append(os.Environ(), insideVariable+"=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The kernel sends Pdeathsig when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	output, err := cmd.CombinedOutput()
	t.Logf("inside %s:\n%s", root, output)
	require.NoError(t, err, "the test failed inside")
	if bench == "^$" {
		require.Empty(t, softdirty.Faults(string(output)))
	} else {
		require.Contains(t, string(output), "\n"+t.Name())
	}
	return false
}

// node is a machine with runc, CRIU and containers of the test binary.
type node struct {
	runc    *Runc
	network string
	cgroups string
	// restoreFlags are those that the runtime needs beside runc's.
	restoreFlags []string
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{
		runc:    &Runc{Binary: "/usr/sbin/runc", Root: "/run/runc", CRIUDir: "/usr/sbin", ConfigFile: "/run/criu.conf", HostRoot: "/"},
		cgroups: "/lifeboat-criu-" + strconv.FormatInt(time.Now().UnixNano(), 36) + "-",
	}
	require.NoError(t, os.WriteFile(n.runc.ConfigFile, []byte(Config), 0o600))
	sandbox := exec.Command("unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 1000")
	output, err := sandbox.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, sandbox.Start())
	t.Cleanup(func() { _ = sandbox.Process.Kill(); _ = sandbox.Wait() })
	_, err = output.Read(make([]byte, 1))
	require.NoError(t, err)
	n.network = fmt.Sprintf("/proc/%d/ns/net", sandbox.Process.Pid)
	return n
}

// container lays out a bundle of the test binary in that role, with the host's network where network is empty.
func (n *node) container(t testing.TB, id, role, network string) (bundle, root string) {
	t.Helper()
	type object = map[string]any
	namespaces := []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}
	if network != "" {
		namespaces = append(namespaces, object{"type": "network", "path": network})
	}
	bundle, root = filepath.Join("/run/bundles", id), filepath.Join("/run/roots", id)
	config, err := json.Marshal(object{
		"ociVersion": "1.0.2", "root": object{"path": root},
		"process": object{
			"args": []string{"/program"}, "cwd": "/", "user": object{"uid": 0, "gid": 0}, "env": []string{roleVariable + "=" + role},
			"capabilities": object{"bounding": []string{"CAP_IPC_LOCK"}, "effective": []string{"CAP_IPC_LOCK"}, "permitted": []string{"CAP_IPC_LOCK"}},
		},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
		},
		"linux": object{"namespaces": namespaces, "cgroupsPath": n.cgroups + id},
	})
	require.NoError(t, err)
	for _, dir := range []string{bundle, root} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600))
	program, err := os.ReadFile("/test-binary")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "program"), program, 0o755))
	t.Cleanup(func() {
		_ = n.runc.Resume(context.Background(), id)
		_ = exec.Command(n.runc.Binary, "--root", n.runc.Root, "delete", "--force", id).Run()
		for _, hierarchy := range []string{"", "*"} {
			left, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, n.cgroups+id))
			for _, dir := range left {
				_ = os.Remove(dir)
			}
		}
	})
	return bundle, root
}

// runOCI runs runc with /dev/null as the container's input and output.
func (n *node) runOCI(t testing.TB, args ...string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.CommandContext(t.Context(), n.runc.Binary, append([]string{"--root", n.runc.Root, "--log", log}, args...)...)
	cmd.Env = append(os.Environ(), "CRIU_CONFIG_FILE="+n.runc.ConfigFile)
	err := cmd.Run()
	said, _ := os.ReadFile(log)
	require.NoError(t, err, "%s %v: %s", n.runc.Binary, args, said)
}

// kill ends a frozen container, which runs no more, and forgets it.
func (n *node) kill(t testing.TB, id string) {
	t.Helper()
	require.NoError(t, n.runc.Signal(t.Context(), id, syscall.SIGKILL))
	// runc thaws what it kills, where the freezer of cgroup v1 would keep it.
	if err := n.runc.Resume(t.Context(), id); !errors.Is(err, snapshot.ErrGone) {
		require.NoError(t, err)
	}
	n.runOCI(t, "delete", "--force", id)
}

// rounds are how often each process of a workload in root has proved its memory.
func rounds(t testing.TB, root string) map[string]int {
	t.Helper()
	bad, err := os.ReadFile(filepath.Join(root, "bad"))
	require.ErrorIs(t, err, os.ErrNotExist, "memory differs: %s", bad)
	all := map[string]int{}
	for _, name := range []string{"parent", "child"} {
		text, _ := os.ReadFile(filepath.Join(root, name))
		if value, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			all[name] = value
		}
	}
	return all
}

// requireRounds waits until all processes have proved their memory three times more than floor says.
func requireRounds(t testing.TB, root string, floor map[string]int) {
	t.Helper()
	require.Eventually(t, func() bool {
		now := rounds(t, root)
		return now["parent"] > floor["parent"]+3 && now["child"] > floor["child"]+3
	}, 3*time.Minute, 20*time.Millisecond, "the workload does not go on from %v", floor)
}

// requireStill holds that nothing in root goes on.
func requireStill(t testing.TB, root string) {
	t.Helper()
	stands := rounds(t, root)
	require.Never(t, func() bool {
		now := rounds(t, root)
		return now["parent"] != stands["parent"] || now["child"] != stands["child"]
	}, 400*time.Millisecond, 50*time.Millisecond, "it runs")
}
