package memory

import (
	"context"
	"math"
	"sync"
	"time"
)

// burst is how much unused time is saved up.
const burst = 20 * time.Millisecond

// Limit is a share of a processor core that reading may use. It may be set and used from many goroutines.
type Limit struct {
	mu      sync.Mutex
	share   float64
	credit  float64 // seconds of CPU time; below zero it is a debt to wait for
	counted time.Time
	changed chan struct{} // closed when the share is set
}

// NewLimit makes a Limit of that share of one core: 0.2 is a fifth, 2 two whole cores, 0 stands still, less counts as 0.
func NewLimit(share float64) *Limit {
	return &Limit{share: max(share, 0), counted: time.Now(), changed: make(chan struct{})}
}

// Set changes the share at once, also for those that wait.
func (l *Limit) Set(share float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count()
	l.share = max(share, 0)
	close(l.changed)
	l.changed = make(chan struct{})
}

// Share returns what was set last.
func (l *Limit) Share() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.share
}

// count adds what has come in since it was last called.
func (l *Limit) count() {
	now := time.Now()
	l.credit = min(l.credit+now.Sub(l.counted).Seconds()*l.share, burst.Seconds()*l.share)
	l.counted = now
}

// Spend accounts for CPU time that was used and waits until it is within the share, or ctx ends; then it returns ctx's cause.
func (l *Limit) Spend(ctx context.Context, used time.Duration) error {
	l.mu.Lock()
	l.count()
	l.credit -= used.Seconds()
	l.mu.Unlock()
	for {
		wait, changed := l.wait()
		if wait == 0 || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// wait is how long the debt takes to be paid off, and what tells that this has changed.
func (l *Limit) wait() (time.Duration, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count()
	switch {
	case l.share > 0 && l.credit >= 0:
		return 0, nil
	case l.share == 0:
		return math.MaxInt64, l.changed
	}
	return max(time.Duration(min(-l.credit/l.share, 3600)*float64(time.Second)), time.Microsecond), l.changed
}
