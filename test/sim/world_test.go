package sim

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/controller/admission"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// atMost is how long after the last fault everything has to have come to rest.
const atMost = 25 * time.Minute

// world is the cluster of one seed.
type world struct {
	seed    uint64
	plan    *plan
	root    string // of the files of all nodes
	verbose bool
	ctx     context.Context
	begun   time.Time
	over    chan struct{}
	group   sync.WaitGroup

	told    sync.Mutex
	history []string
	fault   string // the first rule that was broken

	mu         sync.Mutex
	api        *api
	bucket     *mem.Bucket
	raw        *store.Store // the bucket as it is
	nodes      []*machine
	leader     *manager
	owner      client.Object
	lineages   map[uint64]*lineage
	containers int
	bound      uint64
	asks       uint64
	succeeded  int
	counted    map[types.UID]bool
	failures   map[types.UID]bool
	drained    map[types.UID]bool
	finals     map[string]*final
	dumps      map[string][]dumpOf
	damagedAny bool
	forgot     bool
}

func newWorld(seed uint64, root string) *world {
	w := &world{
		seed: seed, root: root, over: make(chan struct{}), begun: time.Now(), bucket: mem.New(), lineages: map[uint64]*lineage{},
		counted: map[types.UID]bool{}, failures: map[types.UID]bool{}, drained: map[types.UID]bool{}, finals: map[string]*final{},
		dumps: map[string][]dumpOf{},
	}
	w.plan = newPlan(w.lot("plan", 0))
	w.api = newAPI(w)
	w.raw = store.New(w.bucket, keys)
	return w
}

// note writes a line of the history.
func (w *world) note(who, format string, args ...any) {
	w.told.Lock()
	defer w.told.Unlock()
	w.history = append(w.history, fmt.Sprintf("%9.4f %-12s ", w.since().Seconds(), who)+fmt.Sprintf(format, args...))
}

// broken says that a rule does not hold. The first one ends the history.
func (w *world) broken(format string, args ...any) {
	w.note("RULE", format, args...)
	w.told.Lock()
	defer w.told.Unlock()
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

func (w *world) isBroken() bool {
	w.told.Lock()
	defer w.told.Unlock()
	return w.fault != ""
}

func (w *world) must(err error) {
	if err != nil {
		w.broken("played wrong: %v", err)
	}
}

func (w *world) since() time.Duration { return time.Since(w.begun) }

// at is a moment as the history has it.
func (w *world) at(t time.Time) string { return fmt.Sprintf("%.4f", t.Sub(w.begun).Seconds()) }

func (w *world) spawn(do func()) { w.group.Go(do) }

func (w *world) locked(do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return do()
}

func (w *world) machine(name string) *machine {
	for _, m := range w.nodes {
		if m.name == name {
			return m
		}
	}
	return nil
}

// play plays the history through, in the bubble of a test.
func (w *world) play(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	w.ctx = ctx
	_ = w.locked(func() error {
		w.begin()
		return nil
	})
	for _, i := range w.plan.interruptions {
		w.spawn(func() { w.interrupt(i) })
	}
	calm := 0
	for calm < 5 && !w.isBroken() {
		<-time.After(time.Second)
		_ = w.locked(func() error {
			w.inspect()
			if w.settled() {
				calm++
			} else {
				calm = 0
			}
			if w.since() > w.plan.calm+atMost {
				w.broken("nothing comes to rest: %s", w.standing())
			}
			return nil
		})
	}
	if !w.isBroken() {
		_ = w.locked(func() error {
			w.checkEnd()
			return nil
		})
	}
	close(w.over)
	cancel()
	w.group.Wait()
}

func (w *world) begin() {
	finder := admission.Finder{Reader: viewOf{w: w}, Now: time.Now}
	hook := admission.Handler{Lookup: finder, Self: controllerName}
	w.api.admit = func(pod *corev1.Pod, who string) {
		if w.since() > w.plan.hooked || w.since() < w.plan.interruptions[0].at {
			hook.Mutate(w.ctx, pod, namespace, who)
		}
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		w.newNode(name)
	}
	w.leader = w.startController("controller", 20*time.Millisecond, 0)
	if w.plan.stale > 0 {
		w.spawn(func() {
			if pause(w.ctx, w.plan.interruptions[0].at) == nil {
				_ = w.locked(func() error {
					w.startController("controller of before", w.plan.lag, w.plan.stale)
					return nil
				})
			}
		})
	}
	for _, o := range w.plan.outages {
		if m := w.machine(strings.TrimPrefix(o.who, "kubelet ")); m != nil && !o.slow && o.to-o.from > 12*time.Second {
			w.spawn(func() { w.silence(m, o) })
		}
	}
	w.makeOwner()
	owning, scheduling := w.api.watch(), w.api.watch()
	w.spawn(func() { w.every(owning, "owner", 0.05, 1.5, w.own) })
	w.spawn(func() { w.every(scheduling, "scheduler", 0.01, 0.3, w.schedule) })
}

// interrupt has a node go as planned.
func (w *world) interrupt(i interruption) {
	if pause(w.ctx, i.at) != nil {
		return
	}
	begun := time.Now()
	var m *machine
	_ = w.locked(func() error {
		m = w.machine(i.node)
		if i.window > 0 {
			m.noticed(begun.Add(i.window))
			w.arm("notice", "agent "+i.node)
			w.arm("notice", "controller")
		}
		return nil
	})
	if i.drains > 0 {
		w.spawn(func() {
			if pause(w.ctx, i.drains) == nil {
				_ = w.locked(func() error {
					w.drain(m)
					return nil
				})
			}
		})
	}
	if i.withdrawn > 0 {
		if pause(w.ctx, i.withdrawn) == nil {
			_ = w.locked(func() error {
				m.notice = nil
				w.note(m.name, "the notice is withdrawn")
				if !m.agent.gone.Load() {
					m.agent.hear()
				}
				return nil
			})
		}
		return
	}
	if pause(w.ctx, time.Until(begun.Add(i.dies))) != nil {
		return
	}
	_ = w.locked(func() error {
		m.die("its time is over")
		return nil
	})
	w.tidy(m)
}

// arm has processes die that are to after a moment. It is called under the world's lock.
func (w *world) arm(moment, who string) {
	for _, c := range w.plan.crashes {
		if c.who != who || c.after != moment || w.since() > w.plan.calm {
			continue
		}
		var l *life
		if m := w.machine(who[len(who)-1:]); m != nil && who != "controller" {
			l = m.agent.life
		} else {
			l = w.leader.life
		}
		if l.fatal == 0 {
			l.requests, l.fatal = 0, c.at
		}
	}
}

// asked notes that lifeboat-runtime has called the agent.
func (w *world) asked(a *agent) {
	_ = w.locked(func() error {
		if a.m.lives == 1 {
			w.arm("asked", a.name)
		}
		return nil
	})
}

// viewOf reads the API without a request, under the world's lock.
type viewOf struct {
	client.Reader
	w *world
}

// List implements client.Reader.
func (v viewOf) List(_ context.Context, into client.ObjectList, opts ...client.ListOption) error {
	return v.w.api.fill(into, time.Now().Add(-20*time.Millisecond), opts...)
}

// standing says how things stand.
func (w *world) standing() string {
	out := ""
	for _, m := range w.nodes {
		for _, c := range m.containers {
			if c.state != ended {
				out += fmt.Sprintf("\n  %s %s, lineage %v", c, c.state, c.lineage)
			}
		}
	}
	for _, p := range w.api.pods() {
		out += fmt.Sprintf("\n  pod %s (%s) on %q is %s, deletion %v", p.Name, p.UID, p.Spec.NodeName, p.Status.Phase, p.DeletionTimestamp)
	}
	for _, c := range w.api.checkpoints() {
		out += fmt.Sprintf("\n  checkpoint %s: %s", c.Name, tell(&c.Status))
	}
	return out
}

// tell says what a Checkpoint says.
func tell(s *v1alpha1.CheckpointStatus) string {
	out := fmt.Sprintf("epoch %d", s.Epoch)
	if s.Pod != nil {
		out += fmt.Sprintf(", pod %s on %s", s.Pod.UID, s.Pod.NodeName)
	}
	if g := s.Generation; g != nil {
		out += fmt.Sprintf(", generation %d of %s", g.Number, g.PodUID)
	}
	if g := s.Safety; g != nil {
		out += fmt.Sprintf(", safety %d of %s", g.Number, g.PodUID)
	}
	if c := s.Claim; c != nil {
		out += fmt.Sprintf(", claim of %s for %d, attempt %d", c.PodUID, c.Generation, c.Attempts)
	}
	for _, c := range s.Conditions {
		out += fmt.Sprintf(", %s=%s/%s", c.Type, c.Status, c.Reason)
	}
	return out
}

// runSeed plays one seed.
func runSeed(ctx context.Context, seed uint64, root string, verbose bool) (*world, error) {
	dir, err := os.MkdirTemp(root, "seed-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	w := newWorld(seed, dir)
	w.verbose = verbose
	w.play(ctx)
	return w, nil
}
