package install

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/lifeboat-dev/lifeboat/restore/runtime/runtimetest"
)

const (
	withImports = `version = 3
imports = ["conf.d/*.toml"] # a comment that stays

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "/etc/containerd/base.json"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "/usr/sbin/runc"
SystemdCgroup = true
`
	// Schema 2, as many installers still write it: a drop-in of schema 3 would drop kata and SystemdCgroup.
	oldSchema = `version = 2
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
  runtime_type = "io.containerd.kata.v2"
`
	withoutImports = `version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.gvisor]
runtime_type = "io.containerd.runsc.v1"
# no newline at the end, which stays so`
	otherDropIn = `version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]
runtime_type = "io.containerd.other.v1"
`
	inlineTable = `version = 3
plugins = { 'io.containerd.cri.v1.runtime' = { containerd = { default_runtime_name = "runc" } } }
`
	oursByDefault = `version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "/opt/lifeboat/bin/lifeboat-runtime"
`
)

// node is a host with the root's containerd, whose restart command counts, and whose socket answers.
type node struct {
	t       *testing.T
	options Options
}

func newNode(t *testing.T) *node {
	t.Helper()
	source := filepath.Join(t.TempDir(), "image")
	for _, name := range []string{"bin/criu", "bin/lifeboat-runtime", "lib/libc.so.6"} {
		_, err := writeFile(filepath.Join(source, name), []byte(name), 0o755)
		require.NoError(t, err)
	}
	_, err := writeFile("/run/restart", []byte("#!/bin/sh\necho >> /run/restarts\n[ ! -e /run/fail ] || { echo no such unit >&2; exit 5; }\n"), 0o755)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll("/etc/containerd"))
	socket := "/run/containerd/containerd.sock"
	require.NoError(t, os.MkdirAll(filepath.Dir(socket), 0o700))
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return &node{t: t, options: Options{
		Host: Host{Root: "/"}, Source: source, RestartCommand: []string{"/run/restart"},
		RestartTimeout: 10 * time.Second, Logger: zerolog.Nop(),
	}}
}

// reset makes the host's files anew.
func (n *node) reset(files map[string]string) {
	n.t.Helper()
	for _, path := range []string{"/etc/containerd", Prefix, "/run/restarts", "/run/fail"} {
		require.NoError(n.t, os.RemoveAll(path))
	}
	require.NoError(n.t, os.MkdirAll("/etc/containerd/conf.d", 0o755))
	for path, text := range files {
		_, err := writeFile(path, []byte(text), 0o640)
		require.NoError(n.t, err)
	}
}

// snapshot is every file beneath /etc/containerd with its mode.
func (n *node) snapshot() map[string]string {
	n.t.Helper()
	found := map[string]string{}
	require.NoError(n.t, filepath.WalkDir("/etc/containerd", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		found[path] = fmt.Sprintf("%s %s", info.Mode(), text)
		return err
	}))
	return found
}

func (n *node) restarts() int {
	text, _ := os.ReadFile("/run/restarts")
	return len(text)
}

func (n *node) effective() map[string]any {
	n.t.Helper()
	daemon, err := findContainerd(n.t.Context(), n.options)
	require.NoError(n.t, err)
	effective, err := daemon.dump(n.t.Context(), daemon.config)
	require.NoError(n.t, err)
	return effective
}

const mainFile = "/etc/containerd/config.toml"

var layouts = map[string]struct {
	files   map[string]string
	file    string
	systemd bool
}{
	"no configuration at all": {nil, mainFile, false},
	"imports conf.d":          {map[string]string{mainFile: withImports}, "/etc/containerd/conf.d/lifeboat.toml", true},
	"schema 2":                {map[string]string{mainFile: oldSchema}, "/etc/containerd/conf.d/lifeboat.toml", true},
	"no imports":              {map[string]string{mainFile: withoutImports}, mainFile, false},
	"conf.d in use by others": {map[string]string{mainFile: withImports, "/etc/containerd/conf.d/other.toml": otherDropIn}, "/etc/containerd/conf.d/lifeboat.toml", true},
	"conf.d not imported":     {map[string]string{mainFile: withoutImports, "/etc/containerd/conf.d/other.toml": otherDropIn}, mainFile, false},
}

// Ten rounds of install, install again, uninstall, on each layout, with the real containerd.
func TestRounds(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	n := newNode(t)
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			n.t = t
			n.reset(layout.files)
			files, before := n.snapshot(), n.effective()
			for round := range 10 {
				result, err := Install(t.Context(), n.options)
				require.NoError(t, err)
				require.Equal(t, layout.file, result.File)
				require.True(t, result.Changed && result.Restarted)
				require.Equal(t, "/usr/sbin/runc", result.Runtime)
				require.Equal(t, 3, result.FilesWritten)
				after := n.effective()
				require.Equal(t, []string{"plugins.io.containerd.cri.v1.runtime.containerd.runtimes.lifeboat is new"},
					difference(before, after, ""))
				options := table(after, append(handlerPath, Handler, "options")...)
				require.Equal(t, wrapperPath, options["BinaryName"])
				require.Equal(t, layout.systemd, options["SystemdCgroup"] == true)

				again, err := Install(t.Context(), n.options)
				require.NoError(t, err)
				require.False(t, again.Changed || again.Restarted || again.FilesWritten > 0, "%+v", again)

				gone, err := Uninstall(t.Context(), n.options)
				require.NoError(t, err)
				require.True(t, gone.Changed && gone.Restarted)
				require.Equal(t, files, n.snapshot(), "byte for byte")
				require.Equal(t, before, n.effective())
				require.NoDirExists(t, Prefix)
				require.Equal(t, 2*(round+1), n.restarts())
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	n := newNode(t)
	_, err := writeFile("/run/old/containerd", []byte("#!/bin/sh\necho containerd github.com/containerd/containerd 1.7.24 abc\n"), 0o755)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		main, containerd, message string
	}{
		"broken file":          {"version = 3\n[plugins", "", "is broken, mend it first"},
		"schema 1":             {"version = 1\n", "", "containerd config migrate"},
		"inline table":         {inlineTable, "", "inline table"},
		"containerd 1.7":       {"version = 2\n", "/run/old/containerd", "upgrade the node's containerd"},
		"ours is the default":  {oursByDefault, "", "set default_runtime_name"},
		"containerd not there": {"", "/nowhere/containerd", "/nowhere/containerd"},
	} {
		t.Run(name, func(t *testing.T) {
			n.t = t
			n.reset(map[string]string{mainFile: test.main})
			files := n.snapshot()
			options := n.options
			options.Containerd = test.containerd
			_, err := Install(t.Context(), options)
			require.ErrorContains(t, err, test.message)
			require.Equal(t, files, n.snapshot(), "nothing is touched")
			require.Zero(t, n.restarts())
		})
	}
}

func TestOldBytesReturnWhereTheRestartFails(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	n := newNode(t)
	n.reset(map[string]string{mainFile: withoutImports, "/run/fail": ""})
	files := n.snapshot()
	_, err := Install(t.Context(), n.options)
	require.ErrorContains(t, err, "no such unit")
	require.ErrorContains(t, err, "old configuration is in place again")
	require.Equal(t, files, n.snapshot())
	require.Equal(t, 2, n.restarts())
}

func TestARunCutShortIsCompletedByTheNext(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	n := newNode(t)
	n.reset(map[string]string{mainFile: withImports})
	ctx, cancel := context.WithCancel(t.Context())
	options := n.options
	_, err := writeFile("/run/slow", []byte("#!/bin/sh\ntouch /run/slow-runs\nexec sleep 60\n"), 0o755)
	require.NoError(t, err)
	options.RestartCommand = []string{"/run/slow"}
	done := make(chan error)
	go func() { _, err := Install(ctx, options); done <- err }()
	require.Eventually(t, func() bool { _, err := os.Stat("/run/slow-runs"); return err == nil }, 10*time.Second, 10*time.Millisecond)
	_, err = Install(t.Context(), n.options)
	require.ErrorContains(t, err, "another lifeboat-agent is installing")
	cancel()
	require.Error(t, <-done)
	require.FileExists(t, "/etc/containerd/conf.d/lifeboat.toml", "nothing is cleaned up on the way out")

	result, err := Install(t.Context(), n.options)
	require.NoError(t, err)
	require.False(t, result.Changed)
	require.True(t, result.Restarted, "the restart that was missing")
}

func TestUninstallKeepsTheWrapperWhileItIsInUse(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	n := newNode(t)
	n.reset(map[string]string{mainFile: withImports})
	_, err := Install(t.Context(), n.options)
	require.NoError(t, err)
	bundle := filepath.Join(shimStatePath, "k8s.io", "abc")
	_, err = writeFile(bundle+"/options.json", []byte(`{"binary_name":"/opt/lifeboat/bin/lifeboat-runtime"}`), 0o600)
	require.NoError(t, err)
	result, err := Uninstall(t.Context(), n.options)
	require.NoError(t, err)
	require.Equal(t, "abc", result.InUse)
	require.FileExists(t, wrapperPath)
	require.FileExists(t, runtimePath)
	require.NoFileExists(t, Prefix+"/bin/criu")
	require.NoError(t, os.RemoveAll(bundle))
	_, err = Uninstall(t.Context(), n.options)
	require.NoError(t, err)
	require.NoDirExists(t, Prefix)
}

func TestSelfTest(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	_, err := writeFile(runtimePath, []byte(`{"runtime":"/usr/sbin/runc"}`), 0o644)
	require.NoError(t, err)
	options := SelfTestOptions{HostRoot: "/", Command: []string{}}
	require.NoError(t, SelfTest(t.Context(), options))
	left := func() []string { names, _ := filepath.Glob(Prefix + "/self-test-*"); return names }
	require.Empty(t, left())

	_, err = writeFile(Prefix+"/bin/criu", []byte("#!/bin/sh\nexit 3\n"), 0o755)
	require.NoError(t, err)
	require.ErrorContains(t, SelfTest(t.Context(), options), "dump a container")
	require.Empty(t, left())
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/lifeboat-self-test-*")
	require.NoError(t, err)
	require.Empty(t, cgroups)
}

// A drop-in can silently take other runtimes away; shown on tables alone.
func TestOnlyAdds(t *testing.T) {
	parse := func(text string) map[string]any {
		var parsed map[string]any
		require.NoError(t, toml.Unmarshal([]byte("[plugins.'io.containerd.cri.v1.runtime'.containerd]\n"+text), &parsed))
		return parsed
	}
	before := parse("runtimes.runc = {a = 1}\nruntimes.kata = {b = 2}")
	handler := map[string]any{"c": int64(3)}
	for name, test := range map[string]struct{ after, message string }{
		"good":             {"runtimes = {runc = {a = 1}, kata = {b = 2}, lifeboat = {c = 3, d = ''}}", ""},
		"another is gone":  {"runtimes = {runc = {a = 1}, lifeboat = {c = 3}}", "kata is gone"},
		"another differs":  {"runtimes = {runc = {a = 2}, kata = {b = 2}, lifeboat = {c = 3}}", "runc.a was 1 and is 2"},
		"ours is missing":  {"runtimes = {runc = {a = 1}, kata = {b = 2}}", "does not see"},
		"ours is read odd": {"runtimes = {runc = {a = 1}, kata = {b = 2}, lifeboat = {c = 4}}", "lifeboat.c was 3 and is 4"},
	} {
		t.Run(name, func(t *testing.T) {
			err := onlyAdds(before, parse(test.after), Handler, handler)
			if test.message == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.message)
		})
	}
}

func TestConfigFlag(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"two words":   {[]string{"containerd", "--config", "/c"}, "/c"},
		"equals sign": {[]string{"containerd", "--log-level=debug", "--config=/c"}, "/c"},
		"short":       {[]string{"containerd", "-c", "/c"}, "/c"},
		"none":        {[]string{"containerd", "--address", "/a"}, ""},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, configFlag(test.args)) })
	}
}
