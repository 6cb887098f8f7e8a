// Package watcher tells what a cloud says about the end of this node: interruption notices and their deadlines.
//
// A Source follows one place where notices appear (one leaf package each: aws …) and reports every change it sees.
// A Watcher runs several at once and passes on what is news. A source that cannot hear is never silent about it: it
// reports itself blind.
package watcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Action is what the provider will do to the node.
type Action string

// The actions. Only those that end the processes of the node lead to an evacuation.
const (
	ActionTerminate Action = "terminate"
	ActionStop      Action = "stop"
	ActionHibernate Action = "hibernate"
)

// Evacuates reports whether the action ends what runs on the node. Hibernation keeps the memory.
func (a Action) Evacuates() bool { return a == ActionTerminate || a == ActionStop }

// Notice is one interruption notice.
type Notice struct {
	// Source names where it was heard, for example "aws".
	Source string
	Action Action
	// Deadline is the earliest moment at which the node may vanish.
	Deadline time.Time
	// Heard is when this node first saw the notice.
	Heard time.Time
}

// Same reports whether n announces the same interruption as o, whenever each was heard.
func (n Notice) Same(o Notice) bool {
	return n.Source == o.Source && n.Action == o.Action && n.Deadline.Equal(o.Deadline)
}

// Source follows one place where notices appear.
type Source interface {
	// Name is short and constant, for example "aws".
	Name() string
	// Run reports to sink after every look until ctx ends. It returns an error only where looking again makes no sense
	// (a wrong setting); trouble of the metadata service goes to sink.Blind.
	Run(ctx context.Context, sink Sink) error
}

// Sink takes what a Source sees. Its methods may be called from several goroutines and do not block.
type Sink interface {
	// Heard takes a notice.
	Heard(Notice)
	// Quiet says that the source can hear and that there is no notice.
	Quiet(source string)
	// Blind says that the source cannot hear, and why.
	Blind(source string, reason error)
}

// Watcher runs sources and hands on what changes: each distinct notice once, and each turn to quiet or blind once.
type Watcher struct {
	sources []Source
	sink    Sink

	mu   sync.Mutex
	last map[string]state
}

// state is what was last handed on of a source.
type state struct {
	notice *Notice
	blind  bool
}

// New returns a Watcher that hands on to sink what sources report.
func New(sink Sink, sources ...Source) *Watcher {
	return &Watcher{sources: sources, sink: sink, last: map[string]state{}}
}

// Run runs all sources until ctx ends, or until one of them returns an error; the others are then ended too.
func (w *Watcher) Run(ctx context.Context) error {
	if len(w.sources) == 0 {
		return errors.New("watch for notices: no source given; set --notice-source")
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range w.sources {
		group.Go(func() error {
			if err := s.Run(ctx, w); err != nil && ctx.Err() == nil {
				return fmt.Errorf("watch %s: %w", s.Name(), err)
			}
			return nil
		})
	}
	return group.Wait()
}

// Heard implements Sink.
func (w *Watcher) Heard(n Notice) {
	w.change(n.Source, state{notice: &n}, func() { w.sink.Heard(n) })
}

// Quiet implements Sink.
func (w *Watcher) Quiet(source string) {
	w.change(source, state{}, func() { w.sink.Quiet(source) })
}

// Blind implements Sink. A source under notice that turns blind stays under notice for whoever listens.
func (w *Watcher) Blind(source string, reason error) {
	w.mu.Lock()
	notice := w.last[source].notice
	w.mu.Unlock()
	w.change(source, state{notice: notice, blind: true}, func() { w.sink.Blind(source, reason) })
}

// change calls tell where next differs from what was last handed on. The lock is held meanwhile, so that the sink
// hears of a source's turns in their order.
func (w *Watcher) change(source string, next state, tell func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old, known := w.last[source]
	if known && old.blind == next.blind && same(old.notice, next.notice) {
		return
	}
	w.last[source] = next
	tell()
}

func same(a, b *Notice) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Same(*b)
}
