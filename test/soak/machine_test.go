package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/retry"
)

// machine is a node with runc, CRIU, and one pod after the other of the same workload.
type machine struct {
	runc    *criu.Runc
	store   *store.Store
	journal journal
	seed    uint64
	network string
	cgroups string
	// pods counts them; mounts and networks are what there was before.
	pods     int
	mounts   map[string]bool
	networks map[string]bool
	// explained says that what may help to understand a failure has been logged.
	explained bool
}

func newMachine(t *testing.T, seed uint64) *machine {
	t.Helper()
	m := &machine{runc: newRunc(), seed: seed, cgroups: "/lifeboat-soak-" + strconv.FormatInt(time.Now().UnixNano(), 36) + "-"}
	m.journal = newJournal(m.runc.Containers)
	for _, dir := range []string{base + "/lower", base + "/out", handover.HoldDir} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	require.NoError(t, os.WriteFile(m.runc.ConfigFile, []byte(criu.Config), 0o600))
	program, err := os.ReadFile("/test-binary")
	require.NoError(t, err)
	m.lower(t, "program", program, 0o755)
	block := make([]byte, page)
	fill(block, lowerSeed, 0, 1)
	for n := range 6 {
		m.lower(t, fmt.Sprint("data/lower-", n), block, 0o644)
	}
	require.NoError(t, os.WriteFile(wirePath, make([]byte, len(workers)*wireWords*8), 0o600))
	m.store, err = openStore(t.Context(), retry.Default)
	require.NoError(t, err)
	sandbox := exec.Command("unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 100000")
	output, err := sandbox.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, sandbox.Start())
	t.Cleanup(func() { _ = sandbox.Process.Kill(); _ = sandbox.Wait() })
	_, err = output.Read(make([]byte, 1))
	require.NoError(t, err)
	m.network = fmt.Sprintf("/proc/%d/ns/net", sandbox.Process.Pid)
	m.mounts, m.networks = mounts(t), networks()
	return m
}

const wirePath = base + "/out/wire"

func (m *machine) lower(t *testing.T, name string, content []byte, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(base, "lower", name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, content, mode))
}

// pod is one container and what it stands on.
type pod struct {
	id, folder string
	// bundle has rootfs, an overlay.
	bundle, shm, volume string
}

// newPod lays out the next pod's container, of which nothing runs yet, and makes it the Checkpoint's.
func (m *machine) newPod(t *testing.T) *pod {
	t.Helper()
	m.pods++
	id := fmt.Sprint("pod-", m.pods)
	folder := filepath.Join(base, "pods", id)
	p := &pod{
		id: id, folder: folder, bundle: folder + "/bundle", shm: folder + "/shm",
		volume: folder + "/volumes/kubernetes.io~empty-dir/scratch",
	}
	rootfs := p.bundle + "/rootfs"
	for _, dir := range []string{folder + "/upper", folder + "/work", rootfs, p.shm, p.volume} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", base, folder, folder)
	require.NoError(t, unix.Mount("overlay", rootfs, "overlay", 0, options))
	config, err := json.Marshal(m.config(p))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.bundle, "config.json"), config, 0o600))
	_, err = m.journal.update(func(r *record) {
		*r = record{PodUID: id, Epoch: int64(m.pods - 1), Broken: r.Broken}
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		m.explain(t)
		m.remove(t, p)
	})
	return p
}

func (m *machine) config(p *pod) any {
	type object = map[string]any
	capabilities := []string{"CAP_IPC_LOCK"}
	bind := func(at, from string) object {
		return object{"destination": at, "type": "bind", "source": from, "options": []string{"rbind", "rw"}}
	}
	return object{
		"ociVersion": "1.0.2", "root": object{"path": "rootfs"},
		"process": object{
			"args": []string{"/program"}, "cwd": "/", "user": object{"uid": 0, "gid": 0},
			"env":          []string{roleVariable + "=" + workers[0], seedVariable + "=" + strconv.FormatUint(m.seed, 10), "TMPDIR=/data"},
			"capabilities": object{"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
		},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			bind("/dev/shm", p.shm), bind("/scratch", p.volume), bind("/out", base+"/out"),
		},
		"linux": object{
			"namespaces":  []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network", "path": m.network}},
			"cgroupsPath": m.cgroups + p.id,
		},
		"annotations": map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-namespace": namespace,
			"io.kubernetes.cri.sandbox-name": podName, "io.kubernetes.cri.sandbox-uid": p.id, "io.kubernetes.cri.container-name": "main",
		},
	}
}

// oci runs runc with /dev/null as the container's input and output.
func (m *machine) oci(ctx context.Context, args ...string) error {
	log := filepath.Join(base, "runc.log")
	_ = os.Remove(log)
	cmd := exec.CommandContext(ctx, m.runc.Binary, append([]string{"--root", m.runc.Root, "--log", log}, args...)...)
	cmd.Env = append(os.Environ(), "CRIU_CONFIG_FILE="+m.runc.ConfigFile)
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log)
		return fmt.Errorf("runc %v: %w: %s", args, err, said)
	}
	return nil
}

// start runs the workload from its beginning.
func (m *machine) start(t *testing.T) *pod {
	t.Helper()
	p := m.newPod(t)
	require.NoError(t, m.oci(t.Context(), "run", "--detach", "--bundle", p.bundle, p.id))
	return p
}

// kill ends the pod's processes whatever they are doing, and forgets the container.
func (m *machine) kill(t *testing.T, p *pod) {
	t.Helper()
	m.end(p)
	m.remove(t, p)
}

func (m *machine) end(p *pod) {
	ctx := context.Background()
	_ = m.runc.Signal(ctx, p.id, unix.SIGKILL)
	_ = m.runc.Resume(ctx, p.id) // the freezer of cgroup v1 keeps what is killed
	_ = m.oci(ctx, "delete", "--force", p.id)
}

// remove takes away what the pod stood on.
func (m *machine) remove(t *testing.T, p *pod) {
	t.Helper()
	if _, err := os.Stat(p.folder); err != nil {
		return
	}
	m.end(p)
	for _, hierarchy := range []string{"", "*"} {
		left, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, m.cgroups+p.id))
		for _, dir := range left {
			_ = os.Remove(dir)
		}
	}
	require.NoError(t, unix.Unmount(p.bundle+"/rootfs", 0))
	require.NoError(t, os.RemoveAll(p.folder))
}

func folder() store.Target {
	return store.Target{Cluster: cluster, Namespace: namespace, Name: podName, UID: checkpointUID}
}

// restore puts another pod in the place of one that is gone, from the generation that HEAD names, all of it verified.
func (m *machine) restore(t *testing.T) (*pod, store.Meta) {
	t.Helper()
	ctx := t.Context()
	p := m.newPod(t)
	require.NoError(t, m.store.Fence(ctx, folder(), int64(m.pods-1)))
	head, err := m.store.Head(ctx, folder())
	require.NoError(t, err)
	r, err := m.store.Open(ctx, folder(), head.Number, head.WrittenEpoch)
	require.NoError(t, err)
	report, err := r.Verify(ctx, store.VerifyOptions{})
	require.NoError(t, err)
	require.Empty(t, report.Faults)
	images := p.folder + "/images"
	require.NoError(t, fetch(ctx, r, map[string]string{
		"images/main": images, "layers/main": p.bundle + "/rootfs", "shm": p.shm, "volumes/scratch": p.volume,
	}))
	work := p.folder + "/criu"
	err = m.oci(ctx, "restore", "--detach", "--no-subreaper", "--file-locks", "--image-path", images, "--work-path", work,
		"--bundle", p.bundle, p.id)
	if err != nil {
		log, _ := os.ReadFile(work + "/restore.log")
		lines := strings.Split(string(log), "\n")
		t.Logf("CRIU says: %s", strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
	require.NoError(t, err)
	return p, r.Meta()
}

// status is the container's, as runc says.
func (m *machine) status(t *testing.T, p *pod) snapshot.Status {
	t.Helper()
	status, err := m.runc.Status(t.Context(), p.id)
	require.NoError(t, err)
	return status
}

// mounts are the machine's.
func mounts(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	all := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		all[strings.Fields(line)[4]] = true
	}
	return all
}

// networks are the network namespaces in which anything runs.
func networks() map[string]bool {
	all := map[string]bool{}
	links, _ := filepath.Glob("/proc/[0-9]*/task/*/ns/net")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			all[to] = true
		}
	}
	return all
}
