package protect

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/process"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/agentlog"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// matrixScript is a job that multiplies matrices with numpy.
//
//go:embed matrix.py
var matrixScript string

const (
	// workerMiB is what each of the two jobs holds.
	workerMiB = 256
	// turns is how often the agent works and stands still in turn, half of a turn each. That half is the interval of rounds,
	// so that there is one in it, as in any other stretch of that length.
	turns = 6
	half  = 30 * time.Second
	// warm is how much of a half is left out: what the jobs do in it is still due to the half before.
	warm = time.Second
)

// numpyPackages make the image of the matrix job: those of part store, so that the root is made once.
var numpyPackages = []string{"criu", "python3-numpy", "restic"}

// measureOverhead has two jobs use both cores while the agent, with default settings, works and stands still (SIGSTOP) in
// turn, and compares how fast they are.
func (l *lab) measureOverhead(ctx context.Context) (_ []rows.Row, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	jobs, err := l.startWorkers(ctx)
	if err != nil {
		return nil, err
	}
	agent, err := process.First(l.agent.id)
	if err != nil {
		return nil, err
	}
	// However this ends, the agent goes on: what it holds still would stay so.
	defer func() { err = errors.Join(err, syscall.Kill(agent, syscall.SIGCONT)) }()
	began := time.Now()
	var with, without []stretch
	for turn := range turns {
		l.say("overhead: turn %d of %d", turn+1, turns)
		before, err := process.CPU(agent)
		if err != nil {
			return nil, err
		}
		on, err := l.stretch(ctx, agent, syscall.SIGCONT)
		if err != nil {
			return nil, err
		}
		after, err := process.CPU(agent)
		if err != nil {
			return nil, err
		}
		l.Add(agentCPU, 100*(after-before).Seconds()/half.Seconds())
		off, err := l.stretch(ctx, agent, syscall.SIGSTOP)
		if err != nil {
			return nil, err
		}
		with, without = append(with, on), append(without, off)
	}
	if err := syscall.Kill(agent, syscall.SIGCONT); err != nil {
		return nil, fmt.Errorf("let the agent go on: %w", err)
	}
	var all []rows.Row
	for _, j := range jobs {
		taken, err := l.overheadOf(ctx, j, with, without, began)
		if err != nil {
			return nil, err
		}
		all = append(all, taken...)
		if err := l.Remove(ctx, j.name); err != nil {
			return nil, err
		}
	}
	return append(all, rows.Row{Name: agentCPU, Value: l.Median(agentCPU), Unit: "% of a core"}), l.EmptyBucket(ctx)
}

const agentCPU = "default settings: the agent's process, two jobs of 256 MiB"

// startWorkers starts both jobs and waits until both are protected.
func (l *lab) startWorkers(ctx context.Context) ([]*job, error) {
	tar, err := bed.DebianRootfs(ctx, l.Progress, numpyPackages...)
	if err != nil {
		return nil, err
	}
	python, err := l.Bed.PushRootfs(ctx, "numpy", tar, v1.Config{})
	if err != nil {
		return nil, err
	}
	matrix, err := l.start(ctx, "numpy-matrix-loop", python, []string{"/usr/bin/python3", "-B", "-c", matrixScript}, "did",
		strconv.Itoa(workerMiB))
	if err != nil {
		return nil, err
	}
	writer, err := l.start(ctx, "random-writer", l.holder, nil, "did", "-write", "-mib", strconv.Itoa(workerMiB))
	if err != nil {
		return nil, err
	}
	jobs := []*job{matrix, writer}
	began := time.Now()
	for _, j := range jobs {
		if err := l.protect(ctx, j, true); err != nil {
			return nil, err
		}
	}
	for _, j := range jobs {
		l.say("overhead: waiting for the first rounds and the safety dump of %s", j.name)
		safety, err := l.agent.Await(ctx, j.name, agentlog.Safety, began, 1)
		if err != nil {
			return nil, err
		}
		l.Add(j.name+still, safety.StillSeconds)
	}
	return jobs, nil
}

// stretch is a time in which the agent worked, or did not.
type stretch struct{ from, to time.Time }

// stretch sends the agent the signal and waits for half a turn.
func (l *lab) stretch(ctx context.Context, agent int, signal syscall.Signal) (stretch, error) {
	if err := syscall.Kill(agent, signal); err != nil {
		return stretch{}, fmt.Errorf("send %s to the agent: %w", signal, err)
	}
	began := time.Now()
	timer := time.NewTimer(half)
	defer timer.Stop()
	select {
	case <-timer.C:
		return stretch{began.Add(warm), time.Now()}, nil
	case <-ctx.Done():
		return stretch{}, ctx.Err()
	}
}

// overheadOf says what protection cost a job.
func (l *lab) overheadOf(ctx context.Context, j *job, with, without []stretch, began time.Time) ([]rows.Row, error) {
	lines, err := l.lines(ctx, j, "did ")
	if err != nil {
		return nil, err
	}
	var lost, on, off []float64
	for i := range with {
		a, fault := speed(lines, with[i])
		b, err := speed(lines, without[i])
		if err := errors.Join(fault, err); err != nil {
			return nil, fmt.Errorf("speed of %s: %w", j.name, err)
		}
		lost, on, off = append(lost, 100*(1-a/b)), append(on, a), append(off, b)
	}
	var reading, storing, changed []float64
	for _, e := range l.agent.Of(j.name, agentlog.Round, began) {
		if e.ReadBytes > 0 {
			reading = append(reading, (e.CPUSeconds-e.EncodeSeconds)*gib/e.ReadBytes)
			storing = append(storing, e.CPUSeconds*gib/e.ReadBytes)
			changed = append(changed, 100*e.ChangedBytes/e.ReadBytes)
		}
	}
	// No safety dump falls into the turns: it comes every ten minutes.
	stands := 100 * l.Median(j.name+still) / snapshot.DefaultPolicy().RecoveryPoint.Seconds()
	in := "default settings, " + j.name + ": "
	return []rows.Row{
		rows.Row{Name: in + "throughput lost to rounds and safety dumps", Value: rows.Median(lost) + stands, Unit: "%"}.
			Versus("the bound", 2).Wants(rows.Target{Bound: 1}),
		{Name: in + "of that, standing still for safety dumps", Value: stands, Unit: "%"},
		rows.Row{Name: in + "operations/s with Lifeboat", Value: rows.Median(on), Unit: "1/s"}.Versus("without", rows.Median(off)),
		rows.Row{Name: in + "a round, reading and comparing", Value: rows.Median(reading), Unit: "CPU s/GiB"}.
			Versus("the bound", 0.3).Wants(rows.Target{Bound: 1}),
		{Name: in + "a round, with compressing what changed", Value: rows.Median(storing), Unit: "CPU s/GiB"},
		{Name: in + "changed from round to round", Value: rows.Median(changed), Unit: "% of memory"},
	}, nil
}

// speed is how many operations a second the lines "did N" tell of a stretch.
func speed(lines []stamped, in stretch) (float64, error) {
	var first, last *stamped
	for i := range lines {
		if at := lines[i].at; at.After(in.from) && at.Before(in.to) {
			if first == nil {
				first = &lines[i]
			}
			last = &lines[i]
		}
	}
	if first == nil || !last.at.After(first.at) {
		return 0, fmt.Errorf("fewer than two lines between %s and %s", in.from, in.to)
	}
	did := func(s *stamped) (float64, error) { return strconv.ParseFloat(strings.TrimPrefix(s.text, "did "), 64) }
	from, err1 := did(first)
	to, err2 := did(last)
	return (to - from) / last.at.Sub(first.at).Seconds(), errors.Join(err1, err2)
}
