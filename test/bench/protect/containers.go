package protect

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/agentlog"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// window is what a notice leaves the node.
const window = 2 * time.Minute

// Names of what is measured of ours.
const (
	freeze      = "freeze"
	durable     = "notice to durable"
	windowBytes = "in-window bytes"
	zstdChanged = "zstd of the changed pages"
	pagesTold   = "changed pages"
	still       = "safety dump, target stands still"
	roundCPU    = "round, nothing changed"
	roundWall   = "round, nothing changed, wall"
)

// container is what is measured of one size and kind of pages.
type container struct {
	sizeMiB int
	huge    bool
	// changes are those of one job each. Theirs is measured on every job.
	changes []change.Change
	// uploads says whether theirs is measured with its uploads.
	uploads bool
}

func (c container) name() string {
	size := fmt.Sprintf("%d MiB", c.sizeMiB)
	if c.sizeMiB >= 1<<10 {
		size = fmt.Sprintf("%d GiB", c.sizeMiB>>10)
	}
	if c.huge {
		return size + " in huge pages: "
	}
	return size + " in 4 KiB pages: "
}

// containers are those of the sizes. 1 GiB, on which promises are, comes more often; of 8 GiB in huge pages theirs is not
// uploaded, for it is as many bytes as in small ones.
func containers(sizesMiB []int) []container {
	var all []container
	for _, size := range sizesMiB {
		small := container{sizeMiB: size, changes: []change.Change{change.Random}, uploads: true}
		huge := container{sizeMiB: size, huge: true, changes: []change.Change{change.Random}, uploads: size < 8<<10}
		switch {
		case size == 1<<10:
			small.changes = []change.Change{change.Random, change.Runs, change.Random}
			huge.changes = []change.Change{change.Random, change.Runs}
		case size < 1<<10:
			small.changes = []change.Change{change.Random, change.Runs}
		}
		all = append(all, small, huge)
	}
	return all
}

// measureContainers goes on with the next container where one cannot be measured.
func (l *lab) measureContainers(ctx context.Context) ([]rows.Row, error) {
	var all []rows.Row
	var faults []error
	for _, c := range containers(l.SizesMiB) {
		err := l.measureContainer(ctx, c)
		if err == nil {
			all = append(all, l.containerRows(c)...)
			continue
		}
		l.say("%sfailed: %s", c.name(), err)
		faults = append(faults, fmt.Errorf("%s%w", c.name(), err))
		if err := l.Clear(ctx); err != nil {
			faults = append(faults, err)
			break
		}
	}
	return all, errors.Join(append(faults, l.missing...)...)
}

func (l *lab) measureContainer(ctx context.Context, c container) error {
	for n, how := range c.changes {
		l.say("%s%s, job %d of %d", c.name(), how.Name, n+1, len(c.changes))
		if err := l.measureJob(ctx, c, how); err != nil {
			return err
		}
	}
	return nil
}

// measureJob has theirs save a job, then protects it and has the node leave.
func (l *lab) measureJob(ctx context.Context, c container, how change.Change) error {
	ctx, cancel := context.WithTimeout(ctx, 12*time.Minute)
	defer cancel()
	j, err := l.startHolder(ctx, "job", c.sizeMiB, c.huge)
	if err != nil {
		return err
	}
	if err := l.theirs(ctx, j, c.name(), c.uploads); err != nil {
		return err
	}
	if err := l.ours(ctx, j, c, how); err != nil {
		return err
	}
	if err := l.Remove(ctx, j.name); err != nil {
		return err
	}
	if err := l.Calm(ctx); err != nil {
		return err
	}
	return l.EmptyBucket(ctx)
}

// ours protects the job, changes it after what was stored last, and has the node leave.
func (l *lab) ours(ctx context.Context, j *job, c container, how change.Change) error {
	in := c.name()
	began := time.Now()
	if err := l.protect(ctx, j, true); err != nil {
		return err
	}
	safety, err := l.agent.Await(ctx, j.name, agentlog.Safety, began, 1)
	if err != nil {
		return err
	}
	if first := l.agent.Of(j.name, agentlog.Round, began); len(first) >= 2 {
		l.Add(in+roundCPU, first[1].CPUSeconds)
		l.Add(in+roundWall, first[1].Seconds)
	}
	l.Add(in+still, safety.StillSeconds)
	before, err := j.sum(ctx)
	if err != nil {
		return err
	}
	if err := l.change(ctx, j, how); err != nil {
		return err
	}
	pages, compressed, err := j.changed(ctx, before)
	if err != nil {
		return err
	}
	left, err := l.leave(ctx, j, how, in)
	if err != nil {
		return err
	}
	for _, message := range []string{agentlog.Round, agentlog.Safety} {
		for _, e := range l.agent.Of(j.name, message, safety.Time) {
			if e.Time.Before(left) {
				return fmt.Errorf("a %s came between the change and the notice", message)
			}
		}
	}
	l.Add(in+how.Name+zstdChanged, float64(compressed))
	l.Add(in+how.Name+pagesTold, float64(pages))
	l.say("%s%d pages changed, %.2f MiB as zstd", in, pages, float64(compressed)/mib)
	return nil
}

// leave announces the end of the node and notes what the job's Checkpoint says then. It returns when the agent heard.
func (l *lab) leave(ctx context.Context, j *job, how change.Change, in string) (time.Time, error) {
	announced := time.Now()
	if err := l.Node.Notice(ctx, "terminate", announced.Add(window).UTC().Truncate(time.Second)); err != nil {
		return time.Time{}, err
	}
	c, err := l.Kube.WaitCheckpoint(ctx, metav1.NamespaceDefault, j.name, "evacuated", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.IsTrue(v1alpha1.ConditionEvacuated)
	})
	if err != nil {
		return time.Time{}, err
	}
	t, g := c.Status.Timeline, c.Status.Generation
	if t == nil || t.Notice == nil || t.Frozen == nil || t.Dumped == nil || t.Durable == nil || g == nil || g.WindowBytes == 0 {
		return time.Time{}, fmt.Errorf("checkpoint of %s lacks what was measured: %+v, %+v", j.name, t, g)
	}
	dumped, err := l.agent.Await(ctx, j.name, agentlog.Dumped, announced, 1)
	if err != nil {
		return time.Time{}, err
	}
	if !dumped.Lazy {
		return time.Time{}, fmt.Errorf("the final dump of %s was no lazy one: %s", j.name, dumped.NotLazy)
	}
	l.Add(in+freeze, t.Dumped.Sub(t.Frozen.Time).Seconds())
	l.Add(in+durable, t.Durable.Sub(t.Notice.Time).Seconds())
	l.Add(in+how.Name+windowBytes, float64(g.WindowBytes))
	evacuated, err := l.agent.Await(ctx, j.name, agentlog.Evacuated, announced, 1)
	if err != nil {
		return time.Time{}, err
	}
	said := map[string]agentlog.Event{agentlog.Evacuated: evacuated, agentlog.Dumped: dumped}
	for _, p := range parts {
		l.Add(in+p.name, said[p.said].Fields[p.field]) // 0 where there was no such part
	}
	return t.Notice.Time, nil
}

// parts are the stretches of an evacuation that the agent's log tells, in their order. Reading is within the dump.
var parts = []struct{ name, said, field string }{
	{"notice to durable, of that waiting for its turn", agentlog.Evacuated, "wait_seconds"},
	{"notice to durable, of that a last round", agentlog.Evacuated, "round_seconds"},
	{"notice to durable, of that the record of its begin", agentlog.Evacuated, "record_seconds"},
	{"notice to durable, of that runc pause", agentlog.Evacuated, "pause_seconds"},
	{"notice to durable, of that the dump", agentlog.Evacuated, "dump_seconds"},
	{"notice to durable, of that reading memory within the dump", agentlog.Dumped, "read_seconds"},
	{"notice to durable, of that the other images", agentlog.Evacuated, "images_seconds"},
	{"notice to durable, of that files", agentlog.Evacuated, "files_seconds"},
	{"notice to durable, of that waiting for the upload", agentlog.Evacuated, "packs_seconds"},
	{"notice to durable, of that manifest and HEAD", agentlog.Evacuated, "commit_seconds"},
	{"notice to durable, of that reading back", agentlog.Evacuated, "read_back_seconds"},
}

func (l *lab) containerRows(c container) []rows.Row {
	in := c.name()
	seconds := func(name string) rows.Row { return rows.Row{Name: in + name, Value: l.Median(in + name), Unit: "s"} }
	frozenFor := seconds(freeze).Versus(runcTmpfs+", frozen", l.Median(frozen(in+runcTmpfs)))
	switch c.sizeMiB {
	case 1 << 10:
		frozenFor = frozenFor.Wants(rows.Target{Bound: 0.75})
	case 4 << 10:
		frozenFor = frozenFor.Wants(rows.Target{Bound: 0.5})
	}
	all := []rows.Row{frozenFor}
	if c.uploads {
		for _, theirs := range []string{runcDisk, kubelet} {
			if len(l.Series[frozen(in+theirs)]) == 0 {
				continue // l.missing says why
			}
			all = append(all, seconds(freeze).Versus(theirs+", frozen", l.Median(frozen(in+theirs))))
		}
		for _, theirs := range []string{runcDisk, kubelet} {
			if len(l.Series[in+theirs+thenPut]) == 0 {
				continue
			}
			row := seconds(durable).Versus(theirs+thenPut, l.Median(in+theirs+thenPut))
			if c.sizeMiB == 1<<10 {
				row = row.Wants(rows.Target{Bound: 1.0 / 8})
			}
			all = append(all, row)
		}
	} else {
		all = append(all, seconds(durable))
	}
	for _, p := range parts {
		all = append(all, seconds(p.name))
	}
	all = append(all, seconds(still),
		rows.Row{Name: in + roundCPU, Value: l.Median(in+roundCPU) / (float64(c.sizeMiB) / 1024), Unit: "CPU s/GiB"},
		rows.Row{Name: in + roundCPU, Value: l.Median(in + roundWall), Unit: "s"})
	told := map[string]bool{}
	for _, how := range c.changes {
		if told[how.Name] {
			continue
		}
		told[how.Name] = true
		all = append(all,
			rows.Row{Name: in + windowBytes + ", " + how.Name, Value: l.Median(in+how.Name+windowBytes) / mib, Unit: "MiB"}.
				Versus(zstdChanged, l.Median(in+how.Name+zstdChanged)/mib).Wants(rows.Target{Bound: 1.05}))
	}
	return all
}
