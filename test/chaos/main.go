package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Options of Main.
type Options struct {
	// Runs is how many, from Seed on.
	Runs int
	Seed uint64
	// Dir is the state folder of a bed that is up; empty: one is brought up and taken down.
	Dir string
}

// nodeGrace is how long a silent node counts as ready: a busy machine takes its time.
const nodeGrace = 30 * time.Second

// Main makes runs on one bed and writes what became of each. Logs of those that fail are below build/chaos.
func Main(ctx context.Context, o Options, out io.Writer) (err error) {
	root, err := deploy.Checkout()
	if err != nil {
		return err
	}
	w, down, err := setUp(ctx, o, root, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down(context.WithoutCancel(ctx))) }()
	var sum Summary
	for seed := o.Seed; seed < o.Seed+uint64(o.Runs) && ctx.Err() == nil; seed++ {
		outcome := w.Run(ctx, Draw(seed), filepath.Join(root, "build", "chaos", fmt.Sprint(seed)))
		if ctx.Err() != nil {
			fmt.Fprintf(out, "%s cut short: %s\n", time.Now().Format(time.TimeOnly), outcome.Report())
			break
		}
		fmt.Fprintf(out, "%s %s\n", time.Now().Format(time.TimeOnly), outcome.Report())
		sum.Add(outcome)
	}
	sum.Print(out)
	if sum.Faults > 0 {
		return errors.New("some runs failed")
	}
	return ctx.Err()
}

func setUp(ctx context.Context, o Options, root string, out io.Writer) (*World, func(context.Context) error, error) {
	w, down := &World{}, func(context.Context) error { return nil }
	var err error
	if o.Dir != "" {
		w.Bed, err = bed.Attach(o.Dir)
	} else {
		w.Bed, err = bed.Up(ctx, bed.Options{Dir: filepath.Join(root, "build", "chaos-bed"), NodeMonitorGrace: nodeGrace, Progress: out})
	}
	if err != nil {
		return nil, nil, err
	}
	if o.Dir == "" {
		down = w.Bed.Down
	}
	image, err := deploy.BuildImage(ctx, w.Bed, out)
	if err == nil {
		w.Kube, err = deploy.Install(ctx, w.Bed, deploy.Options{Image: image, Settings: deploy.Hasty})
	}
	if err == nil {
		w.Image, err = deploy.CounterImage(ctx, w.Bed)
	}
	if err != nil {
		return nil, nil, errors.Join(err, down(context.WithoutCancel(ctx)))
	}
	return w, down, nil
}
