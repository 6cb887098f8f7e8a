package scale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// plan says which nodes are reclaimed and how fast.
type plan struct {
	name        string
	first, last int // nodes, last excluded
	every       time.Duration
}

// calm reclaims so few nodes that nothing has to wait.
func calm(nodes int) plan {
	n := max(1, nodes/100)
	return plan{fmt.Sprintf("%d of %d nodes reclaimed, one a second: ", n, nodes), 0, n, time.Second}
}

// minute reclaims three nodes in ten, five a second.
func minute(nodes int) plan {
	from, n := calm(nodes).last, 3*nodes/10
	every := time.Minute / 300
	return plan{fmt.Sprintf("%d of %d nodes reclaimed within %.0f s: ", n, nodes, (time.Duration(n) * every).Seconds()), from, from + n, every}
}

// leavingNodes is how many nodes, the first ones, are to leave.
func leavingNodes(nodes int) int { return minute(nodes).last }

// reclaimed is what becomes of pods whose nodes are reclaimed.
type reclaimed struct {
	mu       sync.Mutex
	expected int
	finals   map[key]time.Time
	// done are the pods that go on, late those that started anew.
	done    map[key]handed
	started int
}

// handed are the moments of one pod.
type handed struct{ final, created, bound, resumed time.Time }

func (r *reclaimed) expect(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected += n
}

func (r *reclaimed) final(k key, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finals[k] = at
}

func (r *reclaimed) resumed(k key, came arrival, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[k] = handed{final: r.finals[k], created: came.created, bound: came.bound, resumed: at}
}

func (r *reclaimed) clean() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started++
}

func (r *reclaimed) state() (done bool, state string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.done)+r.started >= r.expected, fmt.Sprintf("%d of %d final, %d go on, %d started anew", len(r.finals), r.expected, len(r.done), r.started)
}

// under is what is being reclaimed, nil between steps.
func (l *lab) under() *reclaimed { return l.reclaiming.Load() }

// reclaim has the nodes of the plan leave and waits until all of their pods go on.
func (l *lab) reclaim(ctx context.Context, p plan) ([]rows.Row, error) {
	l.say("%s%d pods", p.name, (p.last-p.first)*podsPerNode)
	r := &reclaimed{finals: map[key]time.Time{}, done: map[key]handed{}}
	l.reclaiming.Store(r)
	defer l.reclaiming.Store(nil)
	l.api.asked.take()
	s, err := l.measure(ctx, func(ctx context.Context) error {
		if err := l.notices(ctx, p, r); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // few cores take long
		defer cancel()
		return deploy.Until(ctx, "pods that go on", func(context.Context) (bool, string, error) {
			done, state := r.state()
			l.world.mu.Lock()
			defer l.world.mu.Unlock()
			return done, state, errors.Join(l.controller.lost(), errors.Join(l.world.faults...))
		})
	})
	_, state := r.state()
	l.say("%s", state)
	if err != nil {
		return nil, err
	}
	return l.reclaimRows(ctx, p, r, s)
}

// notices has one node after the other leave, and returns when all that is final is on record.
func (l *lab) notices(ctx context.Context, p plan, r *reclaimed) error {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	group, leaving := errgroup.WithContext(ctx)
	for n := p.first; n < p.last; n++ {
		group.Go(func() error { return l.leave(leaving, nodeName(n), r) })
		select {
		case <-leaving.Done():
			return group.Wait()
		case <-tick.C:
		}
		if n%50 == 0 {
			_, state := r.state()
			l.say("%d nodes have their notice; %s", n-p.first+1, state)
		}
	}
	return group.Wait()
}

func (l *lab) reclaimRows(ctx context.Context, p plan, r *reclaimed, s *span) ([]rows.Row, error) {
	pods := r.expected
	all := []rows.Row{
		{Name: p.name + "pods that started anew", Value: float64(r.started), Unit: "pods"},
		{Name: p.name + "first notice to last pod that goes on", Value: last(r.done).Sub(s.from).Seconds(), Unit: "s"},
	}
	times, err := l.times(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, name := range stretches {
		for _, q := range []float64{0.5, 0.99} {
			all = append(all, rows.Row{Name: fmt.Sprintf("%s%s, p%.0f", p.name, name, 100*q), Value: percentile(times[name], q), Unit: "s"})
		}
	}
	taken, err := l.spanRows(p.name, s, pods)
	if err != nil {
		return nil, err
	}
	all = append(all, taken...)
	asked := l.api.asked.take()
	total := 0
	for _, n := range asked {
		total += n
	}
	all = append(all, rows.Row{Name: p.name + "requests of agents", Value: float64(total) / float64(pods), Unit: "a pod"})
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		all = append(all, rows.Row{Name: p.name + "requests of agents, of that " + name, Value: float64(asked[name]) / float64(pods), Unit: "a pod"})
	}
	return all, nil
}

func last(done map[key]handed) time.Time {
	var at time.Time
	for _, h := range done {
		if h.resumed.After(at) {
			at = h.resumed
		}
	}
	return at
}

// Stretches of a hand-over, in their order.
const (
	finalReleased = "final to released"
	finalCreated  = "final to the next pod created"
	createdBound  = "the next pod created to bound"
	finalBound    = "final to the next pod bound"
	finalResumed  = "final to the claim's last word"
)

var stretches = []string{finalReleased, finalCreated, createdBound, finalBound, finalResumed}

// times are how long they took, pod by pod.
func (l *lab) times(ctx context.Context, r *reclaimed) (map[string][]float64, error) {
	points, err := l.kube.ListCheckpoints(ctx, metav1.NamespaceAll)
	if err != nil {
		return nil, err
	}
	released := map[key]time.Time{}
	for i := range points {
		if at := timeline(&points[i]).Released; at != nil {
			released[key{points[i].Namespace, points[i].Name}] = at.Time
		}
	}
	out := map[string][]float64{}
	for k, h := range r.done {
		for name, to := range map[string]time.Time{
			finalReleased: released[k], finalCreated: h.created, finalBound: h.bound, finalResumed: h.resumed,
		} {
			if !to.IsZero() && !h.final.IsZero() {
				out[name] = append(out[name], to.Sub(h.final).Seconds())
			}
		}
		out[createdBound] = append(out[createdBound], h.bound.Sub(h.created).Seconds())
	}
	return out, nil
}

func timeline(c *v1alpha1.Checkpoint) *v1alpha1.Timeline {
	if c.Status.Timeline == nil {
		return &v1alpha1.Timeline{}
	}
	return c.Status.Timeline
}
