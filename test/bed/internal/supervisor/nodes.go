package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/cgroup"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/pidone"
)

const (
	// metadataBasePort is the hub's port for the first node's own metadata service, where one is put in the place of
	// the built-in one.
	metadataBasePort = 7100
	nodeTimeout      = 90 * time.Second
	killTimeout      = 15 * time.Second
)

// nodeProcess is a node that has been started at least once. child is nil once it was killed.
type nodeProcess struct {
	child  *pidone.Child
	bootID string
	via    string
}

func findNode(name string) (layout.Node, int, error) {
	for i, n := range layout.Nodes() {
		if n.Name == name {
			return n, i, nil
		}
	}
	return layout.Node{}, 0, fmt.Errorf("no node %q in this bed", name)
}

// startNode starts a node that is not running. What had been announced to its former life is forgotten.
func (s *supervisor) startNode(ctx context.Context, name string) error {
	node, index, err := findNode(name)
	if err != nil {
		return err
	}
	if !s.nodeAlive(name) { // killed by others, and perhaps not quite dead
		if err := s.killNode(ctx, name); err != nil {
			return err
		}
	}
	s.nodesMu.Lock()
	defer s.nodesMu.Unlock()
	p := s.nodes[name]
	if p == nil {
		p = &nodeProcess{}
		s.nodes[name] = p
		if err := s.metadataFor(p, name, index); err != nil {
			return err
		}
	}
	if p.running() {
		return fmt.Errorf("start node %s: it is running", name)
	}
	group := layout.CgroupName(s.Suffix, name)
	if err := cgroup.Remove(ctx, group); err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	if err := cgroup.Create(group); err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	if err := os.MkdirAll(s.Dir.Node(name), 0o755); err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	for _, of := range []string{s.Dir.NodeNotices(name), s.Dir.NodeProcess(name)} { // of its former life
		if err := os.Remove(of); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start node %s: %w", name, err)
		}
	}
	p.bootID = uuid.NewString()
	if err := s.launch(p, layout.NodeConfig{Config: s.Config, Node: node, BootID: p.bootID, MetadataVia: p.via}); err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	return nil
}

func (p *nodeProcess) running() bool {
	if p.child == nil {
		return false
	}
	select {
	case <-p.child.Done():
		return false
	default:
		return true
	}
}

// metadataFor opens the way to another metadata service, where one is named for the node.
func (s *supervisor) metadataFor(p *nodeProcess, name string, index int) error {
	target := s.Metadata[name]
	if target == "" {
		return nil
	}
	p.via = hostPort(layout.HubAddress, metadataBasePort+index)
	return s.outward(p.via, target)
}

// launch starts the node's pid 1 in namespaces of its own, plugs its network in and hands it its configuration.
func (s *supervisor) launch(p *nodeProcess, c layout.NodeConfig) error {
	log, err := os.OpenFile(s.Dir.Log("node-"+c.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	p.child, err = s.reaper.Start(pidone.Spec{
		Args: []string{s.BedBinary, "node-init"}, Env: []string{layout.Environment + "=" + s.Suffix}, Stdin: in, Output: log,
		Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID}})
	in.Close()
	if err != nil {
		return err
	}
	link := "veth-" + c.Name
	_ = s.reaper.Command("ip", "link", "del", link) // a killed node's link goes a moment after it
	for _, command := range [][]string{
		{"ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(p.child.PID)},
		{"ip", "link", "set", link, "master", bridge, "up"},
		{"ip", "route", "replace", c.PodRange, "via", c.Address},
	} {
		if err := s.reaper.Command(command...); err != nil {
			p.child.Signal(syscall.SIGKILL)
			return err
		}
	}
	return json.NewEncoder(out).Encode(c)
}

// killNode ends a node as a power cut does: SIGKILL to its pid 1, and with it to all of its processes. A node that does
// not run is no error.
func (s *supervisor) killNode(ctx context.Context, name string) error {
	if _, _, err := findNode(name); err != nil {
		return err
	}
	s.nodesMu.Lock()
	defer s.nodesMu.Unlock()
	p := s.nodes[name]
	if p == nil || !p.running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	p.child.Signal(syscall.SIGKILL)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := cgroup.Kill(layout.CgroupName(s.Suffix, name)); err != nil {
			return fmt.Errorf("kill node %s: %w", name, err)
		}
		select {
		case <-p.child.Done():
			_ = s.reaper.Command("ip", "link", "del", "veth-"+name)
			return nil
		case <-ctx.Done():
			return fmt.Errorf("kill node %s: %w", name, ctx.Err())
		case <-tick.C:
		}
	}
}

// bury sees to nodes whose pid 1 was killed by others: frozen containers would hold up their death.
func (s *supervisor) bury(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, n := range layout.Nodes() {
			if _, running := s.boot(n.Name); !running || s.nodeAlive(n.Name) {
				continue
			}
			s.log.Info().Str("node", n.Name).Msg("the node's pid 1 was killed")
			if err := s.killNode(ctx, n.Name); err != nil {
				return err
			}
		}
	}
}

// nodeAlive is false only where the node has said who its pid 1 is, and that process is dying.
func (s *supervisor) nodeAlive(name string) bool {
	var p layout.Process
	return layout.ReadJSON(s.Dir.NodeProcess(name), &p) != nil || p.Alive()
}

// awaitNodes waits until every node has reported itself ready.
func (s *supervisor) awaitNodes(ctx context.Context, since time.Time) error {
	for _, n := range layout.Nodes() {
		if err := s.awaitNode(ctx, n.Name); err != nil {
			return err
		}
		s.progress("node %s ready after %.1f s", n.Name, time.Since(since).Seconds())
	}
	return nil
}

// awaitNode waits until the node's latest start has reported itself ready.
func (s *supervisor) awaitNode(ctx context.Context, name string) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	return await(ctx, "node "+name, nodeTimeout, func(ctx context.Context) error {
		bootID, running := s.boot(name)
		if !running {
			return fmt.Errorf("its pid 1 has ended, see %s", s.Dir.Log("node-"+name))
		}
		return api.nodeReady(ctx, name, bootID)
	})
}

func (s *supervisor) boot(name string) (id string, running bool) {
	s.nodesMu.Lock()
	defer s.nodesMu.Unlock()
	p := s.nodes[name]
	if p == nil {
		return "", false
	}
	return p.bootID, p.running()
}
