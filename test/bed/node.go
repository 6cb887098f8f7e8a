package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed/imds"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// nodePath is the search path inside a node.
const nodePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Node is a machine of the bed.
type Node struct {
	layout.Node
	cluster *Cluster
}

// ErrNodeDown says that a node does not run.
var ErrNodeDown = errors.New("the node is down")

// PID is the node's pid 1 as this machine sees it. ErrNodeDown where it does not run.
func (n *Node) PID() (int, error) {
	var p layout.Process
	err := layout.ReadJSON(n.cluster.dir.NodeProcess(n.Name), &p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if !p.Alive() {
		return 0, fmt.Errorf("node %s: %w", n.Name, ErrNodeDown)
	}
	return p.PID, nil
}

// Root is the node's root folder as this machine sees it. It is good until the node is killed.
func (n *Node) Root() (string, error) {
	pid, err := n.PID()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/root", pid), nil
}

// Command is a command inside all of the node's namespaces, not yet started. It ends with ctx.
func (n *Node) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	pid, err := n.PID()
	if err != nil {
		return nil, err
	}
	enter := []string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=" + nodePath, "HOME=/root", "TERM=" + os.Getenv("TERM")}
	// nsenter forks to enter the pid namespace: ending it alone would leave the command behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd, nil
}

// Exec runs a command inside the node and returns its standard output. Standard error is part of the error.
func (n *Node) Exec(ctx context.Context, args ...string) ([]byte, error) {
	cmd, err := n.Command(ctx, args...)
	if err != nil {
		return nil, err
	}
	return output(cmd, nil, "node "+n.Name+": "+strings.Join(args, " "))
}

// Kill ends the node as a power cut does: SIGKILL to its pid 1. It returns when all of its processes are gone. Killing a
// node that is down does nothing.
func (n *Node) Kill(ctx context.Context) error { return n.cluster.order(ctx, "/nodes/"+n.Name+"/kill") }

// Start starts a killed node with its disk as it was, its notices forgotten, and returns when it is ready.
func (n *Node) Start(ctx context.Context) error {
	return n.cluster.order(ctx, "/nodes/"+n.Name+"/start")
}

// Notice makes the node's metadata service announce an interruption. action is terminate, stop or hibernate.
func (n *Node) Notice(_ context.Context, action string, at time.Time) error {
	return n.announce(imds.Notices{Action: action, At: at})
}

// Rebalance makes the node's metadata service recommend a rebalance, as of the given time.
func (n *Node) Rebalance(_ context.Context, at time.Time) error {
	return n.announce(imds.Notices{Rebalance: at})
}

// ClearNotice takes back what was announced.
func (n *Node) ClearNotice(context.Context) error { return n.announce(imds.Notices{}) }

func (n *Node) announce(notices imds.Notices) error {
	if _, err := n.PID(); err != nil {
		return err
	}
	if err := layout.WriteJSON(n.cluster.dir.NodeNotices(n.Name), notices); err != nil {
		return fmt.Errorf("announce to node %s: %w", n.Name, err)
	}
	return nil
}
