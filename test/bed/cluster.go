package bed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// NodeSharedFolder is where every node mounts Cluster.SharedFolder.
const NodeSharedFolder = layout.SharedFolder

// ErrNotUp says that the state folder has no bed that is up.
var ErrNotUp = errors.New("no bed is up")

// Cluster is a bed that is up.
type Cluster struct {
	// Kubeconfig is the path of a kubeconfig for the cluster's admin, good in the machine's root network namespace.
	Kubeconfig string
	// SharedFolder is the machine's path of the folder that every node mounts at NodeSharedFolder.
	SharedFolder string

	dir      layout.Dir
	state    layout.State
	lifeline *os.File
}

// Bucket is an S3 bucket, with the addresses it is reached at.
type Bucket struct {
	// Endpoint is good inside the nodes and pods, LocalEndpoint in the machine's root network namespace.
	Endpoint, LocalEndpoint string
	Name, Region            string
	AccessKey, SecretKey    string
}

// Attach opens a bed that is up. ErrNotUp where there is none.
func Attach(dir string) (*Cluster, error) {
	real, err := realPath(dir)
	if err != nil {
		return nil, err
	}
	d := layout.Dir(real)
	state, err := layout.ReadState(d)
	if errors.Is(err, layout.ErrNoState) || err == nil && (!state.Ready || !state.Supervisor.Alive()) {
		return nil, fmt.Errorf("%w in %s", ErrNotUp, d)
	}
	if err != nil {
		return nil, err
	}
	return &Cluster{Kubeconfig: d.Kubeconfig(), SharedFolder: d.Shared(), dir: d, state: state}, nil
}

// Dir is the state folder. Logs of the control plane and the nodes' pid 1 lie in log/, those of kubelet, containerd and
// pods in nodes/NAME/log/.
func (c *Cluster) Dir() string { return string(c.dir) }

// HubPID is a process in the bed's own network, in which the control plane listens.
func (c *Cluster) HubPID() int { return c.state.Supervisor.PID }

// InsideKubeconfig is a kubeconfig for the cluster's admin, good in the bed's own network.
func (c *Cluster) InsideKubeconfig() string { return filepath.Join(c.dir.PKI(), "admin.kubeconfig") }

// AuditLog is where the API server writes what Options.AuditPolicy selects: a line of JSON for each request.
func (c *Cluster) AuditLog() string { return c.dir.AuditLog() }

// Down ends the bed and removes everything of it.
func (c *Cluster) Down(ctx context.Context) error {
	err := Down(ctx, string(c.dir))
	if c.lifeline != nil {
		c.lifeline.Close()
	}
	return err
}

// KubectlPath is the kubectl that fits the cluster, a static program.
func (c *Cluster) KubectlPath() string { return filepath.Join(c.state.Root, "usr/bin/kubectl") }

// Kubectl runs kubectl as the cluster's admin and returns its standard output. Standard error is part of the error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.KubectlInput(ctx, nil, args...)
}

// KubectlInput is Kubectl with a standard input, for `apply -f -`.
func (c *Cluster) KubectlInput(ctx context.Context, in io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.KubectlPath(), append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	return output(cmd, in, "kubectl "+strings.Join(args, " "))
}

func output(cmd *exec.Cmd, in io.Reader, what string) ([]byte, error) {
	var out, fault bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &fault
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(fault.String()))
	}
	return out.Bytes(), nil
}

// Bucket is the bed's bucket, made at Up and empty.
func (c *Cluster) Bucket() Bucket {
	return Bucket{
		Endpoint:      "http://" + net.JoinHostPort(layout.HubAddress, strconv.Itoa(layout.BucketPort)),
		LocalEndpoint: "http://" + local(c.state.BucketPort),
		Name:          layout.Bucket, Region: layout.Region, AccessKey: layout.AccessKey, SecretKey: layout.SecretKey,
	}
}

// StopBucket kills the S3 server; connections to it are refused until StartBucket. Objects stay.
func (c *Cluster) StopBucket(ctx context.Context) error { return c.order(ctx, "/bucket/stop") }

// StartBucket starts the S3 server again and returns when it answers.
func (c *Cluster) StartBucket(ctx context.Context) error { return c.order(ctx, "/bucket/start") }

// PauseBucket stops the S3 server in its tracks: it takes connections and answers nothing until ResumeBucket.
func (c *Cluster) PauseBucket(ctx context.Context) error { return c.order(ctx, "/bucket/pause") }

// ResumeBucket has a paused S3 server go on.
func (c *Cluster) ResumeBucket(ctx context.Context) error { return c.order(ctx, "/bucket/resume") }

// StopAPI kills the API server, which stays down until StartAPI.
func (c *Cluster) StopAPI(ctx context.Context) error { return c.order(ctx, "/apiserver/stop") }

// StartAPI starts the API server again and returns when it is ready.
func (c *Cluster) StartAPI(ctx context.Context) error { return c.order(ctx, "/apiserver/start") }

// Node is the node of that name, "a" or "b".
func (c *Cluster) Node(name string) (*Node, error) {
	for _, n := range layout.Nodes() {
		if n.Name == name {
			return &Node{Node: n, cluster: c}, nil
		}
	}
	return nil, fmt.Errorf("no node %q: there are a and b", name)
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// order sends the supervisor an order and waits for it to be carried out.
func (c *Cluster) order(ctx context.Context, path string) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.dir.Control())
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://supervisor"+path, nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("reach the supervisor of %s: %w", c.dir, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return nil
	}
	body, _ := io.ReadAll(res.Body)
	return errors.New(strings.TrimSpace(string(body)))
}

// Status is a few lines for a person: since when the bed is up, and which nodes run.
func (c *Cluster) Status() string {
	var b strings.Builder
	version := c.state.Containerd
	if version == "" {
		version = "of Debian"
	}
	fmt.Fprintf(&b, "up since %s, supervisor pid %d, containerd %s\n", c.state.Since.Format(time.DateTime),
		c.state.Supervisor.PID, version)
	for _, n := range layout.Nodes() {
		pid, err := (&Node{Node: n, cluster: c}).PID()
		if err != nil {
			fmt.Fprintf(&b, "node %s  %s  down\n", n.Name, n.Address)
			continue
		}
		fmt.Fprintf(&b, "node %s  %s  pid 1 is %d here\n", n.Name, n.Address, pid)
	}
	return b.String()
}
