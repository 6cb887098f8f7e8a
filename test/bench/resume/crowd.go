package resume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/process"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

const (
	// crowd pods of crowdMiB each are on the node that leaves.
	crowd, crowdMiB = 30, 32
	// agentState is what agents keep on their node's disk.
	agentState = "/var/lib/lifeboat"
	diskEvery  = 250 * time.Millisecond
)

// measureCrowd has all pods of a node restored at once on the other one.
func (l *lab) measureCrowd(ctx context.Context) ([]rows.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	in := fmt.Sprintf("%d pods of %d MiB at once: ", crowd, crowdMiB)
	l.say("%sstarting them", in)
	anew, err := l.startCrowd(ctx)
	if err != nil {
		return nil, err
	}
	agent, err := l.AgentPID(ctx, target)
	if err != nil {
		return nil, err
	}
	w, err := l.watchAgent(ctx, agent)
	if err != nil {
		return nil, err
	}
	l.say("%sinterrupting them", in)
	points, err := l.interruptCrowd(ctx)
	used, fault := w.end()
	if err := errors.Join(err, fault); err != nil {
		return nil, err
	}
	all, err := l.crowdRows(in, points, anew, used)
	return all, errors.Join(err, l.Clear(ctx))
}

func crowdName(n int) string { return fmt.Sprintf("crowd-%02d", n) }

// startCrowd starts the pods all at once and returns in seconds how long each took from created to ready.
func (l *lab) startCrowd(ctx context.Context) ([]float64, error) {
	group, within := errgroup.WithContext(ctx)
	for n := range crowd {
		group.Go(func() error { return l.start(within, crowdName(n), crowdMiB) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	pods, err := l.Kube.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	var anew []float64
	for i := range pods.Items {
		at := l.pods.of(pods.Items[i].UID)
		anew = append(anew, at.ready.Sub(at.created).Seconds())
	}
	return anew, nil
}

// interruptCrowd announces the node's end and waits until all pods go on, but for those that were not evacuated: it returns the
// Checkpoints of those that do.
func (l *lab) interruptCrowd(ctx context.Context) (on []v1alpha1.Checkpoint, err error) {
	if err := l.Node.Notice(ctx, "terminate", time.Now().Add(window).UTC().Truncate(time.Second)); err != nil {
		return nil, err
	}
	err = deploy.Until(ctx, "the last pod that goes on", func(ctx context.Context) (bool, string, error) {
		points, err := l.Kube.ListCheckpoints(ctx, metav1.NamespaceDefault)
		if err != nil {
			return false, "", err
		}
		var stay int
		stay, on = sortOut(points)
		return len(on)+stay == crowd, fmt.Sprintf("%d of %d, %d not evacuated", len(on), crowd, stay), nil
	})
	return on, err
}

// sortOut counts the pods that were thawed, and finds those that go on.
func sortOut(points []v1alpha1.Checkpoint) (stay int, on []v1alpha1.Checkpoint) {
	for i := range points {
		evacuated := points[i].Status.Condition(v1alpha1.ConditionEvacuated)
		switch {
		case restored(&points[i]):
			on = append(on, points[i])
		case evacuated != nil && evacuated.Status == metav1.ConditionFalse:
			stay++
		}
	}
	return stay, on
}

// usage is what an agent took while it was watched.
type usage struct {
	cpu                  time.Duration
	memoryFrom, memoryTo int64 // bytes, at first and at most
	disk                 int64 // bytes at most, beyond what there was
}

// agentWatch watches one.
type agentWatch struct {
	pid    int
	folder string
	used   usage
	before time.Duration
	had    int64

	stop context.CancelFunc
	done chan struct{}
}

func (l *lab) watchAgent(ctx context.Context, pid int) (_ *agentWatch, err error) {
	root, err := l.there.Root()
	if err != nil {
		return nil, err
	}
	w := &agentWatch{pid: pid, folder: filepath.Join(root, agentState), done: make(chan struct{})}
	if w.before, err = process.CPU(pid); err != nil {
		return nil, err
	}
	if err := process.Forget(pid); err != nil {
		return nil, err
	}
	if w.used.memoryFrom, err = process.Resident(pid); err != nil {
		return nil, err
	}
	w.had = diskOf(w.folder)
	ctx, w.stop = context.WithCancel(ctx)
	go w.look(ctx)
	return w, nil
}

func (w *agentWatch) look(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.used.disk = max(w.used.disk, diskOf(w.folder)-w.had)
		}
	}
}

func (w *agentWatch) end() (usage, error) {
	w.stop()
	<-w.done
	cpu, err := process.CPU(w.pid)
	if err != nil {
		return w.used, fmt.Errorf("%w: was the agent restarted?", err)
	}
	w.used.cpu = cpu - w.before
	w.used.memoryTo, err = process.Peak(w.pid)
	return w.used, err
}

// diskOf is how many bytes the files below a folder take on the disk; what comes and goes meanwhile may count or not.
func diskOf(folder string) int64 {
	var bytes int64
	_ = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += stat.Blocks * 512
			}
		}
		return nil
	})
	return bytes
}

// crowdRows say how long it took.
func (l *lab) crowdRows(in string, points []v1alpha1.Checkpoint, anew []float64, used usage) ([]rows.Row, error) {
	took := map[string][]float64{}
	firstReleased := time.Time{}
	var resumed []time.Time
	for i := range points {
		c := &points[i]
		parts, err := stretchesOf(c, l.pods.of(c.Status.Claim.PodUID))
		if err != nil {
			return nil, err
		}
		for name, seconds := range parts {
			took[name] = append(took[name], seconds)
		}
		if at := c.Status.Timeline.Released.Time; firstReleased.IsZero() || at.Before(firstReleased) {
			firstReleased = at
		}
		resumed = append(resumed, c.Status.Timeline.Resumed.Time)
	}
	var since []float64
	for _, at := range resumed {
		since = append(since, at.Sub(firstReleased).Seconds())
	}
	all := []rows.Row{{Name: in + "pods that go on", Value: float64(len(points)), Unit: "pods"}}
	all = append(all, spread(in+whole+" of each pod", took[whole], anew)...)
	all = append(all, spread(in+"first released to resumed", since, nil)...)
	for _, name := range stretches {
		all = append(all, rows.Row{Name: in + name + ", median", Value: rows.Median(took[name]), Unit: "s"})
	}
	return append(all,
		rows.Row{Name: in + "memory of the agent, before", Value: float64(used.memoryFrom) / mib, Unit: "MiB"},
		rows.Row{Name: in + "memory of the agent, peak", Value: float64(used.memoryTo) / mib, Unit: "MiB"},
		rows.Row{Name: in + "CPU of the agent", Value: used.cpu.Seconds(), Unit: "s"},
		rows.Row{Name: in + "disk of the agent, most", Value: float64(used.disk) / mib, Unit: "MiB"}.
			Versus("memory of the pods", crowd*crowdMiB)), nil
}

// spread is the least, the median and the most of values, against those of the same pods started anew where there are any.
func spread(name string, values, anew []float64) []rows.Row {
	one := func(which string, of func([]float64) float64) rows.Row {
		row := rows.Row{Name: name + ", " + which, Value: of(values), Unit: "s"}
		if len(anew) > 0 {
			row = row.Versus("all started anew, created to ready, "+which, of(anew))
		}
		return row
	}
	least := func(v []float64) float64 { return edge(v, slices.Min[[]float64]) }
	most := func(v []float64) float64 { return edge(v, slices.Max[[]float64]) }
	return []rows.Row{one("first", least), one("median", rows.Median), one("last", most)}
}

func edge(values []float64, of func([]float64) float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return of(values)
}
