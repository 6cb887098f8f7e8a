package bed

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/test/bed/imds"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/cgroup"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// requireRoot skips where the machine cannot hold a bed. In CI that is a failure.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("the test bed needs root")
	}
	t.Skip("the test bed needs root")
}

// testWriter shows progress in the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// up brings a bed up and takes it down at the end of the test.
func up(t *testing.T, o Options) *Cluster {
	t.Helper()
	o.Progress = testWriter{t}
	c, err := Up(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		keepLogs(t, c.Dir())
		require.NoError(t, c.Down(context.Background()))
	})
	return c
}

// keepLogs saves a failed test's logs from Down.
func keepLogs(t *testing.T, dir string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	kept, err := os.MkdirTemp("", "bed-logs-")
	require.NoError(t, err)
	for _, logs := range []string{"log", "nodes/a/log", "nodes/b/log"} {
		if err := os.CopyFS(filepath.Join(kept, logs), os.DirFS(filepath.Join(dir, logs))); err != nil {
			t.Log(err)
		}
	}
	t.Logf("logs of the bed: %s", kept)
}

// stateDir is short: a unix socket's path lies in it.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bed-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "state")
}

func TestLife(t *testing.T) {
	requireRoot(t)
	c := up(t, Options{Dir: stateDir(t), NodeMonitorGrace: 20 * time.Second})
	a, err := c.Node("a")
	require.NoError(t, err)

	t.Run("a second Up says so", func(t *testing.T) {
		_, err := Up(t.Context(), Options{Dir: c.Dir()})
		require.ErrorIs(t, err, ErrAlreadyUp)
		same, err := Attach(c.Dir())
		require.NoError(t, err)
		require.Equal(t, c.Kubeconfig, same.Kubeconfig)
	})
	t.Run("a pod runs and reaches the API server", func(t *testing.T) { runPod(t, c, "first", "a") })
	t.Run("a notice is announced and taken back", func(t *testing.T) {
		const path = "/latest/meta-data/spot/instance-action"
		at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		require.Equal(t, "404", metadata(t, a, path))
		require.NoError(t, a.Notice(t.Context(), "terminate", at))
		require.Equal(t, `{"action":"terminate","time":"2030-01-02T03:04:05Z"}200`, metadata(t, a, path))
		require.NoError(t, a.ClearNotice(t.Context()))
		require.Equal(t, "404", metadata(t, a, path))
	})
	t.Run("systemctl restarts containerd", func(t *testing.T) {
		before := inside(t, a, "systemctl", "show", "-p", "MainPID", "--value", "containerd")
		inside(t, a, "systemctl", "restart", "containerd")
		require.Equal(t, "active", inside(t, a, "systemctl", "is-active", "containerd"))
		require.NotEqual(t, before, inside(t, a, "systemctl", "show", "-p", "MainPID", "--value", "containerd"))
		inside(t, a, "ctr", "version")
	})
	t.Run("the bucket can be down", func(t *testing.T) {
		require.NoError(t, probeBucket(t.Context(), c))
		require.NoError(t, c.StopBucket(t.Context()))
		require.Error(t, probeBucket(t.Context(), c))
		require.NoError(t, c.StartBucket(t.Context()))
		require.NoError(t, probeBucket(t.Context(), c))
	})
	t.Run("the bucket can hang", func(t *testing.T) {
		require.NoError(t, c.PauseBucket(t.Context()))
		hung, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, probeBucket(hung, c), context.DeadlineExceeded)
		require.NoError(t, c.ResumeBucket(t.Context()))
		require.NoError(t, probeBucket(t.Context(), c))
	})
	t.Run("the API server can be down", func(t *testing.T) {
		require.NoError(t, c.StopAPI(t.Context()))
		_, err := c.Kubectl(t.Context(), "get", "--raw", "/readyz")
		require.Error(t, err)
		require.NoError(t, c.StartAPI(t.Context()))
		_, err = c.Kubectl(t.Context(), "get", "--raw", "/readyz")
		require.NoError(t, err)
	})
	t.Run("a node dies and comes back with its disk", func(t *testing.T) { dieAndReturn(t, c, a) })
	t.Run("nothing is left", func(t *testing.T) { requireGone(t, c, func() error { return c.Down(context.Background()) }) })
}

func TestTwoBeds(t *testing.T) {
	requireRoot(t)
	board := &imds.Board{}
	metadataService := httptest.NewServer(imds.New(imds.Instance{ID: "i-of-another-mock"}, board.Notices))
	t.Cleanup(metadataService.Close)
	otherS3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "another S3 server")
	}))
	t.Cleanup(otherS3.Close)
	var one, two *Cluster
	dirs := []string{stateDir(t), stateDir(t)}
	var g errgroup.Group
	g.Go(func() (err error) {
		one, err = Up(t.Context(), Options{Dir: dirs[0], Progress: testWriter{t}, Containerd: containerd24})
		return err
	})
	g.Go(func() (err error) {
		two, err = Up(t.Context(), Options{Dir: dirs[1], Progress: testWriter{t}, BucketEndpoint: otherS3.URL,
			Metadata: map[string]string{"b": metadataService.URL}})
		return err
	})
	t.Cleanup(func() {
		for _, dir := range dirs {
			keepLogs(t, dir)
			require.NoError(t, Down(context.Background(), dir))
		}
	})
	require.NoError(t, g.Wait())

	t.Run("the killed one is cleaned up by its next Up", func(t *testing.T) {
		runPod(t, one, "frozen", "a")
		a, err := one.Node("a")
		require.NoError(t, err)
		freezePods(t, a)
		requireGone(t, one, func() error { return killSupervised(t, one) }, leftToClean)
		again, err := Up(t.Context(), Options{Dir: dirs[0], Progress: testWriter{t}, Containerd: containerd24})
		require.NoError(t, err)
		a, err = again.Node("a")
		require.NoError(t, err)
		require.Contains(t, inside(t, a, "containerd", "--version"), " v2.4.")
		runPod(t, again, "again", "b")
		requireGone(t, again, func() error { return again.Down(context.Background()) })
	})
	t.Run("the other one has not noticed", func(t *testing.T) { runPod(t, two, "other", "a") })
	t.Run("another metadata service and another S3 server", func(t *testing.T) {
		b, err := two.Node("b")
		require.NoError(t, err)
		require.Equal(t, "i-of-another-mock200", metadata(t, b, "/latest/meta-data/instance-id"))
		require.Equal(t, "another S3 server", inside(t, b, "curl", "-sS", two.Bucket().Endpoint))
		require.Error(t, two.StopBucket(t.Context()))
	})
	t.Run("it ends with the process that brought it up", func(t *testing.T) {
		requireGone(t, two, func() error { // as the kernel does it when that process dies
			return two.lifeline.Close()
		})
		two.lifeline = nil
	})
}

// runPod runs a pod made of one static program that asks the API server in from inside the cluster.
func runPod(t *testing.T, c *Cluster, name, node string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "incluster")
	require.NoError(t, BuildBinary(t.Context(), "./test/bed/testdata/incluster", program))
	ref, err := c.BinaryImage(t.Context(), "incluster", map[string]string{"/incluster": program},
		v1.Config{Entrypoint: []string{"/incluster"}})
	require.NoError(t, err)
	_, err = c.KubectlInput(t.Context(), strings.NewReader(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeSelector: {kubernetes.io/hostname: %s}
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers: [{name: main, image: %q}]
`, name, node, ref)), "apply", "-f", "-")
	require.NoError(t, err)
	_, err = c.Kubectl(t.Context(), "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		out, err := c.Kubectl(t.Context(), "logs", name)
		return err == nil && strings.Contains(string(out), "the API server answered 403") // known, and not allowed to list nodes
	}, 20*time.Second, 100*time.Millisecond)
	_, err = c.Kubectl(t.Context(), "exec", name, "--", "/incluster", "once")
	require.NoError(t, err)
}

func dieAndReturn(t *testing.T, c *Cluster, n *Node) {
	inside(t, n, "touch", "/opt/kept", "/run/lost")
	freezePods(t, n) // must not hold up the death
	pid, err := n.PID()
	require.NoError(t, err)
	first, err := layout.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, first.Gone, 10*time.Second, 10*time.Millisecond)
	_, err = n.Exec(t.Context(), "true")
	require.ErrorIs(t, err, ErrNodeDown)
	_, err = c.Kubectl(t.Context(), "wait", "--for=condition=Ready=Unknown", "node/"+n.Name, "--timeout=60s")
	require.NoError(t, err, "the cluster must notice")
	require.NoError(t, n.Start(t.Context()))
	inside(t, n, "test", "-e", "/opt/kept")
	inside(t, n, "test", "!", "-e", "/run/lost")
	_, err = c.Kubectl(t.Context(), "wait", "--for=condition=Ready", "node/"+n.Name, "--timeout=60s")
	require.NoError(t, err)
}

func inside(t *testing.T, n *Node, args ...string) string {
	t.Helper()
	out, err := n.Exec(t.Context(), args...)
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// metadata asks the node's metadata service: the body where there is one, and the status.
func metadata(t *testing.T, n *Node, path string) string {
	t.Helper()
	const script = `token=$(curl -sf -X PUT -H "$2: 60" http://169.254.169.254/latest/api/token)
curl -s -w '\n%{http_code}' -H "$1: $token" "http://169.254.169.254$3"`
	lines := strings.Split(inside(t, n, "sh", "-euc", script, "sh", imds.TokenHeader, imds.TTLHeader, path), "\n")
	if status := lines[len(lines)-1]; status != "200" {
		return status
	}
	return strings.Join(lines, "")
}

func probeBucket(ctx context.Context, c *Cluster) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Bucket().LocalEndpoint, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// freezePods freezes the node's containers, as a killed evacuation leaves them.
func freezePods(t *testing.T, n *Node) {
	t.Helper()
	const script = `r="runc --root /run/containerd/runc/k8s.io"
for c in $($r list -q); do if $r ps "$c" | grep -q incluster; then $r pause "$c"; echo frozen; fi; done`
	require.NotEmpty(t, inside(t, n, "sh", "-euc", script))
}

func killSupervised(t *testing.T, c *Cluster) error {
	t.Helper()
	err := syscall.Kill(c.state.Supervisor.PID, syscall.SIGKILL)
	require.Eventually(t, func() bool { return !c.state.Supervisor.Alive() }, 10*time.Second, time.Millisecond)
	return err
}

// leftToClean names what a killed bed may leave to its next Up: cgroups, and in them what is frozen.
const leftToClean = "cgroups"

// requireGone ends a bed and checks that nothing of it is left.
func requireGone(t *testing.T, c *Cluster, end func() error, allowed ...string) {
	t.Helper()
	namespaces := bedNamespaces(t, c)
	require.NotEmpty(t, namespaces)
	require.NoError(t, end())
	if len(allowed) == 0 {
		require.Eventually(t, func() bool { return len(cgroups(t, c)) == 0 }, 20*time.Second, 50*time.Millisecond, "cgroups")
		var left []string
		gone := func() bool { left = processes(t, c, namespaces); return len(left) == 0 }
		for end := time.Now().Add(30 * time.Second); !gone() && time.Now().Before(end); {
			<-time.After(50 * time.Millisecond)
		}
		require.Empty(t, left, "processes")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), c.Dir())
	for ns := range namespaces {
		require.NotContains(t, string(mounts), ns)
	}
	for _, link := range []string{"br0", "veth-a", "veth-b"} {
		require.NoFileExists(t, filepath.Join("/sys/class/net", link))
	}
}

// bedNamespaces are the namespaces of the supervisor and of the nodes.
func bedNamespaces(t *testing.T, c *Cluster) map[string]bool {
	t.Helper()
	pids := []int{c.state.Supervisor.PID}
	for _, n := range layout.Nodes() {
		pid, err := (&Node{Node: n, cluster: c}).PID()
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	found := map[string]bool{}
	for _, pid := range pids {
		for _, kind := range []string{"net", "mnt", "pid"} {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			require.NoError(t, err)
			found[ns] = true
		}
	}
	return found
}

// processes are all of the machine's that carry the bed's mark or live in one of its namespaces.
func processes(t *testing.T, c *Cluster, namespaces map[string]bool) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	var found []string
	for _, dir := range dirs {
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		ours := strings.Contains(string(environ), layout.Environment+"="+c.state.Suffix+"\x00")
		for _, kind := range []string{"net", "mnt", "pid"} {
			ns, err := os.Readlink(filepath.Join(dir, "ns", kind))
			ours = ours || err == nil && namespaces[ns]
		}
		if ours {
			found = append(found, filepath.Base(dir))
		}
	}
	return found
}

func cgroups(t *testing.T, c *Cluster) []string {
	t.Helper()
	var found []string
	for _, n := range layout.Nodes() {
		dirs, err := cgroup.Find(layout.CgroupName(c.state.Suffix, n.Name))
		require.NoError(t, err)
		found = append(found, dirs...)
	}
	return found
}
