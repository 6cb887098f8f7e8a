package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

// Wanted is memory of one task, "mem/<PID in the container>".
type Wanted struct {
	Task string
	Runs []store.Run
}

// stretch is how many bytes of a task one thread reads on its own.
const stretch = 64 << 20

// ReadExactly hands the wanted pages of a stopped container to sink: each of them once and with its content, or it
// returns an error. One task may be read by two threads; their calls of sink, of 64 MiB each that ascend, come side by
// side. PROT_NONE areas are read as well. With a Filter those pages are left out of which it knows that its sink has them,
// with their content; it then knows none but wanted ones.
func (r *Reader) ReadExactly(ctx context.Context, init int, wanted []Wanted, sink Sink) (Stats, error) {
	began := time.Now()
	stats, err := r.readExactly(ctx, init, wanted, sink)
	stats.Seconds = time.Since(began).Seconds()
	if err != nil {
		return stats, fmt.Errorf("read memory of the container of process %d: %w", init, err)
	}
	return stats, nil
}

func (r *Reader) readExactly(ctx context.Context, init int, wanted []Wanted, sink Sink) (Stats, error) {
	tree, err := treeOf(r.Proc, init)
	if errors.Is(err, fs.ErrNotExist) {
		return Stats{}, snapshot.ErrGone
	}
	if err != nil {
		return Stats{}, err
	}
	pids := map[string]int{}
	for _, pid := range tree.pids {
		ids, err := tree.nsPIDs(pid)
		if err != nil {
			return Stats{}, err
		}
		if len(ids) > tree.depth {
			pids["mem/"+ids[tree.depth]] = pid
		}
	}
	var stats Stats
	err = r.work(ctx, sink, &stats, func(give func(job) error) error {
		var parts []*part
		for _, want := range wanted {
			pid, known := pids[want.Task]
			if !known {
				return fmt.Errorf("no process is task %s: %w", want.Task, fs.ErrNotExist)
			}
			for _, spans := range stretches(want.Runs) {
				parts = append(parts, &part{pid: pid, spans: spans})
			}
		}
		stats.Tasks = len(wanted)
		kept, err := r.leaveOut(tree, parts, give)
		if err != nil {
			return err
		}
		stats.PagesKept = kept
		for _, part := range parts {
			if err := give(func(ctx context.Context, w *worker) error { return w.exactly(ctx, tree, part.pid, part.spans) }); err != nil {
				return err
			}
		}
		return nil
	})
	r.Filter.wasRead(wanted, stats, err)
	return stats, err
}

// part is what one thread reads on its own.
type part struct {
	pid   int
	spans []span
	known *knownTask // nil: nothing is
	sifted
}

// look finds what is known of the tasks of parts.
func (f *Filter) look(t *tree, parts []*part) error {
	tasks := map[int]*knownTask{}
	for _, part := range parts {
		known, looked := tasks[part.pid]
		if !looked {
			p, err := t.open(part.pid)
			if err != nil {
				return err
			}
			known = f.taskOf(p)
			tasks[part.pid] = known
			if err := p.close(); err != nil {
				return err
			}
		}
		part.known = known
	}
	return nil
}

// leaveOut leaves pages out of parts that the Filter knows, unless there are signs that it is wrong.
func (r *Reader) leaveOut(t *tree, parts []*part, give func(job) error) (kept int64, _ error) {
	if !r.Filter.beginExactly() {
		return 0, nil
	}
	if err := r.Filter.look(t, parts); err != nil {
		return 0, err
	}
	var all sync.WaitGroup
	for _, part := range parts {
		if part.known == nil {
			continue
		}
		all.Add(1)
		if err := give(func(ctx context.Context, w *worker) error {
			defer all.Done()
			return w.sift(ctx, t, part, r.Filter)
		}); err != nil {
			return 0, err
		}
	}
	all.Wait()
	if r.Filter.end(passExact, t.usedByAll()); len(r.Filter.tasks) == 0 {
		return 0, nil
	}
	for _, part := range parts {
		if part.cleanPages > 0 {
			part.spans = part.unread
		}
		kept += part.cleanPages
	}
	return kept, nil
}

// sift finds what of a part need not be read.
func (w *worker) sift(ctx context.Context, t *tree, part *part, f *Filter) error {
	p, err := t.open(part.pid)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.openMemory(); err != nil {
		return err
	}
	if part.sifted, err = part.known.sift(p.readWords, part.spans, w.words); err != nil {
		return err
	}
	f.note(passed{dirty: part.dirty, cleared: part.cleared})
	return w.pause(ctx)
}

// stretches cuts runs into what one thread reads on its own.
func stretches(runs []store.Run) [][]span {
	var all [][]span
	room := uint64(0)
	for _, run := range runs {
		for start, end := run.Address, run.Address+uint64(run.Pages)*store.BlockSize; start < end; {
			if room == 0 {
				all, room = append(all, nil), stretch
			}
			take := min(end-start, room)
			last := len(all) - 1
			all[last] = append(all[last], span{start, start + take})
			start, room = start+take, room-take
		}
	}
	return all
}

// exactly reads all of spans.
func (w *worker) exactly(ctx context.Context, t *tree, pid int, spans []span) error {
	p, err := t.open(pid)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.openMemory(); err != nil {
		return err
	}
	var batch []span
	for len(spans) > 0 {
		batch, spans = cut(batch[:0], spans)
		n := w.fillByVectors(p, batch)
		n = w.fillByFile(p, batch, n)
		if !p.alive() {
			return fmt.Errorf("process %d has ended: %w", pid, fs.ErrNotExist)
		}
		at := 0
		for _, s := range batch {
			size := int(s.end - s.start)
			if at+size > n {
				return fmt.Errorf("page %#x of task %s cannot be read", s.start+uint64(n-at), p.task)
			}
			if err := w.deliver(ctx, p.task, s.start, w.buf[at:at+size]); err != nil {
				return err
			}
			at += size
		}
		if err := w.pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// work has workers do the jobs that hand gives, and adds up what they did.
func (r *Reader) work(ctx context.Context, sink Sink, stats *Stats, hand func(give func(job) error) error) error {
	var readers [workers]worker
	jobs := make(chan job)
	group, ctx := errgroup.WithContext(ctx)
	for i := range readers {
		w := &readers[i]
		w.limit, w.sink = r.Limit, sink
		group.Go(func() error { return w.run(ctx, jobs) })
	}
	group.Go(func() error {
		defer close(jobs)
		return hand(func(j job) error {
			select {
			case jobs <- j:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	err := group.Wait()
	for i := range readers {
		stats.add(readers[i].stats)
	}
	return err
}
