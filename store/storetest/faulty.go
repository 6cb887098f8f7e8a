package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"testing"

	"github.com/lifeboat-dev/lifeboat/store"
)

// ErrInjected is what an injected fault returns.
var ErrInjected = errors.New("injected fault")

// Op names a method of store.Bucket.
type Op string

// The methods of store.Bucket. An empty Op in a Fault means any.
const (
	OpPut    Op = "put"
	OpGet    Op = "get"
	OpStat   Op = "stat"
	OpList   Op = "list"
	OpDelete Op = "delete"
)

// Effect is what happens to a call that a Fault hits.
type Effect int

const (
	// Fail means: the call is not made, and returns the Fault's Err.
	Fail Effect = iota
	// Lose means: the call is made, its reply is lost: it returns the Fault's Err.
	Lose
	// Hold means: the call waits until the Fault's Gate is opened, or its context ends.
	Hold
)

// Fault says which call is hit and how.
type Fault struct {
	// Op and Key choose calls: the method, and a part of the key. Empty chooses all.
	Op  Op
	Key string
	// At is which of the chosen calls is hit, from 1; 0 hits every one.
	At     int
	Effect Effect
	// Down makes every call after the hit one fail too, as for a process that has died.
	Down bool
	// Gate is needed for Hold.
	Gate *Gate
	// Err is what Fail and Lose return; nil: ErrInjected.
	Err error
}

// Gate holds calls up.
type Gate struct {
	reached, opened chan struct{}
	once, arrive    sync.Once
}

// NewGate makes a closed Gate.
func NewGate() *Gate {
	return &Gate{reached: make(chan struct{}), opened: make(chan struct{})}
}

// Reached is closed once a call waits.
func (g *Gate) Reached() <-chan struct{} { return g.reached }

// Open lets all calls go on, now and later.
func (g *Gate) Open() { g.once.Do(func() { close(g.opened) }) }

func (g *Gate) wait(ctx context.Context) error {
	g.arrive.Do(func() { close(g.reached) })
	select {
	case <-g.opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Call is one call that a Faulty has seen.
type Call struct {
	Op  Op
	Key string
}

// Faulty is a bucket that misbehaves on command.
type Faulty struct {
	store.Bucket

	mu     sync.Mutex
	faults []Fault
	seen   []int // for each fault the calls it chose
	calls  []Call
	down   bool
}

var _ store.Bucket = (*Faulty)(nil)

// NewFaulty decorates bucket. The test fails at its end if one of the faults was never reached: such a test shows nothing.
func NewFaulty(t testing.TB, bucket store.Bucket, faults ...Fault) *Faulty {
	f := &Faulty{Bucket: bucket, faults: faults, seen: make([]int, len(faults))}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, fault := range f.faults {
			if f.seen[i] < max(fault.At, 1) {
				t.Errorf("fault %d (%s %q, call %d) was never reached in %d calls", i, fault.Op, fault.Key, fault.At, len(f.calls))
			}
		}
	})
	return f
}

// Calls returns all calls so far, in the order in which they came.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Call(nil), f.calls...)
}

// hit notes a call and returns the fault that hits it, if any.
func (f *Faulty) hit(op Op, key string) (fault Fault, hit bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, Call{op, key})
	if f.down {
		return Fault{Effect: Fail}, true
	}
	for i, candidate := range f.faults {
		if candidate.Op != "" && candidate.Op != op || !strings.Contains(key, candidate.Key) {
			continue
		}
		f.seen[i]++
		if !hit && (candidate.At == 0 || candidate.At == f.seen[i]) {
			fault, hit = candidate, true
		}
	}
	f.down = f.down || hit && fault.Down
	return fault, hit
}

// do makes a call with what is to happen to it.
func (f *Faulty) do(ctx context.Context, op Op, key string, call func() error) error {
	fault, hit := f.hit(op, key)
	if !hit {
		return call()
	}
	injected := fmt.Errorf("%s %s: %w", op, key, cmp.Or(fault.Err, ErrInjected))
	switch fault.Effect {
	case Lose:
		_ = call() // whatever it says is lost
		return injected
	case Hold:
		if err := fault.Gate.wait(ctx); err != nil {
			return fmt.Errorf("%s %s: %w", op, key, err)
		}
		return call()
	default:
		return injected
	}
}

// Put implements store.Bucket.
func (f *Faulty) Put(ctx context.Context, key string, body []byte, cond store.Condition) (info store.Info, err error) {
	err = f.do(ctx, OpPut, key, func() (err error) {
		info, err = f.Bucket.Put(ctx, key, body, cond)
		return err
	})
	if err != nil {
		info = store.Info{}
	}
	return info, err
}

// Get implements store.Bucket.
func (f *Faulty) Get(ctx context.Context, key string, offset, length int64) (stream io.ReadCloser, err error) {
	err = f.do(ctx, OpGet, key, func() (err error) {
		stream, err = f.Bucket.Get(ctx, key, offset, length)
		return err
	})
	if err != nil && stream != nil {
		stream.Close()
		stream = nil
	}
	return stream, err
}

// Stat implements store.Bucket.
func (f *Faulty) Stat(ctx context.Context, key string) (info store.Info, err error) {
	err = f.do(ctx, OpStat, key, func() (err error) {
		info, err = f.Bucket.Stat(ctx, key)
		return err
	})
	if err != nil {
		info = store.Info{}
	}
	return info, err
}

// List implements store.Bucket. A lost reply is that of the first page.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		if err := f.do(ctx, OpList, prefix, func() error { return nil }); err != nil {
			yield(store.Info{}, err)
			return
		}
		f.Bucket.List(ctx, prefix)(yield)
	}
}

// Delete implements store.Bucket.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.do(ctx, OpDelete, key, func() error { return f.Bucket.Delete(ctx, key) })
}
