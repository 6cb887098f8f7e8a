package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

// state is what a container does.
type state int

const (
	created state = iota
	running
	frozen
	ended
)

func (s state) String() string { return [...]string{"created", "running", "frozen", "ended"}[s] }

// exit codes.
const (
	exitDone       = 0
	exitTerminated = 143
	exitKilled     = 137
)

// lineage is a job's work from one beginning from nothing, over all containers that go on with it.
type lineage struct {
	id int
	// reached is how far it has come in any copy, ended whether one has come to the end.
	reached time.Duration
	ended   bool
	// excuses are faults that may have cost it.
	excuses []string
	kind    string
}

// container is one of a node's. Its memory is how far its work has come, which goes on only while it runs.
type container struct {
	m                  *machine
	id, pod, uid, name string
	pid                int
	state              state
	lineage            *lineage
	work               time.Duration // when it last began to run
	since              time.Time
	pending            []syscall.Signal
	code               int
	ends               *time.Timer
	gone               chan struct{} // closed when it has ended
	// froze is when it last was frozen; evacuating says that the node was under notice then, until when.
	froze, deadline time.Time
	// generation is what it was restored from; older: not the state in which its source was left.
	generation string
	older      bool
}

// machine is a node: what lies and runs on it. All of it is under the world's lock.
type machine struct {
	w          *world
	name       string
	alive      bool
	dir        string // its root, of the agent that lives now
	lives      int
	containers []*container
	agent      *agent
	kubelet    *kubelet
	notice     *watcher.Notice
	skew       time.Duration
}

func (c *container) String() string { return fmt.Sprintf("%s of pod %s on %s", c.id, c.uid, c.m.name) }

// done is how far its work has come.
func (c *container) done() time.Duration {
	if c.state == running {
		return c.work + time.Since(c.since)
	}
	return c.work
}

func (m *machine) container(id string) *container {
	for _, c := range m.containers {
		if c.id == id && c.state != ended {
			return c
		}
	}
	return nil
}

// run has a container go on, from created or frozen.
func (c *container) run(how string) {
	w := c.m.w
	w.checkRun(c, how)
	c.state, c.since = running, time.Now()
	w.note(c.m.name, "%s: %s runs, lineage %d at %s", how, c, c.lineage.id, c.work)
	if left := w.plan.work - c.work; w.plan.finite() {
		c.ends = time.AfterFunc(left, func() {
			_ = w.locked(func() error {
				if c.state == running && c.done() >= w.plan.work {
					c.exit(exitDone)
				}
				return nil
			})
		})
	}
	for _, s := range c.pending {
		c.deliver(s)
	}
	c.pending = nil
	c.m.writeProc(c)
}

// stop ends that a container goes on: it keeps what it has done.
func (c *container) stop(next state) {
	if c.lineage == nil {
		c.state = next // it never ran
		return
	}
	c.work = c.done()
	c.lineage.reached = max(c.lineage.reached, c.work)
	c.state = next
	if c.ends != nil {
		c.ends.Stop()
	}
}

func (c *container) freeze() {
	c.stop(frozen)
	c.froze, c.deadline = time.Now(), time.Time{}
	if n := c.m.notice; n != nil {
		c.deadline = n.Deadline
	}
	c.m.w.note(c.m.name, "%s frozen at %s", c, c.work)
}

// exit ends a container.
func (c *container) exit(code int) {
	if c.state == ended {
		return
	}
	was := c.state
	c.stop(ended)
	c.code = code
	close(c.gone)
	c.m.w.note(c.m.name, "%s, %s, ends with code %d at %s", c, was, code, c.work)
	if code == exitDone {
		c.lineage.ended = true
	}
	_ = os.Remove(c.m.procFile(c))
	c.m.w.checkExit(c, was)
}

// deliver gives a running container a signal, to a frozen one when it is thawed.
func (c *container) deliver(s syscall.Signal) {
	switch {
	case c.state == ended:
	case s == syscall.SIGKILL:
		c.exit(exitKilled)
	case c.state == running && s == syscall.SIGTERM:
		c.exit(exitTerminated)
	case c.state != running && !slices.Contains(c.pending, s):
		c.pending = append(c.pending, s)
		c.m.writeProc(c)
	}
}

func (m *machine) procFile(c *container) string {
	return filepath.Join(m.dir, "proc", strconv.Itoa(c.pid), "status")
}

// writeProc shows which signals are pending, as the kernel does.
func (m *machine) writeProc(c *container) {
	if c.state == ended {
		return
	}
	mask := "0000000000000000"
	if len(c.pending) > 0 {
		mask = "0000000000004000"
	}
	m.must(os.MkdirAll(filepath.Dir(m.procFile(c)), 0o700))
	m.must(os.WriteFile(m.procFile(c), []byte("SigPnd:\t"+mask+"\n"), 0o600))
}

func (m *machine) must(err error) {
	if err != nil {
		m.w.broken("node %s: %v", m.name, err)
	}
}

// memoryPages is the size of a container's memory.
const memoryPages = 3

// memoryRuns are the addresses of its pages.
var memoryRuns = []store.Run{{Address: 1 << 20, Pages: 1}, {Address: 1 << 40, Pages: memoryPages - 1}}

// memory is what a dump has of a container: whose work, how far, and which signals wait for it. Every page shows how far.
func (c *container) memory() []byte {
	out := make([]byte, memoryPages*store.BlockSize)
	for p := range memoryPages {
		page := out[p*store.BlockSize:]
		binary.LittleEndian.PutUint64(page, uint64(c.lineage.id))
		binary.LittleEndian.PutUint64(page[8:], uint64(c.done()))
		binary.LittleEndian.PutUint64(page[16:], uint64(p))
		binary.LittleEndian.PutUint64(page[24:], uint64(len(c.pending)))
	}
	return out
}

// content is what it has in its files.
func (c *container) content() []byte {
	return fmt.Appendf(nil, "lineage %d at %d\n", c.lineage.id, c.done())
}

// engine is the OCI runtime and CRIU of a node for one life of its agent.
type engine struct {
	m *machine
	l *life
	// root is where the node's files are as long as this life lasts.
	root string
}

// on does something with a container, after the time that it takes.
func (e engine) on(ctx context.Context, what, id string, do func(*container) error) error {
	if e.l.gone.Load() {
		return e.l.park()
	}
	lot, dies := e.l.lot(what), e.l.dies()
	if dies && lot.IntN(2) == 0 {
		e.l.kill("before " + what)
		return e.l.park()
	}
	if err := e.l.wait(ctx, time.Millisecond+time.Duration(lot.Int64N(int64(20*time.Millisecond)))); err != nil {
		return e.l.stopped(err)
	}
	err := e.l.w.locked(func() error {
		c := e.m.container(id)
		if c == nil {
			return fmt.Errorf("%s %s: %w", what, id, snapshot.ErrGone)
		}
		return do(c)
	})
	if dies {
		e.l.kill("after " + what)
		return e.l.park()
	}
	return err
}

// Status implements snapshot.Runtime.
func (e engine) Status(ctx context.Context, id string) (snapshot.Status, error) {
	status := snapshot.StatusStopped
	err := e.on(ctx, "status", id, func(c *container) error {
		status = statusOf(c)
		return nil
	})
	if err != nil && ctx.Err() != nil {
		return "", err
	}
	return status, nil
}

func statusOf(c *container) snapshot.Status {
	switch c.state {
	case running:
		return snapshot.StatusRunning
	case frozen:
		return snapshot.StatusPaused
	case created:
		return snapshot.StatusCreated
	}
	return snapshot.StatusStopped
}

// Pause implements snapshot.Runtime.
func (e engine) Pause(ctx context.Context, id string) error {
	return e.on(ctx, "freeze", id, func(c *container) error {
		if c.state == running {
			c.freeze()
		}
		return nil
	})
}

// Resume implements snapshot.Runtime.
func (e engine) Resume(ctx context.Context, id string) error {
	return e.on(ctx, "thaw", id, func(c *container) error {
		if c.state == frozen {
			c.run("thawed")
		}
		return nil
	})
}

// Signal implements snapshot.Runtime.
func (e engine) Signal(ctx context.Context, id string, s syscall.Signal) error {
	return e.on(ctx, "signal", id, func(c *container) error {
		c.deliver(s)
		return nil
	})
}

// Dump implements snapshot.Runtime.
func (e engine) Dump(ctx context.Context, id, dir string, sink snapshot.Sink) (snapshot.Dump, error) {
	images := filepath.Join(e.root, dir, "images")
	memory := snapshot.Memory{Image: "pages-1.img", Task: "mem/1", Runs: memoryRuns}
	dump := snapshot.Dump{Images: images, RSSBytes: memoryPages * store.BlockSize, Memory: []snapshot.Memory{memory}}
	var pages []byte
	err := e.on(ctx, "dump", id, func(c *container) error {
		if c.state != frozen {
			return snapshot.ErrNotFrozen
		}
		if e.m.w.plan.dumpFails > 0 {
			e.m.w.plan.dumpFails--
			return fmt.Errorf("criu: dump of %s failed", id)
		}
		pages = c.memory()
		e.m.w.dumped(c)
		return nil
	})
	if err != nil {
		return snapshot.Dump{}, err
	}
	file := pages
	if sink != nil {
		file = pages[:memoryRuns[0].Pages*store.BlockSize]
		dump.OnDisk = map[string][]store.Run{memory.Image: memoryRuns[:1]}
	}
	if err := os.MkdirAll(images, 0o700); err != nil {
		return snapshot.Dump{}, err
	}
	for name, content := range map[string][]byte{memory.Image: file, "core-1.img": pages[:32]} {
		if err := os.WriteFile(filepath.Join(images, name), content, 0o600); err != nil {
			return snapshot.Dump{}, err
		}
	}
	if sink != nil {
		return dump, sink(ctx, memory.Task, memoryRuns[1].Address, pages[len(file):])
	}
	return dump, nil
}
