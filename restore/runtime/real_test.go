package runtime_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/restore/runtime"
	"github.com/lifeboat-dev/lifeboat/restore/runtime/runtimetest"
)

const (
	wrapper = "/opt/lifeboat/bin/lifeboat-runtime"
	images  = "/run/test/images"
	within  = 10 * time.Second
	tick    = 20 * time.Millisecond
)

// cgroups is how the names of this process's cgroups begin.
var cgroups = "/lifeboat-test-" + strconv.FormatInt(time.Now().UnixNano(), 36) + "-"

// machine is a node with the wrapper, runc, CRIU and an agent that answers as told.
type machine struct {
	mu      sync.Mutex
	replies []handover.PrepareReply // the last one over and over
	results []handover.ResultRequest
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{replies: []handover.PrepareReply{clean}}
	for _, dir := range []string{handover.HoldDir, images, "/run/test/work"} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	write(t, "/run/test/criu.conf", "network-lock skip\ntcp-close\nghost-limit 64M\n")
	listener, err := net.Listen("unix", handover.Socket)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/prepare", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		_ = json.NewEncoder(w).Encode(m.replies[0])
		m.replies = m.replies[min(1, len(m.replies)-1):]
	})
	mux.HandleFunc("POST /v1/result", func(_ http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		var result handover.ResultRequest
		_ = json.NewDecoder(r.Body).Decode(&result)
		m.results = append(m.results, result)
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return m
}

var clean = handover.PrepareReply{Action: handover.ActionCreate}

func restoreOf(imagePath string) handover.PrepareReply {
	return handover.PrepareReply{
		Action: handover.ActionRestore, ImagePath: imagePath, WorkPath: "/run/test/work", CRIUConfig: "/run/test/criu.conf",
	}
}

func (m *machine) answer(replies ...handover.PrepareReply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replies = replies
}

func (m *machine) lastResult(t *testing.T) handover.ResultRequest {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.NotEmpty(t, m.results)
	return m.results[len(m.results)-1]
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
}

// run runs runc or the wrapper with /dev/null as the container's stdio. An error carries its log.
func run(t *testing.T, args ...string) error {
	t.Helper()
	log := filepath.Join(t.TempDir(), "stderr")
	err := exec.CommandContext(t.Context(), args[0], append([]string{"--log", log}, args[1:]...)...).Run()
	if err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, readAll(log))
	}
	return nil
}

// sandbox keeps a UTS namespace with that hostname, and returns its path.
func sandbox(t *testing.T, hostname string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "unshare", "-u", "sh", "-c", "hostname "+hostname+"; echo; exec sleep 1000")
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	_, err = io.ReadFull(output, make([]byte, 1))
	require.NoError(t, err)
	return fmt.Sprintf("/proc/%d/ns/uts", command.Process.Pid)
}

func hostname(t *testing.T, uts string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "nsenter", "--uts="+uts, "hostname").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(output))
}

// container lays out the bundle of a counter as containerd would, and returns its path.
func container(t *testing.T, id, uts, root string) string {
	t.Helper()
	type object = map[string]any
	namespaces := []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts", "path": uts}}
	config, err := json.Marshal(object{
		"ociVersion": "1.0.2", "root": object{"path": root},
		"process": object{"args": []string{"/program", runtime.CountArgument, "/number"}, "cwd": "/", "user": object{"uid": 0, "gid": 0}},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
		},
		"linux":       object{"namespaces": namespaces, "cgroupsPath": cgroups + id},
		"annotations": map[string]string{"io.kubernetes.cri.container-type": "container"},
	})
	require.NoError(t, err)
	bundle := filepath.Join("/run/test/bundles", id)
	write(t, filepath.Join(bundle, "config.json"), string(config))
	program, err := os.ReadFile(wrapper)
	require.NoError(t, err)
	write(t, filepath.Join(root, "program"), string(program))
	t.Cleanup(func() {
		_ = exec.Command("runc", "delete", "--force", id).Run()
		for _, hierarchy := range []string{"", "*"} { // version 2, version 1
			left, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, cgroups+id))
			for _, dir := range left {
				_ = os.Remove(dir) // a restore that was killed midway leaves its empty cgroup
			}
		}
	})
	return bundle
}

func number(root string) int {
	text, _ := os.ReadFile(filepath.Join(root, "number"))
	value, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return value
}

// requireCounting waits until the number in root is above floor and still rises.
func requireCounting(t *testing.T, root string, floor int) {
	t.Helper()
	require.Eventually(t, func() bool { return number(root) > floor+2 }, within, tick, "the counter stands still")
}

func requireStill(t *testing.T, root string) {
	t.Helper()
	stands := number(root)
	require.Never(t, func() bool { return number(root) != stands }, 10*runtime.CountPause, tick, "something still counts")
}

// dumped runs a counter through the wrapper, dumps it and returns the number it stood at.
func dumped(t *testing.T, uts, root string) int {
	t.Helper()
	bundle := container(t, "source", uts, root)
	require.NoError(t, run(t, wrapper, "create", "--bundle", bundle, "source"))
	require.NoError(t, run(t, wrapper, "start", "source"))
	requireCounting(t, root, 0)
	t.Setenv("CRIU_CONFIG_FILE", "/run/test/criu.conf")
	require.NoError(t, run(t, "runc", "checkpoint", "--file-locks", "--image-path", images, "--work-path", "/run/test/work", "source"))
	return number(root)
}

func TestRestoreForReal(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	m := newMachine(t)
	root := "/run/test/root"
	stood := dumped(t, sandbox(t, "pod-on-a"), root)
	requireStill(t, root)

	m.answer(restoreOf(images))
	uts := sandbox(t, "pod-on-b")
	bundle := container(t, "copy", uts, root)
	require.NoError(t, run(t, wrapper, "create", "--bundle", bundle, "--pid-file", "/run/test/pid", "copy"))
	require.Equal(t, handover.ResultRequest{ContainerID: "copy"}, m.lastResult(t))
	requireCounting(t, root, stood)
	require.Equal(t, "pod-on-b", hostname(t, uts), "the sandbox keeps its name")
	require.FileExists(t, "/run/test/pid")
	require.NoError(t, run(t, wrapper, "start", "copy"), "it runs already")
	require.Error(t, run(t, wrapper, "start", "copy"), "runc refuses a second start")

	hold := filepath.Join(handover.HoldDir, "copy")
	write(t, hold, "")
	require.NoError(t, run(t, wrapper, "kill", "copy", "TERM"))
	require.Equal(t, "15\n", readAll(hold))
	requireCounting(t, root, number(root))
	require.NoError(t, run(t, wrapper, "kill", "copy", "KILL"))
	require.Eventually(t, func() bool {
		state, err := exec.Command(wrapper, "state", "copy").Output()
		return err == nil && strings.Contains(string(state), `"stopped"`)
	}, within, tick)
	require.NoError(t, run(t, wrapper, "delete", "copy"))
	require.NoFileExists(t, hold)
}

// broken copies the images and cuts off the first file that pattern names.
func broken(t *testing.T, pattern string) string {
	t.Helper()
	dir := "/run/test/broken-" + pattern[:strings.Index(pattern, "-")]
	require.NoError(t, os.CopyFS(dir, os.DirFS(images)))
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, found)
	require.NoError(t, os.Truncate(found[0], 10))
	return dir
}

// Whatever a restore stumbles over, early or late, the next round in the same create finds a clean place.
func TestRestoreOfBrokenImagesForReal(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	m := newMachine(t)
	root := "/run/test/root"
	stood := dumped(t, sandbox(t, "pod-on-a"), root)
	early, late := restoreOf(broken(t, "core-*.img")), restoreOf(broken(t, "ipcns-var-*.img"))
	uts := sandbox(t, "pod-on-b")
	create := func(id string) error {
		return run(t, wrapper, "create", "--bundle", container(t, id, uts, root), "--pid-file", "/run/test/pid-"+id, id)
	}

	m.answer(early)
	require.ErrorContains(t, create("never"), "CRIU's log")
	require.Contains(t, m.lastResult(t).Error, "Error (criu/")
	require.Error(t, run(t, "runc", "state", "never"), "nothing is left")
	requireStill(t, root)

	m.answer(early, late, clean)
	require.NoError(t, create("clean"))
	require.Contains(t, m.lastResult(t).Error, "Error (criu/")
	require.Equal(t, "pod-on-b", hostname(t, uts), "the sandbox keeps its name")
	requireStill(t, root)
	require.NoError(t, run(t, wrapper, "start", "clean"))
	require.Eventually(t, func() bool { return number(root) < stood }, within, tick, "it counts from 1")
	requirePID(t, "clean")
	require.NoError(t, run(t, wrapper, "delete", "--force", "clean"))

	require.NoError(t, os.WriteFile(root+"/number", []byte(strconv.Itoa(stood)+"\n"), 0o644))
	m.answer(early, late, restoreOf(images))
	require.NoError(t, create("copy"))
	require.Equal(t, handover.ResultRequest{ContainerID: "copy"}, m.lastResult(t))
	requireCounting(t, root, stood)
	require.Equal(t, "pod-on-b", hostname(t, uts))
	requirePID(t, "copy")
}

// requirePID holds that the container's pid file is about the process that runs.
func requirePID(t *testing.T, id string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "runc", "state", id).Output()
	require.NoError(t, err)
	var state struct {
		PID    int    `json:"pid"`
		Status string `json:"status"`
	}
	require.NoError(t, json.Unmarshal(output, &state))
	require.Equal(t, "running", state.Status)
	require.Equal(t, strconv.Itoa(state.PID), readAll("/run/test/pid-"+id))
}

// A wrapper that is killed at any moment of the restore, followed by containerd's `delete --force`, leaves nothing that
// runs.
func TestWrapperKilledForReal(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	m := newMachine(t)
	root := "/run/test/root"
	uts := sandbox(t, "pod")
	dumped(t, uts, root)
	files := readAll(root + "/number")
	m.answer(restoreOf(images))
	killed, survived := 0, false
	for delay := 5 * time.Millisecond; !survived; delay += 10 * time.Millisecond {
		// As the agent applies the files anew for each attempt.
		require.NoError(t, os.WriteFile(root+"/number", []byte(files), 0o644))
		id := "copy-" + strconv.Itoa(int(delay.Milliseconds()))
		bundle := container(t, id, uts, root)
		ctx, cancel := context.WithTimeout(t.Context(), delay)
		survived = exec.CommandContext(ctx, wrapper, "--log", "/run/test/log", "create", "--bundle", bundle, id).Run() == nil
		cancel()
		killed++
		require.Less(t, delay, time.Second, "no restore ever ends: %s", readAll("/run/test/log"))
		err := run(t, wrapper, "delete", "--force", id)
		require.NoError(t, err, "processes: %s", processes(err))
		requireStill(t, root)
	}
	t.Logf("%d wrappers were killed on their way, the last one was not", killed-1)
	require.Greater(t, killed, 5)
}

func readAll(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// processes lists what runs, for the message of an error.
func processes(err error) string {
	if err == nil {
		return ""
	}
	list, _ := exec.Command("ps", "axo", "pid,ppid,stat,wchan:20,args").CombinedOutput()
	return string(list)
}
