package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// openAtMost bounds the wait for a Writer before a freeze, openShare is the part of the time left that it may take.
	openAtMost, openShare = 10 * time.Second, 8
	// abortTimeout bounds how long the packs of a Writer that is given up are deleted; the rest is the reaper's.
	abortTimeout = 5 * time.Second
)

// errNotice ends a step because its target is evacuated, errEnding because the agent ends.
var (
	errNotice = errors.New("the target is being evacuated")
	errEnding = errors.New("the agent ends")
)

// session is what the agent keeps of one target: the Writer of its next generation, and what was measured.
type session struct {
	key sessionKey
	// turn holds a token of whoever works on the target or its Writer: a round, a safety dump, an evacuation.
	turn chan struct{}
	// before is closed when the session before of the same pod has ended, nil where there was none; ended is this one's.
	before, ended chan struct{}

	mu        sync.Mutex
	target    Target
	interrupt context.CancelCauseFunc // of the step under way
	measured  measured
	told      told

	// The rest belongs to the holder of the turn.
	writer *openWriter
	base   *store.Base // of the newest generation, where it was written here
	closed bool
	// atNotice is how much of the Writer's generation was in the bucket when the notice came.
	atNotice int64
	laps     laps // of the evacuation
	// tidied and reaped are when that was last done.
	tidied, reaped time.Time
}

// sessionKey says what one Writer is for. A pod of which a container was started anew, or restored in place, has another.
type sessionKey struct {
	// containers are their ids, with commas between them.
	containers, pod, checkpoint string
	epoch                       int64
}

// openWriter is a Writer whose uploads go on until end.
type openWriter struct {
	*store.Writer
	end context.CancelFunc
}

func keyOf(t Target) sessionKey {
	ids := make([]string, len(t.Containers))
	for i, c := range t.Containers {
		ids[i] = c.ID
	}
	return sessionKey{containers: strings.Join(ids, ","), pod: t.PodUID, checkpoint: t.CheckpointUID, epoch: t.Epoch}
}

// session is that of t. One of the same pod with other containers, or of another epoch, makes way, and the next one waits for
// that: they may have containers in common.
func (e *Evacuator) session(t Target) *session {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.sessions[t.PodUID]
	if old != nil && old.key == keyOf(t) {
		old.mu.Lock()
		old.target = t
		old.mu.Unlock()
		return old
	}
	s := &session{key: keyOf(t), turn: make(chan struct{}, 1), target: t, measured: newMeasured(t), tidied: time.Now()}
	if old != nil {
		e.close(old, errEnding)
	}
	s.before, s.ended = e.closing[t.PodUID], make(chan struct{})
	e.sessions[t.PodUID] = s
	return s
}

// prune closes the sessions of all but targets.
func (e *Evacuator) prune(targets []Target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for pod, s := range e.sessions {
		if !slices.ContainsFunc(targets, func(t Target) bool { return t.PodUID == pod && !t.Final && !t.Superseded && len(t.Missing) == 0 }) {
			delete(e.sessions, pod)
			e.close(s, errEnding)
		}
	}
}

// close ends what is under way in s, and its Writer, in the background. Nobody begins anything in it any more. e.mu is held.
func (e *Evacuator) close(s *session, cause error) {
	e.closing[s.key.pod] = s.ended
	e.ending.Go(func() {
		s.stop(cause)
		if s.before != nil {
			<-s.before
		}
		s.turn <- struct{}{}
		defer e.closed(s)
		defer s.leave()
		s.closed = true
		e.drop(s)
		e.forgetScans(s)
		if e.isTarget(s.key.pod) {
			return // with other containers
		}
		e.options.Meter.Gone(s.current())
	})
}

func (e *Evacuator) isTarget(pod string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sessions[pod] != nil
}

func (e *Evacuator) closed(s *session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(s.ended)
	if e.closing[s.key.pod] == s.ended {
		delete(e.closing, s.key.pod)
	}
}

// stop ends the step under way.
func (s *session) stop(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupt != nil {
		s.interrupt(cause)
	}
}

// take waits for the turn.
func (s *session) take(ctx context.Context) error {
	if s.before != nil {
		select {
		case <-s.before:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) leave() { <-s.turn }

// takeOver ends the step under way and waits for the turn.
func (s *session) takeOver(ctx context.Context) error {
	s.stop(errNotice)
	if err := s.take(ctx); err != nil {
		return fmt.Errorf("take target over: %w", err)
	}
	s.atNotice = 0
	if s.writer != nil {
		s.atNotice = s.writer.Progress().UploadedBytes
	}
	return nil
}

func (s *session) current() Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.target
}

// open makes sure that there is a Writer, whose uploads outlive ctx.
func (e *Evacuator) open(ctx context.Context, s *session) (*openWriter, error) {
	if s.writer != nil {
		return s.writer, nil
	}
	uploads, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	w, base, err := e.beginGeneration(ctx, uploads, s.current(), s.base)
	if err == nil && !stop() {
		w.Abort(uploads)
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, err
	}
	if base == nil || base != s.base {
		e.forgetScans(s) // what was handed on since, or into another generation, is not in this one
	}
	s.writer = &openWriter{Writer: w, end: end}
	return s.writer, nil
}

// drop gives the Writer up. Its packs are deleted in the background.
func (e *Evacuator) drop(s *session) {
	w := s.writer
	if w == nil {
		return
	}
	s.writer, s.atNotice = nil, 0
	e.forgetScans(s)
	e.ending.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
		defer cancel()
		w.Abort(ctx)
		w.end()
	})
}

// forgetScans tells the Scanner that what it has handed on of the target is lost.
func (e *Evacuator) forgetScans(s *session) {
	if e.options.Scanner == nil {
		return
	}
	for _, c := range s.current().Containers {
		e.options.Scanner.Forget(c.ID)
	}
}

// commit ends the Writer by a commit. What it leaves is the base of the next one.
func (s *session) commit(ctx context.Context) (store.Generation, error) {
	w := s.writer
	generation, err := w.Commit(ctx)
	if err != nil {
		return generation, err
	}
	s.base, s.writer = w.Base(), nil
	w.end()
	return generation, nil
}

// opening is a Writer on its way, for somebody who has better to do meanwhile. It belongs to the holder of the turn, who
// waits for it before he leaves.
type opening struct {
	sync.WaitGroup
	done   chan struct{}
	writer *openWriter
	err    error
}

func (e *Evacuator) opening(ctx context.Context, s *session) *opening {
	o := &opening{done: make(chan struct{})}
	o.Go(func() {
		defer close(o.done)
		o.writer, o.err = e.open(ctx, s)
	})
	return o
}

// soon is the Writer if it is there soon enough for a dump to go into it, nil otherwise.
func (o *opening) soon(ctx context.Context) *openWriter {
	within := openAtMost
	if deadline, ok := ctx.Deadline(); ok {
		within = min(within, time.Until(deadline)/openShare)
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-o.done:
		return o.writer
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// use sets the codec of a Writer where there is one; an unknown codec leaves it as it is.
func (w *openWriter) use(codec store.Codec) {
	if w != nil {
		_ = w.SetCodec(codec)
	}
}

// sink is where a dump hands memory to; nil for a full dump where there is no Writer.
func (w *openWriter) sink(container string) Sink {
	if w == nil {
		return nil
	}
	return func(ctx context.Context, task string, address uint64, pages []byte) error {
		return inBucket(w.AddPages(ctx, taskName(container, task), address, pages))
	}
}

// taskName is the name that the memory of a container has in its generations.
func taskName(container, task string) string { return container + "/" + task }
