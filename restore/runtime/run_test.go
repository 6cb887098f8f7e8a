package runtime

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// fakeRuntime notes its arguments and two variables. A file "hang" beside it makes a restore hang, each file "fail-*"
// one restore fail, and a file "stuck" every delete.
const fakeRuntime = `#!/bin/sh
dir=$(dirname "$0")
echo "$@" >> "$dir/calls"
case " $* " in
*" restore "*) ;;
*" delete "*) [ ! -e "$dir/stuck" ]; exit ;;
*) exit 0 ;;
esac
echo "PATH=$PATH CRIU_CONFIG_FILE=$CRIU_CONFIG_FILE" > "$dir/env"
[ ! -e "$dir/hang" ] || exec sleep 60
for fault in "$dir"/fail-*; do
	[ -e "$fault" ] || exit 0
	rm "$fault"
	echo '{"level":"error","msg":"criu failed: type NOTIFY errno 0","time":"2026-01-01T00:00:00Z"}' >> "$dir/log.json"
	printf '(00.1) fine\n(00.2) Error (criu/files.c:1): the cause\n(00.3) more\n' > "$dir/work/restore.log"
	exit 1
done
`

// impatient is an Ask or Create that a test waits for to the end.
const impatient = 200 * time.Millisecond

// bench is a node of one wrapper: a fake runtime, a bundle and, where started, an agent.
type bench struct {
	dir      string
	options  Options
	passed   []string
	stderr   bytes.Buffer
	prepared []handover.PrepareRequest
	results  []handover.ResultRequest
	// deaf makes the agent refuse results, and leaves makes it end after the first one.
	deaf, leaves bool
}

func newBench(t *testing.T, annotations map[string]string) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "lifeboat") // a unix socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, name := range []string{"bundle", "work", "hold"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "runc"), []byte(fakeRuntime), 0o700))
	config, err := json.Marshal(map[string]any{"annotations": annotations})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bundle", "config.json"), config, 0o600))
	b := &bench{dir: dir}
	b.options = Options{
		Runtime: filepath.Join(dir, "runc"), ToolDir: "/opt/tools", Socket: filepath.Join(dir, "agent.sock"),
		RestoredDir: filepath.Join(dir, "restored"), HoldDir: filepath.Join(dir, "hold"), Stderr: &b.stderr,
		Times: Times{Create: time.Minute, Ask: time.Minute, Result: impatient, Await: impatient, Pause: 5 * time.Millisecond},
		Exec:  func(_ string, argv, _ []string) error { b.passed = argv[1:]; return nil },
	}
	return b
}

// answer is one of the agent's: a status with a body, or breaksOff.
type answer struct {
	status int
	body   any
}

// breaksOff is the answer of an agent that ends while it is asked.
var breaksOff = answer{}

// agent starts an agent that gives these answers, the last one over and over.
func (b *bench) agent(t *testing.T, answers ...answer) {
	t.Helper()
	listener, err := net.Listen("unix", b.options.Socket)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/prepare", func(w http.ResponseWriter, r *http.Request) {
		var request handover.PrepareRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		answer := answers[min(len(b.prepared), len(answers)-1)]
		b.prepared = append(b.prepared, request)
		if answer == breaksOff {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(answer.status)
		if text, ok := answer.body.(string); ok {
			_, _ = w.Write([]byte(text))
			return
		}
		_ = json.NewEncoder(w).Encode(answer.body)
	})
	mux.HandleFunc("POST /v1/result", func(w http.ResponseWriter, r *http.Request) {
		if b.deaf {
			http.Error(w, "no API server", http.StatusServiceUnavailable)
			return
		}
		var request handover.ResultRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		b.results = append(b.results, request)
		if b.leaves {
			_ = os.Remove(b.options.Socket)
		}
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func (b *bench) log() string { return filepath.Join(b.dir, "log.json") }

func (b *bench) run(t *testing.T, args ...string) int {
	t.Helper()
	b.passed = nil
	return Run(t.Context(), append([]string{"lifeboat-runtime"}, args...), b.options)
}

func (b *bench) create(t *testing.T, more ...string) int {
	t.Helper()
	args := append([]string{"--root", "/run/x", "--log", b.log(), "--log-format", "json", "create", "--bundle",
		filepath.Join(b.dir, "bundle"), "--pid-file", "/tmp/pid", "--no-new-keyring", "--no-pivot"}, more...)
	return b.run(t, append(args, "c1")...)
}

var clean = answer{200, handover.PrepareReply{Action: handover.ActionCreate}}

func (b *bench) restore() answer {
	return answer{200, handover.PrepareReply{
		Action: handover.ActionRestore, ImagePath: "/images", WorkPath: filepath.Join(b.dir, "work"), CRIUConfig: "/criu.conf",
	}}
}

// failing makes that many restores fail.
func (b *bench) failing(t *testing.T, restores int) {
	t.Helper()
	for number := range restores {
		b.touch(t, "fail-"+strconv.Itoa(number))
	}
}

func (b *bench) touch(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, name), nil, 0o600))
}

func (b *bench) requireMarkers(t *testing.T, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(b.options.RestoredDir)
	require.NoError(t, err)
	require.Len(t, entries, len(names))
	for _, name := range names {
		require.FileExists(t, filepath.Join(b.options.RestoredDir, name))
	}
}

// verbs are what the runtime beneath was asked for, one word a call.
func (b *bench) verbs(t *testing.T) string {
	t.Helper()
	var verbs []string
	for _, call := range b.calls(t) {
		verbs = append(verbs, ParseInvocation(strings.Fields(call)).Command)
	}
	return strings.Join(verbs, " ")
}

// calls are the command lines that the runtime beneath has seen.
func (b *bench) calls(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, "calls"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

var podAnnotations = map[string]string{
	annotationContainerType: "container", annotationNamespace: "ns", annotationPod: "pod", annotationPodUID: "uid",
	annotationSandboxID: "sandbox", annotationContainer: "main",
}

func replacement() map[string]string {
	annotations := map[string]string{annotationRestoreFrom: "pod/3"}
	for key, value := range podAnnotations {
		annotations[key] = value
	}
	return annotations
}

func TestAnnotationIsTheAPIs(t *testing.T) {
	require.Equal(t, v1alpha1.AnnotationRestoreFrom, annotationRestoreFrom)
}

func TestCreateWithoutRestore(t *testing.T) {
	for name, test := range map[string]struct {
		annotations map[string]string
		status      int
		body        any
		passes      bool
		message     string
	}{
		"no agent":                       {annotations: podAnnotations, passes: true},
		"no agent, but a state to go on": {annotations: replacement(), message: "continues checkpoint pod/3"},
		"nothing waits":                  {annotations: podAnnotations, status: 200, body: handover.PrepareReply{Action: "create"}, passes: true},
		"the agent refuses":              {annotations: podAnnotations, status: 503, body: "bucket unavailable\n", message: "bucket unavailable (status 503)"},
		"an answer from the future":      {annotations: podAnnotations, status: 200, body: handover.PrepareReply{Action: "fly"}, message: "different versions"},
		"an answer without images":       {annotations: podAnnotations, status: 200, body: handover.PrepareReply{Action: "restore"}, message: "lacks imagePath"},
		"an answer that is no JSON":      {annotations: podAnnotations, status: 200, body: "{", message: "read the lifeboat agent's answer"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, test.annotations)
			if test.status != 0 {
				b.agent(t, answer{test.status, test.body})
			}
			b.options.Times.Ask = impatient
			status := b.create(t)
			require.Empty(t, b.results)
			if test.passes {
				require.Zero(t, status, b.stderr.String())
				require.Equal(t, "--root", b.passed[0])
				require.Equal(t, "c1", b.passed[len(b.passed)-1])
				return
			}
			require.Equal(t, 1, status)
			require.Nil(t, b.passed)
			require.Contains(t, b.stderr.String(), test.message)
			require.Contains(t, lastError(b.log(), 0), test.message)
		})
	}
}

func TestCreateRestores(t *testing.T) {
	b := newBench(t, replacement())
	b.agent(t, b.restore())
	require.Zero(t, b.create(t), b.stderr.String())

	require.Equal(t, []handover.PrepareRequest{{
		ContainerID: "c1", Bundle: filepath.Join(b.dir, "bundle"), Namespace: "ns", Pod: "pod", PodUID: "uid",
		Container: "main", SandboxID: "sandbox", RestoreFrom: "pod/3",
	}}, b.prepared)
	require.Equal(t, []string{"--root /run/x --log " + b.log() + " --log-format json restore --detach --no-subreaper " +
		"--file-locks --bundle " + b.dir + "/bundle --image-path /images --work-path " + b.dir + "/work " +
		"--pid-file /tmp/pid --no-pivot c1"}, b.calls(t))
	env, err := os.ReadFile(filepath.Join(b.dir, "env"))
	require.NoError(t, err)
	require.Equal(t, "PATH=/opt/tools:"+os.Getenv("PATH")+" CRIU_CONFIG_FILE=/criu.conf\n", string(env))
	require.Equal(t, []handover.ResultRequest{{ContainerID: "c1"}}, b.results)
	require.FileExists(t, filepath.Join(b.options.RestoredDir, "c1"))

	require.Zero(t, b.run(t, "start", "c1"))
	require.Nil(t, b.passed, "it runs already")
	require.Zero(t, b.run(t, "start", "c1"))
	require.Equal(t, []string{"start", "c1"}, b.passed, "a second start is the runtime's to refuse")
}

func TestCreateRestoresThoughTheResultIsLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, podAnnotations)
	b.deaf = true
	b.agent(t, b.restore())
	require.Zero(t, b.create(t))
	b.requireMarkers(t, "c1")
	require.Len(t, b.calls(t), 1, "the container is not deleted")
}

func TestCreateFailsOnceWhereNothingCanBeTried(t *testing.T) {
	for name, test := range map[string]struct {
		args    []string
		files   []string
		message string
	}{
		"no marker can be made":       {files: []string{"restored"}, message: "make the folder of restored containers"},
		"a flag that restore ignores": {args: []string{"--pidfd-socket", "/tmp/pidfd"}, message: "--pidfd-socket"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, podAnnotations)
			for _, file := range test.files {
				b.touch(t, file)
			}
			b.agent(t, b.restore())
			require.Equal(t, 1, b.create(t, test.args...))
			require.Equal(t, "delete", b.verbs(t))
			require.Len(t, b.prepared, 1)
			require.Contains(t, b.results[0].Error, test.message)
		})
	}
}

func TestKillHolds(t *testing.T) {
	b := newBench(t, nil)
	held := filepath.Join(b.options.HoldDir, "c1")
	require.Zero(t, b.run(t, "kill", "c1", "TERM"))
	require.Equal(t, []string{"kill", "c1", "TERM"}, b.passed, "no evacuation is under way")

	require.NoError(t, os.WriteFile(held, nil, 0o600))
	for _, args := range [][]string{{"kill", "c1"}, {"kill", "--all", "c1", "SIGUSR1"}, {"kill", "c1", "2"}} {
		require.Zero(t, b.run(t, args...))
		require.Nil(t, b.passed)
	}
	for _, signal := range []string{"KILL", "9", "SIGKILL", "unheard of"} {
		require.Zero(t, b.run(t, "kill", "--all", "c1", signal))
		require.Equal(t, []string{"kill", "--all", "c1", signal}, b.passed)
	}
	signals, err := os.ReadFile(held)
	require.NoError(t, err)
	require.Equal(t, "15\n10\n2\n", string(signals))
}

func TestDeleteRemovesLeftovers(t *testing.T) {
	b := newBench(t, nil)
	require.NoError(t, os.Mkdir(b.options.RestoredDir, 0o700))
	for _, path := range []string{b.options.RestoredDir + "/c1", b.options.RestoredDir + "/.c1", b.options.HoldDir + "/c1"} {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	require.Zero(t, b.run(t, "--root", "/r", "delete", "--force", "c1"))
	require.Equal(t, []string{"--root", "/r", "delete", "--force", "c1"}, b.passed)
	for _, dir := range []string{b.options.RestoredDir, b.options.HoldDir} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries)
	}
}

func TestEverythingElsePassesUntouched(t *testing.T) {
	for name, args := range map[string][]string{
		"nothing": {}, "version": {"--version"}, "state": {"--root", "/r", "state", "c1"},
		"an id that is a path": {"start", "../c1"}, "exec": {"exec", "--process", "p", "c1"},
		"no bundle": {"create", "--bundle", "/nowhere", "c1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			require.Zero(t, b.run(t, args...))
			require.Equal(t, args, b.passed)
		})
	}
}

func TestRuntimeBeneath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "runtime.json")
	runc := filepath.Join(dir, "runc")
	require.NoError(t, os.WriteFile(runc, nil, 0o700))
	t.Setenv("PATH", dir)
	found, err := runtimeBeneath(path)
	require.NoError(t, err)
	require.Equal(t, runc, found, "the runc in PATH where no file names another")

	require.NoError(t, os.WriteFile(path, []byte(`{"runtime":"/nowhere/crun"}`), 0o600))
	_, err = runtimeBeneath(path)
	require.ErrorContains(t, err, "/nowhere/crun")
	require.NoError(t, os.WriteFile(path, []byte(`{`), 0o600))
	_, err = runtimeBeneath(path)
	require.ErrorContains(t, err, "runtime.json")
}
