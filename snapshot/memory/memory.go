// Package memory reads the memory of a running container without freezing it: what a round of pre-dump hands to the
// store, so that a later dump finds most of it there.
//
// What holds:
//
//   - Nothing of a target is stopped, traced or changed. Its memory may change, move or go at any moment, and its tasks
//     may fork, exec and exit; then fewer pages are read, or pages that are out of date, and none of it is an error. A
//     round is a guess that the dump compares with.
//   - Memory of another process is never handed on, also where a PID is given away anew in the middle of a read.
//   - Two threads at most read. Each has a buffer of 1 MiB and 256 KiB for page tables; beside them memory grows with the
//     number of tasks and of shared objects (about 100 bytes each) and not with that of pages or areas. What is known of
//     each page is kept by the store's Writer.
package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// workers is how many threads read side by side, each another task.
const workers = 2

// Sink takes what was read: pages of a task from address on, in whole pages of the machine. Calls for one task come one
// after the other and ascend, those of different tasks may come at the same time. pages may not be used afterwards.
type Sink func(ctx context.Context, task string, address uint64, pages []byte) error

// Stats says what a Read did.
type Stats struct {
	// Tasks and Areas are those that were read, shared memory not included.
	Tasks, Areas int
	PagesRead    int64
	BytesRead    int64
	// PagesSkipped are pages in memory that need no copy: those of files, and the kernel's page of zeros.
	PagesSkipped int64
	// PagesKept are pages that need no copy because the Filter knows them, PagesMissed those of which it was wrong.
	PagesKept, PagesMissed int64
	// Vanished counts what was there and could no longer be read in its turn: tasks, areas and pages.
	Vanished int64
	// Seconds is how long it took, CPUSeconds what the reading threads used of the processor, the sink's work included.
	Seconds, CPUSeconds float64

	denied bool // some task
}

func (s *Stats) add(other Stats) {
	s.Tasks += other.Tasks
	s.Areas += other.Areas
	s.PagesRead += other.PagesRead
	s.BytesRead += other.BytesRead
	s.PagesSkipped += other.PagesSkipped
	s.PagesKept += other.PagesKept
	s.PagesMissed += other.PagesMissed
	s.Vanished += other.Vanished
	s.CPUSeconds += other.CPUSeconds
	s.denied = s.denied || other.denied
}

// Reader reads the memory of containers of this node.
type Reader struct {
	// Proc is the proc file system in which PIDs are as this process and its callers see them.
	Proc string
	// Limit bounds the CPU time of all Reads that share it; nil for no bound.
	Limit *Limit
	// Filter has pages left out that the container's sink has already; nil for none. Sinks of all Reads with one Filter must
	// keep what they get in one place.
	Filter *Filter
}

// Read hands the memory of the container whose first process is init to sink: of each process of its tree, as
// "mem/<PID in the container>", the private pages that CRIU would dump; and once each, as "shm/<rank>", memory that
// processes share (anonymous, memfd, System V), where rank is its place in the order of inode numbers. These are the names
// that snapshot/criu uses. Left out are what files have, the kernel's own areas and devices.
//
// It returns snapshot.ErrGone where init does not exist, the errors of ctx and of sink, and an error where no task may be
// read for want of rights. Stats are right in any case.
func (r *Reader) Read(ctx context.Context, init int, sink Sink) (Stats, error) {
	began := time.Now()
	stats, err := r.read(ctx, init, sink)
	stats.Seconds = time.Since(began).Seconds()
	if err != nil {
		return stats, fmt.Errorf("read memory of the container of process %d: %w", init, err)
	}
	return stats, nil
}

func (r *Reader) read(ctx context.Context, init int, sink Sink) (Stats, error) {
	tree, err := treeOf(r.Proc, init)
	if errors.Is(err, fs.ErrNotExist) {
		return Stats{}, snapshot.ErrGone
	}
	if err != nil {
		return Stats{}, err
	}
	var stats Stats
	pass, used := r.Filter.begin(time.Now()), tree.usedByAll()
	err = r.work(ctx, sink, &stats, func(give func(job) error) error { return tree.hand(r.Filter, pass, give) })
	stats.PagesMissed = r.Filter.end(pass, used)
	if err == nil && stats.denied && stats.Tasks == 0 {
		err = fmt.Errorf("no task may be read (CAP_SYS_PTRACE is needed): %w", fs.ErrPermission)
	}
	return stats, err
}

// hand gives out the work: each process, then each shared object. The objects are looked for in a job of its own, so that
// it counts as work as well; so are soft-dirty bits cleared, before any page is read.
func (t *tree) hand(f *Filter, pass pass, give func(job) error) error {
	if pass == passFresh {
		done := make(chan struct{})
		if err := give(func(ctx context.Context, w *worker) error {
			defer close(done)
			f.clear(t)
			return w.pause(ctx)
		}); err != nil {
			return err
		}
		<-done
	}
	found := make(chan []object, 1)
	if err := give(func(ctx context.Context, w *worker) error {
		objects, err := t.objects(ctx, w)
		found <- objects
		return err
	}); err != nil {
		return err
	}
	for _, pid := range t.pids {
		if err := give(func(ctx context.Context, w *worker) error { return w.task(ctx, t, pid, f, pass) }); err != nil {
			return err
		}
	}
	for rank, o := range <-found {
		if err := give(func(ctx context.Context, w *worker) error { return w.object(ctx, t, rank, o) }); err != nil {
			return err
		}
	}
	return nil
}

// job is work for one worker.
type job func(ctx context.Context, w *worker) error

// worker is one reading thread.
type worker struct {
	limit  *Limit
	sink   Sink
	buf    []byte
	words  []uint64 // of as many pages
	finder finder
	stats  Stats
	spent  time.Duration // of the thread's CPU time, as far as it is accounted for
}

// run works on jobs on a thread of its own, whose CPU time is what the limit is about.
func (w *worker) run(ctx context.Context, jobs <-chan job) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.buf, w.words = make([]byte, bufferSize), make([]uint64, 2*bufferSize/pageSize)
	began := threadTime()
	w.spent = began
	defer func() { w.stats.CPUSeconds = (threadTime() - began).Seconds() }()
	for do := range jobs {
		if err := do(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// pause waits until the limit allows for what has been used.
func (w *worker) pause(ctx context.Context) error {
	if w.limit == nil {
		return context.Cause(ctx)
	}
	now := threadTime()
	used := now - w.spent
	w.spent = now
	return w.limit.Spend(ctx, used)
}

// deliver hands on what was read.
func (w *worker) deliver(ctx context.Context, task string, address uint64, pages []byte) error {
	w.stats.PagesRead += int64(len(pages) / pageSize)
	w.stats.BytesRead += int64(len(pages))
	return w.sink(ctx, task, address, pages)
}

// gone counts what could not be opened or read: it vanished, unless it was refused.
func (w *worker) gone(err error) {
	w.stats.Vanished++
	if errors.Is(err, fs.ErrPermission) {
		w.stats.denied = true
	}
}

var pageSize = os.Getpagesize()

func threadTime() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		return 0
	}
	return time.Duration(at.Nano())
}
