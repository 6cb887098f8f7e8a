package scale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/test/bench/process"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Names of the controller's own metrics.
const (
	queueDepth   = "workqueue_depth"
	queueWait    = "workqueue_queue_duration_seconds"
	reconciles   = "controller_runtime_reconcile_total"
	reconcileFor = "controller_runtime_reconcile_time_seconds"
	admissionFor = "controller_runtime_webhook_latency_seconds"
)

// span is what was used and asked from begin to end.
type span struct {
	from, to      time.Time
	cpu           map[string]time.Duration // by program, the controller among them
	before, after figures
	depth         float64 // the most that was queued, as seen once a second
}

// measure has do do its work and looks meanwhile.
func (l *lab) measure(ctx context.Context, do func(context.Context) error) (*span, error) {
	s := &span{from: time.Now()}
	var err error
	if s.before, err = l.controller.figures(ctx); err != nil {
		return nil, err
	}
	cpu, err := l.cpu()
	if err != nil {
		return nil, err
	}
	looking, stop := context.WithCancel(ctx)
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		s.look(looking, l.controller)
	}()
	err = errors.Join(do(ctx), l.idle(ctx))
	stop()
	<-looked
	if err != nil {
		return nil, err
	}
	s.to = time.Now()
	after, err := l.cpu()
	if err != nil {
		return nil, err
	}
	s.cpu = map[string]time.Duration{}
	for name, used := range after {
		s.cpu[name] = used - cpu[name]
	}
	s.after, err = l.controller.figures(ctx)
	return s, err
}

// look notes how deep the queue is until ctx ends.
func (s *span) look(ctx context.Context, c *controller) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-second.C:
		}
		if f, err := c.figures(ctx); err == nil {
			s.depth = max(s.depth, f.sum(queueDepth))
		}
	}
}

// idle waits until the controller has nothing to do: nothing is queued, and for two seconds nothing was reconciled.
func (l *lab) idle(ctx context.Context) error {
	var since time.Time
	var last float64
	return deploy.Until(ctx, "an idle controller", func(ctx context.Context) (bool, string, error) {
		f, err := l.controller.figures(ctx)
		if err != nil {
			return false, "", err
		}
		if now := f.sum(reconciles); now != last || f.sum(queueDepth) > 0 {
			last, since = now, time.Now()
		}
		return time.Since(since) > 2*time.Second, fmt.Sprintf("%.0f reconciliations, %.0f queued", last, f.sum(queueDepth)), nil
	})
}

// cpu is what the control plane's programs and the controller have used so far.
func (l *lab) cpu() (map[string]time.Duration, error) {
	children, err := process.Children(l.bed.HubPID())
	if err != nil {
		return nil, err
	}
	children[controllerName] = l.controller.pid()
	out := map[string]time.Duration{}
	for name, pid := range children {
		if out[name], err = process.CPU(pid); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// enrol starts the controller, which makes a Checkpoint for each pod.
func (l *lab) enrol(ctx context.Context) ([]rows.Row, error) {
	pods := l.Nodes * podsPerNode
	l.say("the controller: %d pods without a Checkpoint", pods)
	var err error
	if l.controller, err = l.startController(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := l.callable(ctx); err != nil {
		return nil, err
	}
	s, err := l.measure(ctx, func(ctx context.Context) error {
		return deploy.Until(ctx, "Checkpoints", func(ctx context.Context) (bool, string, error) {
			have, err := l.checkpoints(ctx)
			return have >= pods, fmt.Sprintf("%d of %d", have, pods), err
		})
	})
	if err != nil {
		return nil, err
	}
	s.from = began
	took := s.to.Sub(began) - 2*time.Second // idle has waited for so long
	l.say("all have one after %.0f s", took.Seconds())
	in := fmt.Sprintf("%d pods get their Checkpoints: ", pods)
	all, err := l.spanRows(in, s, pods)
	return append([]rows.Row{{Name: in + "all done after", Value: took.Seconds(), Unit: "s"}}, all...), err
}

// spanRows are what the controller and the control plane took.
func (l *lab) spanRows(in string, s *span, pods int) ([]rows.Row, error) {
	asked, err := l.audited(s.from, s.to)
	if err != nil {
		return nil, err
	}
	_, peak, err := l.controller.used()
	if err != nil {
		return nil, err
	}
	per := func(n int) float64 { return float64(n) / float64(pods) }
	total := 0
	for _, n := range asked {
		total += n
	}
	all := []rows.Row{{Name: in + "requests of the controller", Value: per(total), Unit: "a pod"}}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		all = append(all, rows.Row{Name: in + "requests of the controller, of that " + name, Value: per(asked[name]), Unit: "a pod"})
	}
	all = append(all, rows.Row{Name: in + "reconciliations", Value: (s.after.sum(reconciles) - s.before.sum(reconciles)) / float64(pods), Unit: "a pod"})
	for _, name := range slices.Sorted(maps.Keys(s.cpu)) {
		if used := s.cpu[name].Seconds(); used >= 1 || name == controllerName {
			all = append(all, rows.Row{Name: in + "CPU of " + name, Value: 1000 * used / float64(pods), Unit: "ms a pod"})
		}
	}
	all = append(all,
		rows.Row{Name: in + "memory of the controller, peak", Value: float64(peak) / mib, Unit: "MiB"},
		rows.Row{Name: in + "queue of the controller, most", Value: s.depth, Unit: "objects"})
	for _, h := range []struct{ name, metric string }{
		{"wait in the queue", queueWait}, {"a reconciliation", reconcileFor}, {"a call of the webhook", admissionFor},
	} {
		before, after := s.before.buckets(h.metric), s.after.buckets(h.metric)
		for _, q := range []float64{0.5, 0.99} {
			if value := quantile(before, after, q); value == value {
				all = append(all, rows.Row{Name: fmt.Sprintf("%s%s, p%.0f", in, h.name, 100*q), Value: 1000 * value, Unit: "ms"})
			}
		}
	}
	return all, nil
}

// listed is how often an agent's question is asked to be timed.
const listed = 20

// lists measures what an agent at rest asks: who its targets are, every ten seconds and for two purposes.
func (l *lab) lists(ctx context.Context) ([]rows.Row, error) {
	l.say("what agents ask")
	var all []rows.Row
	pods := l.Nodes * podsPerNode
	for n, what := range []string{
		"a bare pod, namespace of half the pods", "a bare pod, small namespace",
		"a ReplicaSet's pod, namespace of half the pods", "a ReplicaSet's pod, small namespace",
	} {
		p := placeOf(pods-4+n, l.Nodes)
		pod, err := l.api.CoreV1().Pods(p.namespace).Get(ctx, p.name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("get pod: %w", err)
		}
		for range listed {
			began := time.Now()
			if _, err := l.api.points.Of(ctx, pod); err != nil {
				return nil, err
			}
			l.Add(what, 1000*time.Since(began).Seconds())
		}
		all = append(all, rows.Row{Name: "an agent looks for the Checkpoint of " + what, Value: l.Median(what), Unit: "ms"})
	}
	const targets = "an agent lists its targets"
	l.api.asked.take()
	for n := range listed {
		a, err := l.agentOf(nodeName(l.Nodes - 1 - n))
		if err != nil {
			return nil, err
		}
		began := time.Now()
		found, err := a.journal.Targets(ctx)
		if err != nil {
			return nil, err
		}
		if len(found) != podsPerNode {
			return nil, fmt.Errorf("agent of %s has %d targets, want %d", a.node, len(found), podsPerNode)
		}
		l.Add(targets, 1000*time.Since(began).Seconds())
	}
	requests := 0
	for _, n := range l.api.asked.take() {
		requests += n
	}
	all = append(all, rows.Row{Name: fmt.Sprintf("%s (%d)", targets, podsPerNode), Value: l.Median(targets), Unit: "ms"},
		rows.Row{Name: fmt.Sprintf("%s (%d), requests", targets, podsPerNode), Value: float64(requests) / listed, Unit: "a time"})
	return all, nil
}
