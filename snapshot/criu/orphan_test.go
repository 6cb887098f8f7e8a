package criu

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A dump of an earlier agent waits for somebody to fetch pages: it is killed, once, with the container frozen, before that is
// thawed.
func TestDumpOfAnEarlierAgentIsEnded(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a network namespace")
	}
	r, dir := fakeRunc(t, "checkpoint) echo $$ > dumping; while :; do sleep 1; done;;")
	require.NoError(t, inRoom(func() error {
		server, err := net.Listen("tcp4", "127.0.0.1:7171")
		if err != nil {
			return err
		}
		defer server.Close()
		// In the background of a shell that ends: its parent is not this process.
		dump := exec.Command("sh", "-c", `setsid "$0" --root /root checkpoint --leave-running c1 > /dev/null 2>&1 &`, r.Binary)
		if err := dump.Run(); err != nil {
			return err
		}
		require.Eventually(t, func() bool { return len(r.orphans("c1")) == 1 }, 10*time.Second, time.Millisecond)
		require.Empty(t, r.orphans("c2"))
		return r.Resume(t.Context(), "c1")
	}))
	require.Empty(t, r.orphans("c1"))
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(calls), " pause "))
	require.Equal(t, 1, strings.Count(string(calls), " resume "))
}

// What a call is wrapped in to leave its cgroups leaves it what it is.
func TestDumpsRunApart(t *testing.T) {
	for _, c := range []struct {
		name       string
		files, got []string
	}{
		{"cgroup v2", []string{"/cgroup.procs", "/system.slice/cgroup.procs"}, []string{"/cgroup.procs"}},
		{"cgroup v1", []string{"/memory/cgroup.procs", "/freezer/cgroup.procs"}, []string{"/memory/cgroup.procs", "/freezer/cgroup.procs"}},
		{"both", []string{"/unified/cgroup.procs", "/cpu,cpuacct/cgroup.procs"}, []string{"/unified/cgroup.procs", "/cpu,cpuacct/cgroup.procs"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir := fakeRunc(t, "checkpoint) ;;")
			r.HostRoot = dir
			cgroups := filepath.Join(dir, "sys/fs/cgroup")
			require.NoError(t, os.MkdirAll(cgroups+"/empty", 0o755))
			for _, file := range c.files {
				require.NoError(t, os.MkdirAll(filepath.Dir(cgroups+file), 0o755))
				require.NoError(t, os.WriteFile(cgroups+file, nil, 0o644))
			}
			_, err := r.run(t.Context(), "checkpoint", "--image-path", "a b", "c1")
			require.NoError(t, err)
			calls, err := os.ReadFile(filepath.Join(dir, "calls"))
			require.NoError(t, err)
			require.Equal(t, "--root /root checkpoint --image-path a b c1\n", string(calls))
			var got []string
			for _, file := range c.files {
				text, err := os.ReadFile(cgroups + file)
				require.NoError(t, err)
				if len(text) > 0 {
					got = append(got, file)
				}
			}
			require.Equal(t, c.got, got)
			require.NoFileExists(t, cgroups+"/empty/cgroup.procs")
		})
	}
}
