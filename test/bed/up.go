package bed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/supervisor"
)

// ErrAlreadyUp says that the state folder's bed is up, or being brought up. Attach to it, or call Down first.
var ErrAlreadyUp = errors.New("the bed is already up")

// Up brings a bed up and returns when both nodes are ready. What a killed run left behind in the state folder is removed
// first. The first time on a machine takes minutes (Debian root, Kubernetes), then it takes seconds.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	o, err := o.validated(ctx)
	if err != nil {
		return nil, err
	}
	p, dir := newReporter(o.Progress), layout.Dir(o.Dir)
	lock, err := takeOver(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the supervisor holds a copy
	if err := removeLeftovers(ctx, dir); err != nil {
		return nil, err
	}
	config, err := parts(ctx, p, o)
	if err != nil {
		return nil, err
	}
	c, err := launch(ctx, p, o, config, lock)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bring up the bed in %s: %w", dir, err), removeCgroups(context.WithoutCancel(ctx), dir))
	}
	p.say("the bed is up")
	return c, nil
}

// takeOver takes the state folder's lock. A supervisor that has been killed may need a moment to be gone.
func takeOver(ctx context.Context, dir layout.Dir) (*os.File, error) {
	lock, err := tryLock(lockPath(dir))
	if !errors.Is(err, errLocked) {
		return lock, err
	}
	state, err := layout.ReadState(dir)
	if err != nil || state.Supervisor.Alive() {
		return nil, fmt.Errorf("%w: %s", ErrAlreadyUp, dir)
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	return waitLock(ctx, lockPath(dir), func() {})
}

// lockPath lies outside of the state folder, which Down removes whole.
func lockPath(dir layout.Dir) string {
	return filepath.Join("/run/lock", "lifeboat-bed-"+layout.Suffix(string(dir))+".lock")
}

// parts makes everything that a bed is built from, or takes it from the cache.
func parts(ctx context.Context, p *reporter, o Options) (layout.Config, error) {
	dir := layout.Dir(o.Dir)
	c := layout.Config{Dir: dir, Suffix: layout.Suffix(o.Dir), BedBinary: dir.Path("bin", "bed"), Pause: dir.Path("bin", "pause"),
		MonitorGrace: o.NodeMonitorGrace, NoNodes: o.NoNodes, Audit: o.AuditPolicy != "", Metadata: map[string]string{}}
	for name, endpoint := range o.Metadata {
		c.Metadata[name], _ = target(endpoint) // validated before
	}
	if o.BucketEndpoint != "" {
		c.BucketTarget, _ = target(o.BucketEndpoint)
	}
	err := errors.Join(os.MkdirAll(dir.Path("bin"), 0o755), os.MkdirAll(dir.Path("log"), 0o755),
		os.WriteFile(dir.Marker(), nil, 0o644), os.WriteFile(dir.AuditPolicy(), []byte(o.AuditPolicy), 0o644),
		os.WriteFile(dir.Path("go.mod"), []byte("module state // keeps ./... out of the nodes' disks\n"), 0o644))
	if err != nil {
		return c, fmt.Errorf("make state folder: %w", err)
	}
	root, err := checkout(ctx)
	if err != nil {
		return c, err
	}
	if err := ensurePackages(ctx, p); err != nil {
		return c, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { c.Root, err = nodeRoot(ctx, p); return err })
	g.Go(func() (err error) { // one after another: each uses all processors
		if c.Kubernetes, err = buildKubernetes(ctx, p, root); err != nil {
			return err
		}
		if c.Tools, err = buildTools(ctx, p, root); err != nil {
			return err
		}
		if o.Containerd == containerd24 {
			if c.Containerd, err = buildContainerd(ctx, p, root); err != nil {
				return err
			}
		}
		if c.Shim, err = buildShim(ctx, p); err != nil {
			return err
		}
		if err := buildOwn(ctx, root, "./test/bed/pause", c.Pause); err != nil {
			return err
		}
		return bedBinary(ctx, root, c.BedBinary)
	})
	return c, g.Wait()
}

// launch starts the supervisor and waits until it says that the bed is ready.
func launch(ctx context.Context, p *reporter, o Options, config layout.Config, lock *os.File) (*Cluster, error) {
	handed, ports, err := handOver(lock)
	if err != nil {
		return nil, err
	}
	defer handed.close()
	config.HostAPIPort = ports[0]
	dir := config.Dir
	if err := layout.WriteJSON(dir.Config(), config); err != nil {
		return nil, err
	}
	cmd, err := startSupervisor(config, handed)
	if err != nil {
		return nil, err
	}
	handed.closeChildEnds()
	c := &Cluster{Kubeconfig: dir.Kubeconfig(), SharedFolder: dir.Shared(), dir: dir, lifeline: handed.lifeline}
	state := layout.State{Suffix: config.Suffix, Root: config.Root, Containerd: o.Containerd, Since: time.Now(),
		APIPort: ports[0], BucketPort: ports[1], RegistryPort: ports[2]}
	state.Supervisor, err = layout.FindProcess(cmd.Process.Pid)
	if err == nil {
		err = layout.WriteJSON(dir.State(), state)
	}
	go func() { _ = cmd.Wait() }() // reaps it whenever it ends
	if err == nil {
		err = follow(ctx, p, dir, handed.events)
	}
	if err == nil {
		state.Ready = true
		c.state = state
		err = layout.WriteJSON(dir.State(), state)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(err, endSupervisor(context.WithoutCancel(ctx), dir))
	}
	if o.Keep {
		if _, err := handed.lifeline.Write([]byte{supervisor.LifelineDetach}); err != nil {
			return nil, fmt.Errorf("detach: %w", err)
		}
	}
	handed.lifeline = nil // ours until Down
	return c, nil
}

func startSupervisor(config layout.Config, h *handed) (*exec.Cmd, error) {
	log, err := os.Create(config.Dir.Log("supervisor"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(config.BedBinary, "supervise", "--dir", string(config.Dir))
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), layout.Environment+"="+config.Suffix)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, h.child
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	return cmd, nil
}

// follow passes progress on until the bed is ready.
func follow(ctx context.Context, p *reporter, dir layout.Dir, events *os.File) error {
	defer context.AfterFunc(ctx, func() { events.Close() })()
	scanner := bufio.NewScanner(events)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		kind, text := scanner.Text()[:1], scanner.Text()[1:]
		switch kind[0] {
		case supervisor.EventReady:
			return nil
		case supervisor.EventFailed:
			return errors.New(text)
		}
		p.say("%s", text)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	log, _ := os.ReadFile(dir.Log("supervisor"))
	return fmt.Errorf("the supervisor ended: %s", tail(string(log)))
}

// handed is what the supervisor gets, and our ends of it.
type handed struct {
	child    []*os.File // in the order of supervisor.FdEvents and following
	events   *os.File
	lifeline *os.File
	keep     *os.File // the lock is in child, but not ours to close
}

func handOver(lock *os.File) (*handed, []int, error) {
	h := &handed{keep: lock}
	events, eventsIn, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	lifelineOut, lifeline, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	netns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, nil, err
	}
	h.events, h.lifeline = events, lifeline
	h.child = []*os.File{eventsIn, lifelineOut, lock, netns}
	var ports []int
	for range []int{supervisor.FdAPI, supervisor.FdBucket, supervisor.FdRegistry} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, fmt.Errorf("listen for the bed: %w", err)
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return nil, nil, fmt.Errorf("listen for the bed: %w", err)
		}
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		h.child = append(h.child, f)
		l.Close()
	}
	return h, ports, nil
}

func (h *handed) closeChildEnds() {
	for _, f := range h.child {
		if f != h.keep {
			f.Close()
		}
	}
	h.child = nil
}

func (h *handed) close() {
	h.closeChildEnds()
	h.events.Close()
	if h.lifeline != nil {
		h.lifeline.Close()
	}
}
