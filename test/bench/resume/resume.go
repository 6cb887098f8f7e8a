// Package resume is the bench's part `restore`: how long a pod takes from the end of its source until it goes on elsewhere.
package resume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// Options say what to measure.
type Options struct {
	// Root is the checkout.
	Root string
	// Folder is an empty one.
	Folder string
	// SizesMiB are those of the containers of StepSizes; none means 64 MiB, 1 and 4 GiB.
	SizesMiB []int
	// Only names steps to be taken, of StepSizes and so on; none means all.
	Only []string
	// Progress takes a line for every step.
	Progress io.Writer
}

// The steps of Measure.
const (
	// StepSizes is one pod after the other, against plain `runc restore`.
	StepSizes = "sizes"
	// StepCrowd is all pods of a node at once.
	StepCrowd = "crowd"
)

const (
	mib = 1 << 20
	// target is the node that pods go on on.
	target = "b"
	// window is what a notice leaves the node: enough on a machine that does something else as well.
	window = 10 * time.Minute
	// atMost bounds a run.
	atMost = 30 * time.Minute
)

// lab measures on a rig.
type lab struct {
	rows.Series
	*rig.Rig
	Options
	holder string // the image of protect/holder
	there  *bed.Node
	pods   *moments
}

// Measure takes the steps on a bed of its own. A step that fails does not keep the other from being taken: the rows are
// those that were measured, also where there is an error.
func Measure(ctx context.Context, o Options) (all []rows.Row, err error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	if len(o.SizesMiB) == 0 {
		o.SizesMiB = []int{64, 1 << 10, 4 << 10}
	}
	l := &lab{Series: rows.Series{}, Options: o}
	if l.Rig, err = rig.Open(ctx, o.Root, o.Progress); err != nil {
		return nil, err
	}
	defer func() { err = l.Close(ctx, err) }()
	if err := l.prepare(ctx); err != nil {
		return nil, err
	}
	var faults []error
	for _, s := range []struct {
		name string
		take func(context.Context) ([]rows.Row, error)
	}{{StepSizes, l.measureSizes}, {StepCrowd, l.measureCrowd}} {
		if len(o.Only) > 0 && !slices.Contains(o.Only, s.name) || ctx.Err() != nil {
			continue
		}
		taken, err := s.take(ctx)
		all = append(all, taken...)
		if err != nil {
			l.say("%s failed: %s", s.name, err)
			faults = append(faults, fmt.Errorf("%s: %w", s.name, err), l.Clear(ctx))
		}
	}
	return all, errors.Join(faults...)
}

// prepare puts Lifeboat and the job's image onto the bed.
func (l *lab) prepare(ctx context.Context) (err error) {
	if l.there, err = l.Bed.Node(target); err != nil {
		return err
	}
	if l.holder, err = l.ProgramImage(ctx, "./test/bench/protect/holder", l.Folder); err != nil {
		return err
	}
	if err := l.Install(ctx, rig.Eager...); err != nil {
		return err
	}
	l.pods, err = follow(ctx, l.Kube)
	return err
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.Progress, "restore: "+format+"\n", args...)
}
