package soak

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

// explain logs, once, what may help to understand a failure.
func (m *machine) explain(t *testing.T) {
	if !t.Failed() || m.explained {
		return
	}
	m.explained = true
	log, _ := os.ReadFile(agentLog)
	t.Logf("the agents' log ends with:\n%s", log[max(0, len(log)-8000):])
	r, _ := m.journal.update(nil)
	t.Logf("record: %+v", r)
	text, _ := os.ReadFile(base + "/out/bad")
	t.Logf("the workload says: %s", text)
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/*")
	for _, task := range tasks {
		stat, _ := os.ReadFile(task + "/stat")
		at, _ := os.ReadFile(task + "/wchan")
		call, _ := os.ReadFile(task + "/syscall")
		t.Logf("%s %s; %.60s; %s; %s", task, comm(task), stat, at, strings.TrimSpace(string(call)))
	}
}

func comm(folder string) string {
	name, _ := os.ReadFile(folder + "/comm")
	return strings.TrimSpace(string(name))
}

// toolsAtWork are the processes by which an agent does what it does.
func toolsAtWork() (pids []int) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		pid, err := strconv.Atoi(filepath.Base(folder))
		tool := slices.Contains([]string{"nsenter", "env", "runc", "criu"}, comm(folder))
		// A zombie is for the shell to reap.
		if args, _ := os.ReadFile(folder + "/cmdline"); err == nil && tool && len(args) > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// filesLeft are what an agent keeps of evacuations and dumps under way.
func filesLeft() (left []string) {
	for _, dir := range []string{handover.HoldDir, handover.HoldDir + "-safety", dumps} {
		found, _ := filepath.Glob(dir + "/*")
		left = append(left, found...)
	}
	return left
}

// requireClean holds that nothing is left of evacuations and dumps: no file, tool, mount, network namespace or cgroup.
func (h *history) requireClean(t *testing.T) {
	t.Helper()
	h.await(t, "no hold and no dump is left", func() bool { return len(filesLeft()) == 0 })
	for _, folder := range []string{h.pod.bundle + "/rootfs/data", h.pod.shm, h.pod.volume} {
		links, err := filepath.Glob(folder + "/link_remap.*")
		require.NoError(t, err)
		require.Empty(t, links)
	}
	h.agent.stop(t)
	h.agent = nil
	h.await(t, "no tool is at work", func() bool { return len(toolsAtWork()) == 0 })
	for mount := range mounts(t) {
		require.True(t, h.mounts[mount] || mount == h.pod.bundle+"/rootfs", "mount %s is left", mount)
	}
	for network := range networks() {
		require.True(t, h.networks[network], "network namespace %s is left", network)
	}
	for _, hierarchy := range []string{"", "*"} {
		groups, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, h.cgroups+"*"))
		require.NoError(t, err)
		for _, group := range groups {
			require.Equal(t, h.cgroups[1:]+h.pod.id, filepath.Base(group), "a cgroup is left")
		}
	}
}

// requireReaped holds that one more generation is all that it takes to get rid of what killed agents have uploaded.
func (h *history) requireReaped(t *testing.T) {
	t.Helper()
	h.agent = startAgent(t)
	h.agent.hears(noNotice)
	before := len(h.record(t).Safety)
	h.await(t, "a safety dump", func() bool { return len(h.record(t).Safety) > before })
	h.requireClean(t)
	_, err := h.store.Reap(t.Context(), folder(), store.ReapOptions{Keep: 1})
	require.NoError(t, err)
	usage, err := h.store.Usage(t.Context(), folder())
	require.NoError(t, err)
	require.Zero(t, usage.Orphans.Objects+usage.DeadPacks.Objects+usage.OpenPacks.Objects+usage.Unclassified.Objects, "%+v", usage)
}
