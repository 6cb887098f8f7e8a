package snapshot

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// listEvery is how often targets are listed without a notice.
	listEvery = 10 * time.Second
	// retryAfter and retryAtMost bound the pause after a step that failed.
	retryAfter, retryAtMost = 5 * time.Second, time.Minute
	// flushFrom is from how many bytes on a round does not leave them for a pack to be filled: they would be sent in the
	// window, where 1 MiB takes 20 ms of a slow link.
	flushFrom = 1 << 20
	// lastRoundCores is what the round before a freeze may take of the node, lastRoundShare which part of the time left.
	lastRoundCores, lastRoundShare = 4, 4
)

// errOnHold puts a step off: an evacuation has the target, or an earlier life of the agent left it so.
var errOnHold = errors.New("the target is on hold")

// protect has every target copied when Policy says so, until ctx ends. It ends no sooner than the steps that it began.
func (e *Evacuator) protect(ctx context.Context) {
	defer e.steps.Wait()
	defer e.stopAll(errEnding)
	var listed time.Time
	for ctx.Err() == nil {
		if time.Since(listed) >= listEvery {
			if err := e.list(ctx); err != nil && ctx.Err() == nil {
				e.options.Log.Warn().Err(err).Msg("targets cannot be listed, those known are copied on")
			}
			listed = time.Now()
		}
		next, err := e.turnOfSteps(ctx)
		if err != nil {
			e.options.Log.Error().Err(err).Msg("no plan, nothing is copied")
		}
		if again := listed.Add(listEvery); next.IsZero() || again.Before(next) {
			next = again
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-e.stepped:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (e *Evacuator) stopAll(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sessions {
		s.stop(cause)
	}
}

// list finds the targets that are to be copied, and measures them. Those that an earlier life of the agent left on hold are
// not its affair before they are settled.
func (e *Evacuator) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listEvery)
	defer cancel()
	targets, err := e.options.Journal.Targets(ctx)
	if err != nil {
		return err
	}
	asked, fault := e.retireSuperseded(ctx, targets)
	targets = append(targets, asked...)
	e.prune(targets)
	for _, t := range targets {
		if t.Final || t.Superseded || len(t.Missing) > 0 {
			continue
		}
		e.measure(e.session(t))
	}
	return fault
}

// measure takes the target's vitals.
func (e *Evacuator) measure(s *session) {
	t := s.current()
	vitals, err := e.vitals(t)
	if err != nil {
		return // it has ended, and the next list lacks it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measured.facts.Priority, s.measured.facts.Settings, s.measured.facts.Obstacles = t.Priority, t.Settings, t.Obstacles
	s.measured.lives(vitals)
	if t.Unjudged {
		s.told = told{underWay: s.told.underWay}
	}
}

// plan asks Policy.
func (e *Evacuator) plan(deadline time.Time) (Plan, []*session, error) {
	e.mu.Lock()
	sessions := make([]*session, 0, len(e.sessions))
	for _, s := range e.sessions {
		sessions = append(sessions, s)
	}
	rates := slices.Clone(e.rates)
	e.mu.Unlock()
	facts := make([]TargetFacts, len(sessions))
	for i, s := range sessions {
		s.mu.Lock()
		facts[i] = s.measured.copied()
		s.mu.Unlock()
	}
	node := NodeFacts{
		Now: time.Now(), Window: e.options.Window, Margin: e.options.Margin, Deadline: deadline, Cores: e.options.Cores, UploadRates: rates,
	}
	plan, err := e.options.Policy.Plan(node, facts)
	return plan, sessions, err
}

// turnOfSteps begins the steps that are due, and tells when the next one is.
func (e *Evacuator) turnOfSteps(ctx context.Context) (next time.Time, err error) {
	if e.leaving() {
		return time.Time{}, nil
	}
	plan, sessions, err := e.plan(time.Time{})
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	for i, s := range sessions {
		e.options.Meter.Judged(s.current(), plan.Targets[i].Verdict, plan.Targets[i].Prediction)
		e.tell(ctx, s, plan.Targets[i])
		step := plan.Targets[i].Step
		if step.Action == ActionNone {
			continue
		}
		at := step.At
		s.mu.Lock()
		if s.measured.notBefore.After(at) {
			at = s.measured.notBefore
		}
		s.mu.Unlock()
		switch {
		case !at.After(now):
			e.startStep(ctx, s, step)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	return next, nil
}

// leaving tells whether the node is under a notice.
func (e *Evacuator) leaving() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.notice != nil && e.notice.Action.Evacuates()
}

// startStep begins a step in the background. The target is Busy until it has ended.
func (e *Evacuator) startStep(ctx context.Context, s *session, step Step) {
	ctx, stop := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.measured.facts.Busy, s.interrupt = step.Action, stop
	s.mu.Unlock()
	e.steps.Go(func() {
		err := e.step(ctx, s, step)
		if err == nil && step.Action == ActionDump {
			e.reap(ctx, s)
		}
		interrupted := ctx.Err() != nil
		stop(nil)
		s.mu.Lock()
		s.measured.facts.Busy, s.interrupt = ActionNone, nil
		switch {
		case err == nil:
			s.measured.succeeded()
		case errors.Is(err, errOnHold):
			s.measured.notBefore = time.Now().Add(retryAfter)
		default:
			s.measured.failed(time.Now(), step.Action)
		}
		s.mu.Unlock()
		if t := s.current(); err != nil && !interrupted && !errors.Is(err, ErrGone) && !errors.Is(err, errOnHold) {
			e.options.Meter.Failed(t, step.Action, reasonOfStep(err, step.Action))
			e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Str("step", string(step.Action)).
				Msg("target not copied, trying again")
		}
		select {
		case e.stepped <- struct{}{}:
		default:
		}
	})
}

// step does what was planned, unless an evacuation was quicker.
func (e *Evacuator) step(ctx context.Context, s *session, step Step) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.leave()
	t := s.current()
	held, err := e.anyHeld(t)
	switch {
	case err != nil || s.closed || e.leaving():
		return err
	case held:
		return errOnHold
	}
	w, err := e.open(ctx, s)
	if err != nil {
		return inBucket(err)
	}
	if err := w.SetCodec(step.Codec); err != nil {
		return err
	}
	if step.Action == ActionDump {
		err = e.safetyDump(ctx, s, w, step)
	} else {
		err = e.copyRound(ctx, s, w, step)
	}
	if errors.Is(err, errBucket) && ctx.Err() == nil {
		e.drop(s)
		s.forget()
	}
	return err
}

// forget notes that what rounds have stored since the newest generation is lost.
func (s *session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measured.facts.LastRound = s.measured.based
}

// copyRound copies what changed in the memory of the running target.
func (e *Evacuator) copyRound(ctx context.Context, s *session, w *openWriter, step Step) error {
	t, began := s.current(), time.Now()
	vitals, err := e.vitals(t)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.measured.since(w)
	s.mu.Unlock()
	scan, err := e.scan(ctx, t, w, step.CPU, step.BytesPerSecond)
	if err != nil {
		return err
	}
	pages := w.Progress().NewBlocks
	files, err := e.preload(ctx, t, w, step.Bounds)
	if err != nil {
		return err
	}
	if p := w.Progress(); p.StoredBytes-p.UploadedBytes >= flushFrom {
		if err := w.Flush(ctx); err != nil {
			return inBucket(err)
		}
	}
	p := s.copied(w, began, pages, vitals.CPU, scan, files, step.Codec)
	e.sent(p)
	e.options.Meter.Stepped(t, roundDone(scan.Bytes-scan.Unread+files.BytesRead, p, scan.CPU+files.CPU))
	if scan.Missed > 0 {
		e.options.Log.Error().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("pages", scan.Missed).
			Msg("pages had changed although the kernel did not say so, its tracking of writes is not used for this target any more")
	}
	e.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Dur("seconds", time.Since(began)).
		Int64("read_bytes", scan.Bytes-scan.Unread).Int64("unread_bytes", scan.Unread).Int64("read_file_bytes", files.BytesRead).
		Int64("changed_bytes", p.NewBlocks*store.BlockSize).Int64("uploaded_bytes", p.UploadedBytes).
		Dur("cpu_seconds", scan.CPU+files.CPU+p.EncodeTime).Dur("encode_seconds", p.EncodeTime).Dur("still_seconds", scan.Still).
		Str("codec", step.Codec.String()).Msg("round")
	return nil
}

// copied notes what a round has shown that began with a target which had used that much of the processor. pages is how
// many new blocks there were before files were read.
func (s *session) copied(w *openWriter, began time.Time, pages int64, cpu time.Duration, scan Scan, files FilePass, codec store.Codec) store.Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.measured
	seen := m.seen.NewBlocks
	p := m.since(w)
	m.changed(began, (pages-seen)*store.BlockSize, (seen+p.NewBlocks-pages)*store.BlockSize)
	m.encoded(codec, p)
	f := &m.facts
	m.cpu, f.RSSBytes, f.FileBytes, f.SoftDirty = cpu, scan.Bytes, files.Bytes, scan.Tracked
	if scan.Bytes > 0 {
		f.ScanCPU = (scan.CPU + files.CPU).Seconds() * gib / float64(scan.Bytes)
	}
	return p
}

// preload has files copied ahead. What cannot be read now is read when the target stands still.
func (e *Evacuator) preload(ctx context.Context, t Target, w *openWriter, b Bounds) (FilePass, error) {
	files, err := e.options.Files.Preload(ctx, t, b.CPU, &fileWriter{openWriter: w, began: time.Now(), first: w.Progress(), bounds: b})
	if err == nil || errors.Is(err, errBucket) || ctx.Err() != nil {
		return files, err
	}
	e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("files not copied ahead")
	return files, nil
}

// sent notes how fast an upload was.
func (e *Evacuator) sent(p store.Progress) {
	if p.UploadedBytes < leastSent || p.UploadTime <= 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rates = keep(e.rates, float64(p.UploadedBytes)/p.UploadTime.Seconds())
}

// lastRound is the one before the freeze. The dump has what it misses, so it may fail.
func (e *Evacuator) lastRound(ctx context.Context, s *session, w *openWriter) {
	if w == nil {
		return
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/lastRoundShare)
		defer cancel()
	}
	t := s.current()
	if _, err := e.scan(ctx, t, w, lastRoundCores, 0); err != nil {
		e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("round before the freeze failed")
	}
}

// bound is where a round hands memory to. It waits where more goes into the network than rate bytes/s; 0 is no bound.
type bound struct {
	writer *openWriter
	rate   float64
	began  time.Time
	first  store.Progress

	mu      sync.Mutex
	charged time.Duration
}

func (w *openWriter) bound(rate float64) *bound {
	first := w.Progress()
	return &bound{writer: w, rate: rate, began: time.Now(), first: first, charged: first.EncodeTime}
}

// sink is that of one container.
func (b *bound) sink(container string) ScanSink {
	return func(ctx context.Context, task string, address uint64, pages []byte) (time.Duration, error) {
		if err := b.writer.AddPages(ctx, taskName(container, task), address, pages); err != nil {
			return 0, inBucket(err)
		}
		now := b.writer.Progress()
		if b.rate > 0 {
			due := time.Duration(float64(now.StoredBytes-b.first.StoredBytes) / b.rate * float64(time.Second))
			if err := wait(ctx, due-time.Since(b.began)); err != nil {
				return 0, err
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		cost := max(0, now.EncodeTime-b.charged)
		b.charged += cost
		return cost, nil
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
