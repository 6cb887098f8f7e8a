package sim

import (
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/controller"
)

// Pauses after errors are those of controller-runtime.
const firstRetry, longestRetry = 5 * time.Millisecond, 1000 * time.Second

// manager is one life of a controller: what a manager of controller-runtime does for a Reconciler that leads.
type manager struct {
	*life
	r        *controller.Reconciler
	feed     *feed
	lag      time.Duration
	due      map[ctrl.Request]time.Time
	failures map[ctrl.Request]int
}

// startController is called under the world's lock. It ends after a while, where that is not 0.
func (w *world) startController(name string, lag, ends time.Duration) *manager {
	m := &manager{
		life: w.newLife(name), feed: w.api.watch(), lag: lag, due: map[ctrl.Request]time.Time{}, failures: map[ctrl.Request]int{},
	}
	cached := reader{l: m.life, view: m.view}
	m.r = &controller.Reconciler{
		Client: controllerClient{reader: cached}, Live: reader{l: m.life}, Instance: name,
		Now: func() time.Time { return time.Now().Add(w.plan.skew["controller"]) },
	}
	m.feed.changed = append(m.feed.changed, w.api.order...)
	m.feed.poke <- struct{}{}
	if ends > 0 {
		time.AfterFunc(ends, m.end)
	} else {
		m.onDeath = func() { w.restartController(name, lag) }
	}
	w.note(name, "leads, its cache %s behind", lag)
	w.spawn(m.run)
	return m
}

func (w *world) restartController(name string, lag time.Duration) {
	w.spawn(func() {
		if pause(w.ctx, w.plan.restart) == nil {
			_ = w.locked(func() error {
				w.leader = w.startController(name, lag, 0)
				return nil
			})
		}
	})
}

// view is how far the cache has come.
func (m *manager) view() time.Time {
	now := time.Now()
	for _, o := range m.w.plan.outages {
		from, to := m.w.begun.Add(o.from), m.w.begun.Add(o.to)
		if o.kind == toAPI && !o.slow && (o.who == "" || o.who == "controller") && now.After(from) && now.Before(to) {
			now = from
		}
	}
	return now.Add(-m.lag)
}

// run reconciles what is due, one after the other.
func (m *manager) run() {
	for m.ctx.Err() == nil && !m.gone.Load() {
		request, at := m.first()
		if at.IsZero() || time.Until(at) > 0 {
			wait := time.Hour
			if !at.IsZero() {
				wait = time.Until(at)
			}
			m.sleep(wait)
			continue
		}
		delete(m.due, request)
		result, err := m.r.Reconcile(m.context(), request)
		switch {
		case m.ctx.Err() != nil:
		case err != nil:
			m.w.note(m.name, "reconcile %s: %v", request.Name, err)
			m.add(request, min(firstRetry<<min(m.failures[request], 20), longestRetry))
			m.failures[request]++
		case result.RequeueAfter > 0:
			m.failures[request] = 0
			m.add(request, result.RequeueAfter)
		default:
			m.failures[request] = 0
		}
	}
}

func (m *manager) first() (request ctrl.Request, at time.Time) {
	for r, due := range m.due {
		if at.IsZero() || due.Before(at) || due.Equal(at) && r.Name < request.Name {
			request, at = r, due
		}
	}
	return request, at
}

func (m *manager) add(r ctrl.Request, after time.Duration) {
	at := time.Now().Add(after)
	if old, there := m.due[r]; !there || at.Before(old) {
		m.due[r] = at
	}
}

// sleep waits for something to change or to become due, and for the cache to have it.
func (m *manager) sleep(atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-timer.C:
		return
	case <-m.dead:
		return
	case <-m.ctx.Done():
		return
	case <-m.feed.poke:
	}
	var changed []key
	_ = m.w.locked(func() error {
		changed, m.feed.changed = m.feed.changed, nil
		return nil
	})
	if m.wait(m.ctx, m.lag+time.Millisecond) != nil {
		return
	}
	for _, k := range changed {
		var o client.Object
		_ = m.w.locked(func() error {
			past := m.w.api.objects[k]
			for i := len(past) - 1; i >= 0 && o == nil; i-- {
				o = past[i].object
			}
			return nil
		})
		if o == nil {
			continue
		}
		for _, r := range m.r.Wakes(m.context(), o) {
			m.add(r, 0)
		}
	}
}
