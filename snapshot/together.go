package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// What is done with the containers of one target together. A generation is a consistent cut whenever each container was frozen:
// nothing of any of them is read for good before the last one stands still, and one that was frozen sooner is as one that
// the kernel has not scheduled meanwhile.

// errPartly: some containers of a target have ended and others have not. What ended would be lost.
var errPartly = errors.New("a container has ended while others of the pod run")

// each calls do for every container of t at the same time, and joins what failed. It is ErrGone where all have ended, and names
// those that have where others have not.
func each(t Target, do func(c Container) error) error {
	faults := make([]error, len(t.Containers))
	var all sync.WaitGroup
	for i, c := range t.Containers {
		all.Go(func() { faults[i] = do(c) })
	}
	all.Wait()
	return partly(t, faults)
}

// partly joins the faults of t's containers.
func partly(t Target, faults []error) error {
	var gone []string
	var others []error
	for i, err := range faults {
		if errors.Is(err, ErrGone) {
			gone = append(gone, t.Containers[i].Name)
		} else if err != nil {
			others = append(others, err)
		}
	}
	switch {
	case len(gone) == 0:
		return errors.Join(others...)
	case len(gone) == len(t.Containers):
		return ErrGone
	}
	return errors.Join(append(others, fmt.Errorf("%w: %s", errPartly, strings.Join(gone, ", ")))...)
}

// freeze freezes all of t, as close to one moment as the runtime's calls are, which are made at the same time.
func (e *Evacuator) freeze(ctx context.Context, t Target) error {
	return each(t, func(c Container) error { return e.options.Runtime.Pause(ctx, c.ID) })
}

// thaw lets t run again and hands its containers the signals held back. Those that have ended stay so. Where t has been
// retired meanwhile, it is frozen for good again.
func (e *Evacuator) thaw(ctx context.Context, t Target) error {
	err := each(t, func(c Container) error {
		if err := e.options.Runtime.Resume(ctx, c.ID); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		signals, err := e.options.Holds.Clear(c.ID)
		for _, s := range signals {
			if fault := e.options.Runtime.Signal(ctx, c.ID, s); fault != nil && !errors.Is(fault, ErrGone) {
				err = errors.Join(err, fault)
			}
		}
		return err
	})
	if e.isRetired(t) {
		return errors.Join(err, e.freezeForGood(ctx, t))
	}
	return err
}

// hold has signals held back from all of t.
func (e *Evacuator) hold(t Target) error {
	for _, c := range t.Containers {
		if err := e.options.Holds.Set(c.ID); err != nil {
			return err
		}
	}
	return nil
}

// dumps are those of a target's containers, in their order.
type dumps []Dump

// dumpAll dumps the frozen containers of t, as many at a time as there are cores. The first failure ends the others: a part of
// a pod is of no use.
func (e *Evacuator) dumpAll(ctx context.Context, t Target, w *openWriter) (dumps, error) {
	if e.options.Together != nil {
		if err := e.options.Together(t.Containers); err != nil {
			return nil, fmt.Errorf("dump pod %s/%s: %w", t.Namespace, t.Pod, err)
		}
	}
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group errgroup.Group
	group.SetLimit(max(1, int(e.options.Cores)))
	all, faults := make(dumps, len(t.Containers)), make([]error, len(t.Containers))
	for i, c := range t.Containers {
		group.Go(func() error {
			if within.Err() != nil {
				return nil
			}
			dump, err := e.options.Runtime.Dump(within, c.ID, e.workDir(c.ID), w.sink(c.Name))
			if all[i] = dump; err != nil && !errors.Is(err, errOther) {
				faults[i] = err
				stop(errOther)
			}
			return err
		})
	}
	if group.Wait() == nil && context.Cause(ctx) == nil {
		return all, nil
	}
	return nil, errors.Join(context.Cause(ctx), partly(t, faults))
}

// errOther ends the dump of a container because that of another one of the pod has failed.
var errOther = errors.New("the dump of another container of the pod has failed")

func (d dumps) rssBytes() (sum int64) {
	for _, one := range d {
		sum += one.RSSBytes
	}
	return sum
}

// inWriter says whether a Writer has any of the memory.
func (d dumps) inWriter() bool {
	for _, one := range d {
		if one.OnDisk != nil {
			return true
		}
	}
	return false
}

// readTime is how long memory was read for the sink, of the dump for which that took longest.
func (d dumps) readTime() (longest time.Duration) {
	for _, one := range d {
		longest = max(longest, one.ReadTime)
	}
	return longest
}

// notLazy says why which dumps are full ones although there was a sink.
func (d dumps) notLazy() error {
	var why []error
	for _, one := range d {
		why = append(why, one.NotLazy)
	}
	return errors.Join(why...)
}

func (e *Evacuator) workDir(id string) string { return filepath.Join(e.options.WorkDir, id) }

// vitals are those of t's containers together.
func (e *Evacuator) vitals(t Target) (Vitals, error) {
	var sum Vitals
	for _, c := range t.Containers {
		v, err := e.options.Scanner.Vitals(c)
		if err != nil {
			return Vitals{}, err
		}
		sum.RSSBytes += v.RSSBytes
		sum.CPU += v.CPU
		sum.Periods += v.Periods
		sum.Throttled += v.Throttled
	}
	return sum, nil
}

// scan reads the memory of t's containers, one after the other, so that they together keep within share and rate.
func (e *Evacuator) scan(ctx context.Context, t Target, w *openWriter, share, rate float64) (Scan, error) {
	sum := Scan{Tracked: true}
	bound := w.bound(rate)
	for _, c := range t.Containers {
		one, err := e.options.Scanner.Scan(ctx, c, share, bound.sink(c.Name))
		sum.Bytes += one.Bytes
		sum.Unread += one.Unread
		sum.Missed += one.Missed
		sum.CPU += one.CPU
		sum.Still += one.Still
		sum.Tracked = sum.Tracked && one.Tracked
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// kill ends a container that is frozen for good.
func (e *Evacuator) kill(ctx context.Context, id string) error {
	err := e.options.Runtime.Signal(ctx, id, syscall.SIGKILL)
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}
