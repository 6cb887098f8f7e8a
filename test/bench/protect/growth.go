package protect

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/test/bench/process"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/agentlog"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

const (
	// dirtyMiB is the job of which more and more changes, neighbourMiB each of the many.
	dirtyMiB, neighbourMiB = 1 << 10, 64
	startsAtOnce           = 4
)

// neighbours are how many targets a node has.
var neighbours = []int{1, 10, 30}

// measureGrowth says how the cost of a round grows with what has changed, and with the number of targets on the node. How
// it grows with memory is said of the containers.
func (l *lab) measureGrowth(ctx context.Context) ([]rows.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	dirty, err := l.growWithChanges(ctx, min(dirtyMiB, slices.Max(l.SizesMiB)))
	if err != nil {
		return nil, err
	}
	many, err := l.growWithTargets(ctx)
	return append(dirty, many...), err
}

func (l *lab) growWithChanges(ctx context.Context, sizeMiB int) ([]rows.Row, error) {
	j, err := l.startHolder(ctx, "dirty", sizeMiB, false)
	if err != nil {
		return nil, err
	}
	since := time.Now()
	if err := l.protect(ctx, j, true); err != nil {
		return nil, err
	}
	safety, err := l.agent.Await(ctx, j.name, agentlog.Safety, since, 1)
	if err != nil {
		return nil, err
	}
	var all []rows.Row
	last := safety.Time
	for _, how := range []change.Change{change.Random, change.Tenth, change.Half} {
		l.say("growth: %s", how.Name)
		if err := l.change(ctx, j, how); err != nil {
			return nil, err
		}
		round, err := l.agent.Await(ctx, j.name, agentlog.Round, last, 1)
		if err != nil {
			return nil, err
		}
		last = round.Time
		in := fmt.Sprintf("round of %d MiB, %s: ", sizeMiB, how.Name)
		all = append(all,
			rows.Row{Name: in + "reading and comparing", Value: round.CPUSeconds - round.EncodeSeconds, Unit: "CPU s"},
			rows.Row{Name: in + "compressing", Value: round.EncodeSeconds, Unit: "CPU s"},
			rows.Row{Name: in + "uploaded", Value: round.UploadedBytes / mib, Unit: "MiB"}.
				Versus("changed", round.ChangedBytes/mib))
	}
	if err := l.Remove(ctx, j.name); err != nil {
		return nil, err
	}
	return all, l.EmptyBucket(ctx)
}

// growWithTargets protects more and more jobs. Of each it takes the second round, in which nothing has changed.
func (l *lab) growWithTargets(ctx context.Context) ([]rows.Row, error) {
	jobs := make([]*job, slices.Max(neighbours))
	group, starting := errgroup.WithContext(ctx)
	group.SetLimit(startsAtOnce)
	for i := range jobs {
		group.Go(func() (err error) {
			jobs[i], err = l.startHolder(starting, "neighbour-"+strconv.Itoa(i), neighbourMiB, false)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	agent, err := process.First(l.agent.id)
	if err != nil {
		return nil, err
	}
	var all []rows.Row
	on := 0
	for _, count := range neighbours {
		l.say("growth: %d targets on the node", count)
		taken, err := l.protectMore(ctx, agent, jobs[on:count], count)
		if err != nil {
			return nil, err
		}
		all, on = append(all, taken...), count
	}
	for _, j := range jobs {
		if err := l.Remove(ctx, j.name); err != nil {
			return nil, err
		}
	}
	return all, l.EmptyBucket(ctx)
}

// protectMore protects jobs, so that there are count on the node, until each has its safety dump.
func (l *lab) protectMore(ctx context.Context, agent int, jobs []*job, count int) ([]rows.Row, error) {
	began := time.Now()
	before, err := process.CPU(agent)
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if err := l.protect(ctx, j, true); err != nil {
			return nil, err
		}
	}
	var cpu, stands []float64
	for _, j := range jobs {
		safety, err := l.agent.Await(ctx, j.name, agentlog.Safety, began, 1)
		if err != nil {
			return nil, err
		}
		second := l.agent.Of(j.name, agentlog.Round, began)
		if len(second) < 2 {
			return nil, fmt.Errorf("%s had %d rounds before its safety dump, want 2", j.name, len(second))
		}
		cpu = append(cpu, second[1].CPUSeconds*gib/second[1].ReadBytes)
		stands = append(stands, safety.StillSeconds)
	}
	took := time.Since(began)
	after, err := process.CPU(agent)
	if err != nil {
		return nil, err
	}
	in := fmt.Sprintf("%d targets of %d MiB on the node: ", count, neighbourMiB)
	return []rows.Row{
		{Name: in + "a round, nothing changed", Value: rows.Median(cpu), Unit: "CPU s/GiB"},
		{Name: in + "safety dump, target stands still", Value: rows.Median(stands), Unit: "s"},
		{Name: in + "until the last that was added has its safety dump", Value: took.Seconds(), Unit: "s"},
		{Name: in + "the agent's process meanwhile", Value: 100 * (after - before).Seconds() / took.Seconds(), Unit: "% of a core"},
	}, nil
}
