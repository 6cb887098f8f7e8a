package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// settle is how long CRIU may take to leave the tasks after ctx has ended. It needs a few tenths of a second, and half a minute
	// on a node with twenty times the load that it can bear. A kill before that is the end of tasks in which CRIU's code is: they
	// go on in it, into a breakpoint (SIGTRAP) or a closed socket (SIGPIPE). Frozen for long is better than that.
	settle = 5 * time.Minute
	// letGo bounds how long it takes to end a dump that failed.
	letGo = 20 * time.Second
)

// proc is where PIDs are those of the host, in whose PID namespace this process runs, as nsenter's target 1 says.
const proc = "/proc"

// errNotLazy: the container can only be dumped in full.
var errNotLazy = errors.New("no lazy dump")

// Taken is a dump of which a sink has got the memory, in part or not at all.
type Taken struct {
	// Dump has all of it in Memory: Runs are those of the image as a restore wants it. The image on this node's disk may
	// have fewer pages (Stored).
	snapshot.Dump
	// Stored says, by the name of the image, which pages the file on this node's disk has, in their order. The others have
	// been handed to the sink.
	Stored map[string][]store.Run
	// Read is about what was read for the sink.
	Read memory.Stats
}

// DumpInto dumps the frozen container id below dir, a host path, without its private memory, which it reads from the
// frozen tasks and hands to sink by the tasks' names (memory.Reader). Images in dir are then those of a full dump, but
// for the pages that sink has got. The container stays frozen, also where DumpInto fails; ErrNotFrozen where it did not.
//
// Where a lazy dump is not supported or fails, it takes a full one instead, all of it in dir, and says so in NotLazy. It fails
// where sink or ctx do, and where a full dump does.
func (r *Runc) DumpInto(ctx context.Context, id, dir string, sink memory.Sink) (Taken, error) {
	taken, err := r.dumpLazily(ctx, id, dir, sink, closeServer)
	if err == nil {
		return taken, nil
	}
	return r.fullInstead(ctx, id, dir, err)
}

// fullInstead takes a full dump after one that failed with err, where another can help.
func (r *Runc) fullInstead(ctx context.Context, id, dir string, err error) (Taken, error) {
	var ofSink *sinkError
	if errors.As(err, &ofSink) || errors.Is(err, snapshot.ErrGone) || errors.Is(err, snapshot.ErrNotFrozen) ||
		errors.Is(err, ErrRefused) || ctx.Err() != nil {
		return Taken{}, err
	}
	full, fault := r.Dump(ctx, id, dir)
	if fault != nil {
		return Taken{}, errors.Join(err, fault)
	}
	full.NotLazy = err
	taken := Taken{Dump: full, Stored: map[string][]store.Run{}}
	for _, m := range full.Memory {
		taken.Stored[m.Image] = m.Runs
	}
	return taken, nil
}

// sinkError is an error of the caller's.
type sinkError struct{ error }

func (e *sinkError) Unwrap() error { return e.error }

// dumpLazily is DumpInto without the full dump. finish tells CRIU to end.
func (r *Runc) dumpLazily(ctx context.Context, id, dir string, sink memory.Sink, finish func() error) (Taken, error) {
	state, err := r.prepare(ctx, id)
	if err != nil {
		return Taken{}, err
	}
	if err := hasOwnNetwork(state.PID); err != nil {
		return Taken{}, fmt.Errorf("dump container %s: %w", id, err)
	}
	images, work, err := r.clearDump(dir)
	if err != nil {
		return Taken{}, err
	}
	args := append([]string{"checkpoint", "--image-path", images, "--work-path", work}, r.dumpFlags()...)
	args = append(args, "--lazy-pages", "--page-server", "127.0.0.1:"+strconv.Itoa(lazyPort), id)
	var taken Taken
	err = inRoom(func() error {
		// In this thread's network namespace and not in the host's; ctx does not end it, that is letGo's.
		call, err := begin(r.hostCommand(context.WithoutCancel(ctx), false, r.argv(args)...))
		if err != nil {
			return err
		}
		err = awaitServer(ctx, call.exited, func() bool { return r.halted(ctx, id, call, r.seen(work)) })
		if err == nil {
			reader := memory.Reader{Proc: proc, Filter: r.Filters.Of(id)}
			taken, err = readAbsent(ctx, r.seen(images), flagLazy, exactly(reader, state.PID), sink)
		}
		if err == nil {
			err = finish()
		}
		if err == nil {
			err = call.wait(ctx)
		}
		if err != nil {
			return errors.Join(err, r.letGo(ctx, id, state.PID, call))
		}
		return nil
	})
	if err != nil {
		return Taken{}, fmt.Errorf("dump container %s lazily: %w%s", id, err, tail(filepath.Join(r.seen(work), "dump.log")))
	}
	return taken, errors.Join(r.stillFrozen(ctx, id), r.mend(r.seen(images), state))
}

// hasOwnNetwork holds that the tasks are in another network namespace than CRIU would be without ours. For those of the
// host's CRIU, called in ours, would take the host's network to be the container's own, and dump it.
func hasOwnNetwork(pid int) error {
	its, err := os.Readlink(fmt.Sprintf("%s/%d/ns/net", proc, pid))
	if errors.Is(err, os.ErrNotExist) {
		return snapshot.ErrGone
	}
	hosts, fault := os.Readlink(proc + "/1/ns/net")
	if err := errors.Join(err, fault); err != nil {
		return fmt.Errorf("look at network namespaces: %w", err)
	}
	if its == hosts {
		return fmt.Errorf("%w: the container has the host's network", errNotLazy)
	}
	return nil
}

// reading hands all pages that are wanted to sink, or those that it knows sink not to have.
type reading func(ctx context.Context, wanted []memory.Wanted, sink memory.Sink) (memory.Stats, error)

// exactly reads from the frozen tasks of the container whose first process is init.
func exactly(reader memory.Reader, init int) reading {
	return func(ctx context.Context, wanted []memory.Wanted, sink memory.Sink) (memory.Stats, error) {
		return reader.ReadExactly(ctx, init, wanted, sink)
	}
}

// readAbsent reads what CRIU's page maps in images name as absent, all of it, and turns the maps into those of a full dump.
func readAbsent(ctx context.Context, images string, absent uint32, read reading, sink memory.Sink) (Taken, error) {
	maps, err := pageMaps(images, absent)
	if err != nil {
		return Taken{}, err
	}
	taken := Taken{Dump: snapshot.Dump{Images: images}, Stored: map[string][]store.Run{}}
	var wanted []memory.Wanted
	for _, m := range maps {
		taken.RSSBytes += bytesOf(m.memory.Runs)
		taken.Stored[m.memory.Image] = m.present
		if len(m.memory.Runs) > 0 {
			taken.Memory = append(taken.Memory, m.memory)
		}
		if len(m.absent) > 0 {
			wanted = append(wanted, memory.Wanted{Task: m.memory.Task, Runs: m.absent})
		}
	}
	taken.Read, err = read(ctx, wanted, func(ctx context.Context, task string, address uint64, pages []byte) error {
		if err := sink(ctx, task, address, pages); err != nil {
			return &sinkError{err}
		}
		return nil
	})
	taken.ReadTime = time.Duration(taken.Read.Seconds * float64(time.Second))
	for _, m := range maps {
		if err == nil {
			err = m.flatten()
		}
	}
	return taken, err
}

// call is a running call on the host.
type call struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	exited         chan struct{}
	err            error // when exited
}

// begin starts a call, which has files as its descriptors from 3 on.
func begin(cmd *exec.Cmd, files ...*os.File) (*call, error) {
	c := &call{cmd: cmd, exited: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.ExtraFiles = &c.stdout, &c.stderr, files
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() {
		defer close(c.exited)
		if c.err = c.cmd.Wait(); c.err != nil {
			// runc quotes CRIU's log first.
			said := strings.Split(strings.TrimSpace(c.stderr.String()), "\n")
			c.err = fmt.Errorf("%w: %s", c.err, said[len(said)-1])
		}
	}()
	return c, nil
}

func (c *call) wait(ctx context.Context) error {
	select {
	case <-c.exited:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// letGo ends a dump that failed: the cgroup is frozen first, for CRIU has thawed it and holds the tasks itself; then CRIU is
// killed, which lets them go, and runc ends by that.
func (r *Runc) letGo(ctx context.Context, id string, init int, c *call) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
	defer cancel()
	frozen := r.freeze(ctx, id)
	if errors.Is(frozen, snapshot.ErrGone) {
		frozen = nil
	}
	if tracer := tracerOf(init); tracer > 0 {
		// A debugger in the container is none of ours.
		if group, err := syscall.Getpgid(tracer); err == nil && group == c.cmd.Process.Pid {
			_ = syscall.Kill(tracer, syscall.SIGKILL) // where it has ended just now, all is well
		}
	}
	select {
	case <-c.exited:
	case <-time.After(waitDelay):
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.exited
	}
	// As CRIU ends by itself it may thaw what was frozen.
	if err := errors.Join(frozen, r.freeze(ctx, id)); err != nil && !errors.Is(err, snapshot.ErrGone) {
		return fmt.Errorf("%w: %w", snapshot.ErrNotFrozen, err)
	}
	return c.err
}

// tracerOf is the PID of who traces a process, 0 where nobody does.
func tracerOf(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("%s/%d/status", proc, pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nTracerPid:")
	line, _, _ := strings.Cut(rest, "\n")
	tracer, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0
	}
	return tracer
}
