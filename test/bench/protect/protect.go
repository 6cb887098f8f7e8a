// Package protect is the bench's part `snapshot`: what protection costs, and how long a target stands still and takes from
// notice to durable, against what one would use without Lifeboat. Everything runs on real containers of a test bed.
package protect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// Options say what to measure.
type Options struct {
	// Root is the checkout.
	Root string
	// Folder is an empty one.
	Folder string
	// SizesMiB are those of the containers; none means 256 MiB, 1, 4 and 8 GiB.
	SizesMiB []int
	// Only names steps to be taken, of StepContainers and so on; none means all.
	Only []string
	// Progress takes a line for every step.
	Progress io.Writer
}

// The steps of Measure.
const (
	StepContainers = "containers"
	StepGrowth     = "growth"
	StepOverhead   = "overhead"
	StepVM         = "vm"
)

const (
	mib, gib = 1 << 20, 1 << 30
	// linkRate is the network of the smallest spot machine, as tc writes it.
	linkRate = "750mbit"
	// atMost bounds a run.
	atMost = time.Hour
)

// step is a part of a run, with the agent's settings that it wants.
type step struct {
	name     string
	settings []string
	measure  func(*lab, context.Context) ([]rows.Row, error)
}

var steps = []step{
	{StepOverhead, nil, (*lab).measureOverhead},
	{StepContainers, rig.Eager, (*lab).measureContainers},
	{StepGrowth, rig.Eager, (*lab).measureGrowth},
}

// lab measures on a rig.
type lab struct {
	rows.Series
	*rig.Rig
	Options
	holder string // the image of holder
	agent  *agent
	// missing is what of theirs could not be measured, and why.
	missing []error
}

// Measure takes the steps on a bed of its own, and the last one in a VM. A step that fails does not keep the others from
// being taken: the rows are those that were measured, also where there is an error.
func Measure(ctx context.Context, o Options) ([]rows.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	if len(o.SizesMiB) == 0 {
		o.SizesMiB = []int{256, 1 << 10, 4 << 10, 8 << 10}
	}
	l := &lab{Series: rows.Series{}, Options: o}
	all, err := l.measureOnBed(ctx)
	if !l.wants(StepVM) || ctx.Err() != nil {
		return all, err
	}
	taken, fault := l.measureVM(ctx)
	if fault != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", StepVM, fault))
	}
	return append(all, taken...), err
}

func (l *lab) measureOnBed(ctx context.Context) (all []rows.Row, err error) {
	if !slices.ContainsFunc(steps, func(s step) bool { return l.wants(s.name) }) {
		return nil, nil
	}
	if l.Rig, err = rig.Open(ctx, l.Root, l.Progress); err != nil {
		return nil, err
	}
	defer func() { err = l.Close(ctx, err) }()
	if l.holder, err = l.ProgramImage(ctx, "./test/bench/protect/holder", l.Folder); err != nil {
		return nil, err
	}
	var faults []error
	for _, s := range steps {
		if !l.wants(s.name) || ctx.Err() != nil {
			continue
		}
		taken, err := l.take(ctx, s)
		all = append(all, taken...)
		if err != nil {
			l.say("%s failed: %s", s.name, err)
			faults = append(faults, fmt.Errorf("%s: %w", s.name, err))
			// What it has begun would be in the way of the next one.
			faults = append(faults, l.Clear(ctx))
		}
	}
	return all, errors.Join(faults...)
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.Progress, "snapshot: "+format+"\n", args...)
}

func (l *lab) wants(name string) bool { return len(l.Only) == 0 || slices.Contains(l.Only, name) }

// take installs Lifeboat as the step wants it, and measures.
func (l *lab) take(ctx context.Context, s step) ([]rows.Row, error) {
	if err := l.Install(ctx, s.settings...); err != nil {
		return nil, err
	}
	// Nobody is to go on elsewhere: the machine has no memory for two of the large ones.
	if _, err := l.Kube.Kubectl(ctx, nil, "cordon", "b"); err != nil {
		return nil, err
	}
	if _, err := l.Node.Exec(ctx, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", linkRate,
		"burst", "256k", "latency", "50ms"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	if l.agent, err = l.followAgent(ctx); err != nil {
		return nil, err
	}
	return s.measure(l, ctx)
}
