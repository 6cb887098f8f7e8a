package runtime

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// fakeRuntime notes its arguments and two variables, and fails a restore where a file "fail" lies beside it.
const fakeRuntime = `#!/bin/sh
dir=$(dirname "$0")
echo "$@" >> "$dir/calls"
case " $* " in *" restore "*) ;; *) exit 0 ;; esac
echo "PATH=$PATH CRIU_CONFIG_FILE=$CRIU_CONFIG_FILE" > "$dir/env"
[ -e "$dir/fail" ] || exit 0
echo '{"level":"error","msg":"criu failed: type NOTIFY errno 0","time":"2026-01-01T00:00:00Z"}' >> "$dir/log.json"
printf '(00.1) fine\n(00.2) Error (criu/files.c:1): the cause\n(00.3) more\n' > "$dir/work/restore.log"
exit 1
`

// bench is a node of one wrapper: a fake runtime, a bundle and, where started, an agent.
type bench struct {
	dir      string
	options  Options
	passed   []string
	stderr   bytes.Buffer
	prepared []handover.PrepareRequest
	results  []handover.ResultRequest
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
		Exec: func(_ string, argv, _ []string) error { b.passed = argv[1:]; return nil },
	}
	return b
}

// agent starts an agent that answers every question with status and body.
func (b *bench) agent(t *testing.T, status int, body any) {
	t.Helper()
	listener, err := net.Listen("unix", b.options.Socket)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/prepare", func(w http.ResponseWriter, r *http.Request) {
		var request handover.PrepareRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		b.prepared = append(b.prepared, request)
		w.WriteHeader(status)
		if text, ok := body.(string); ok {
			_, _ = w.Write([]byte(text))
			return
		}
		_ = json.NewEncoder(w).Encode(body)
	})
	mux.HandleFunc("POST /v1/result", func(_ http.ResponseWriter, r *http.Request) {
		var request handover.ResultRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		b.results = append(b.results, request)
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

func (b *bench) create(t *testing.T) int {
	t.Helper()
	return b.run(t, "--root", "/run/x", "--log", b.log(), "--log-format", "json", "create", "--bundle",
		filepath.Join(b.dir, "bundle"), "--pid-file", "/tmp/pid", "--no-new-keyring", "--no-pivot", "c1")
}

func (b *bench) restoreReply() handover.PrepareReply {
	return handover.PrepareReply{
		Action: handover.ActionRestore, ImagePath: "/images", WorkPath: filepath.Join(b.dir, "work"), CRIUConfig: "/criu.conf",
	}
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
		"no agent":                          {annotations: podAnnotations, passes: true},
		"no agent, but a state to go on":    {annotations: replacement(), message: "continues checkpoint pod/3"},
		"a sandbox is none of our business": {annotations: map[string]string{annotationContainerType: "sandbox"}, status: 500, passes: true},
		"nothing waits":                     {annotations: podAnnotations, status: 200, body: handover.PrepareReply{Action: "create"}, passes: true},
		"the agent refuses":                 {annotations: podAnnotations, status: 503, body: "bucket unavailable\n", message: "bucket unavailable (status 503)"},
		"an answer from the future":         {annotations: podAnnotations, status: 200, body: handover.PrepareReply{Action: "fly"}, message: "different versions"},
		"an answer without images":          {annotations: podAnnotations, status: 200, body: handover.PrepareReply{Action: "restore"}, message: "lacks imagePath"},
		"an answer that is no JSON":         {annotations: podAnnotations, status: 200, body: "{", message: "read the lifeboat agent's answer"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, test.annotations)
			if test.status != 0 {
				b.agent(t, test.status, test.body)
			}
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
	b.agent(t, 200, b.restoreReply())
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

func TestCreateRestoreFails(t *testing.T) {
	b := newBench(t, podAnnotations)
	b.agent(t, 200, b.restoreReply())
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "fail"), nil, 0o600))
	require.Equal(t, 1, b.create(t))
	require.Equal(t, "--root /run/x delete --force c1", b.calls(t)[1])
	require.Len(t, b.results, 1)
	for _, message := range []string{b.results[0].Error, lastError(b.log(), 0)} {
		require.Contains(t, message, "criu failed: type NOTIFY errno 0")
		require.Contains(t, message, "the cause")
	}
	entries, err := os.ReadDir(b.options.RestoredDir)
	require.NoError(t, err)
	require.Empty(t, entries, "no marker is left")
}

func TestCreateRestoresThoughTheResultIsLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, podAnnotations)
	listener, err := net.Listen("unix", b.options.Socket)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/prepare" {
			panic(http.ErrAbortHandler)
		}
		_ = json.NewEncoder(w).Encode(b.restoreReply())
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	require.Zero(t, b.create(t))
	require.FileExists(t, filepath.Join(b.options.RestoredDir, "c1"))
	require.Len(t, b.calls(t), 1, "the container is not deleted")
}

func TestCreateFailsBeforeTheRestoreWhereNoMarkerCanBeMade(t *testing.T) {
	b := newBench(t, podAnnotations)
	b.agent(t, 200, b.restoreReply())
	require.NoError(t, os.WriteFile(b.options.RestoredDir, nil, 0o600))
	require.Equal(t, 1, b.create(t))
	require.Equal(t, []string{"--root /run/x delete --force c1"}, b.calls(t))
	require.Contains(t, b.results[0].Error, "make the folder of restored containers")
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
