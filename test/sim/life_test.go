package sim

import (
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

var (
	// errOver is what the requests of dead processes return when the history is over.
	errOver = errors.New("the history is over")
	// errAnswerLost is the error of a request that was carried out.
	errAnswerLost = errors.New("connection reset: the answer was lost")
	errRefused    = errors.New("connection refused")
)

// life is one run of a process, from its start to its death.
type life struct {
	w    *world
	name string
	ctx  context.Context
	end  context.CancelFunc
	dead chan struct{}
	gone atomic.Bool
	// requests counts what it has asked of its edges since it was armed; it dies at the one that fatal says, 0: at none.
	requests, fatal int
	drawn           map[string]uint64 // how often lots were drawn, by what for
	onDeath         func()
	begun           time.Time
}

func (w *world) newLife(name string) *life {
	l := &life{w: w, name: name, dead: make(chan struct{}), begun: time.Now(), drawn: map[string]uint64{}}
	l.ctx, l.end = context.WithCancel(w.ctx)
	return l
}

// lot is a source of chance for the next request of the process.
func (l *life) lot(what string) *rand.Rand {
	l.w.mu.Lock()
	l.drawn[what]++
	n := l.drawn[what]
	l.w.mu.Unlock()
	return l.w.lot(l.name+what, n)
}

// lot is a source of chance that hangs on the seed and what it is for alone.
func (w *world) lot(what string, n uint64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()+n*0x9e3779b97f4a7c15))
}

// kill ends the process where it stands.
func (l *life) kill(why string) {
	if l.gone.Swap(true) {
		return
	}
	l.w.note(l.name, "dies: %s", why)
	close(l.dead)
	if l.onDeath != nil {
		l.onDeath()
	}
}

// park keeps a goroutine of a dead process until the history is over.
func (l *life) park() error {
	<-l.w.over
	return errOver
}

func (l *life) dies() bool {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.requests++
	return l.fatal > 0 && l.requests == l.fatal
}

// edge makes a request: do is what it does at the other side, under the world's lock. kind is whose faults it meets, changes
// says whether it changes anything there.
func (l *life) edge(ctx context.Context, kind edgeKind, what string, changes bool, do func() error) error {
	if l.gone.Load() {
		return l.park()
	}
	lot, dies := l.lot(what), l.dies()
	f := l.w.faultsOf(kind, l.name)
	if dies && lot.IntN(2) == 0 {
		l.kill("before " + what)
		return l.park()
	}
	if err := l.wait(ctx, f.latency(lot)); err != nil {
		if changes && !f.down && lot.IntN(2) == 0 {
			l.late(what, lot, do) // it was on its way
		}
		return l.stopped(err)
	}
	if f.down {
		return f.refusal(what, lot)
	}
	if lot.Float64() < f.fails {
		l.w.note(l.name, "%s: refused", what)
		return f.refusal(what, lot)
	}
	err := l.w.locked(do)
	if dies {
		l.kill("after " + what)
		return l.park()
	}
	if fault := l.wait(ctx, f.latency(lot)); fault != nil {
		return l.stopped(fault)
	}
	if changes && err == nil && lot.Float64() < f.loses {
		l.w.note(l.name, "%s: done, its answer is lost", what)
		return f.loss(what)
	}
	return err
}

// late carries a request out whose sender does not wait for it any more.
func (l *life) late(what string, lot *rand.Rand, do func() error) {
	after := time.Duration(lot.Int64N(int64(10 * time.Second)))
	l.w.spawn(func() {
		if pause(l.w.ctx, after) == nil {
			l.w.note(l.name, "%s lands late: %v", what, l.w.locked(do))
		}
	})
}

// wait lets time pass, until the process dies or ctx ends.
func (l *life) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.dead:
	case <-ctx.Done():
	}
	if l.gone.Load() {
		return errOver
	}
	return ctx.Err()
}

// stopped is what a request ends with that was cut short.
func (l *life) stopped(err error) error {
	if l.gone.Load() {
		return l.park()
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
