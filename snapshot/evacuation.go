package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// recordEvery is the wait between tries to record a durable generation, which are never given up.
	recordEvery = time.Second
	// endWithin bounds the wait for the release of a frozen source, endEvery is how often it is looked at.
	endWithin, endEvery = time.Minute, 100 * time.Millisecond
	// beginTimeout bounds the record before the freeze: the window is worth more than a note.
	beginTimeout = 2 * time.Second
)

// evacuate takes the final dump of t, after one more round where that was planned. It returns nil when t is final, or when
// it runs on as before and that is recorded.
func (e *Evacuator) evacuate(parent context.Context, t Target, m Moments, how manner) error {
	ctx, cancel := context.WithDeadline(parent, e.latest(m.Deadline))
	defer cancel()
	s := e.session(t)
	if err := s.takeOver(ctx); err != nil {
		return e.giveUp(parent, t, reasonOf(err), err)
	}
	defer s.leave()
	s.laps = newLaps(m.Notice)
	s.laps.end("wait")
	log := e.options.Log.With().Str("namespace", t.Namespace).Str("pod", t.Pod).Str("container", t.ID).Logger()

	next := e.opening(ctx, s)
	defer next.Wait()
	defer cancel()
	if how.preDump {
		e.lastRound(ctx, s, next.soon(ctx))
		s.laps.end("round")
	}
	if err := e.hold(t.ID); err != nil {
		return e.giveUp(parent, t, reasonOf(err), err)
	}
	e.begin(ctx, t, m)
	s.laps.end("record")
	var w *openWriter // none: a full dump
	if e.options.Scanner != nil {
		w = next.soon(ctx)
		w.use(how.codec)
	}
	if err := e.options.Runtime.Pause(ctx, t.ID); err != nil {
		return e.giveUp(parent, t, reasonOf(err), err)
	}
	m.Frozen = time.Now()
	s.laps.end("pause")
	dump, err := e.dump(ctx, t, w)
	if err != nil {
		reason := reasonOf(err)
		cancel()
		next.Wait()
		e.drop(s)
		return e.giveUp(parent, t, reason, err)
	}
	m.Dumped = time.Now()
	s.laps.end("dump")
	log.Info().Dur("seconds", m.Dumped.Sub(m.Frozen)).Dur("read_seconds", dump.ReadTime).Int64("rss_bytes", dump.RSSBytes).Bool("lazy", dump.OnDisk != nil).
		AnErr("not_lazy", dump.NotLazy).Msg("dumped")

	next.Wait()
	committed, err := e.upload(ctx, s, t, dump, next.err)
	if err != nil {
		e.drop(s)
		return e.giveUpUnlessCommitted(parent, t, m, err)
	}
	m.Durable = time.Now()
	committed.WindowBytes = committed.StoredBytes - s.atNotice
	return e.finish(parent, t, committed, m, s.laps)
}

// latest is the moment at which an evacuation gives up.
func (e *Evacuator) latest(deadline time.Time) time.Time {
	latest := deadline.Add(-e.options.Margin)
	if time.Until(latest) < 0 {
		return time.Now().Add(grace)
	}
	return latest
}

// begin records the evacuation before the freeze. The API server's silence is no reason to lose the job: what is missing
// here is recorded with the end.
func (e *Evacuator) begin(ctx context.Context, t Target, m Moments) {
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	if err := e.options.Journal.Begun(ctx, t, m); err != nil {
		e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("evacuation begins unrecorded")
	}
}

// intoWriter is a Dump, its stamp, and the Writer that has the pages which are not in its files.
type intoWriter struct {
	Dump
	stamp  time.Time
	writer *openWriter
}

// dump dumps the frozen t, twice if need be, into w where there is one.
func (e *Evacuator) dump(ctx context.Context, t Target, w *openWriter) (intoWriter, error) {
	dump, err := e.dumpOnce(ctx, t, w)
	if err == nil || ctx.Err() != nil {
		return dump, err
	}
	// A dump that was cut off may have let the tasks go.
	if fault := e.options.Runtime.Pause(ctx, t.ID); fault != nil {
		return intoWriter{}, errors.Join(err, fault)
	}
	if errors.Is(err, errBucket) {
		w = nil // a full dump is good for whichever Writer is to be had
	}
	dump, again := e.dumpOnce(ctx, t, w)
	if again != nil {
		return intoWriter{}, errors.Join(err, again)
	}
	return dump, nil
}

// dumpOnce takes one dump, under a stamp of its own: t may have run since the one before.
func (e *Evacuator) dumpOnce(ctx context.Context, t Target, w *openWriter) (intoWriter, error) {
	stamp, err := e.stamps().next(t.ID)
	if err != nil {
		return intoWriter{}, err
	}
	dump, err := e.options.Runtime.Dump(ctx, t.ID, e.workDir(t), w.sink(t.Name))
	return intoWriter{dump, stamp, w}, err
}

func (e *Evacuator) workDir(t Target) string { return filepath.Join(e.options.WorkDir, t.ID) }

// finish records the durable generation until that is known to have succeeded: from here on t may run elsewhere.
func (e *Evacuator) finish(ctx context.Context, t Target, g Committed, m Moments, took laps) error {
	for {
		err := e.options.Journal.Final(ctx, t, g, m)
		if err == nil {
			break
		}
		if errors.Is(err, ErrUnprotected) || errors.Is(err, ErrSuperseded) {
			return fmt.Errorf("record generation %d of pod %s/%s, which stays frozen: %w", g.Number, t.Namespace, t.Pod, err)
		}
		e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).
			Msg("durable generation not yet recorded, target stays frozen, trying again")
		select {
		case <-ctx.Done():
			return err
		case <-time.After(recordEvery):
		}
	}
	e.dropDump(t)
	took.log(e.options.Log.Info()).Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", g.Number).Int64("epoch", g.Epoch).
		Int64("stored_bytes", g.StoredBytes).Int64("window_bytes", g.WindowBytes).Int64("rss_bytes", g.RSSBytes).
		Dur("freeze_to_dumped", m.Dumped.Sub(m.Frozen)).Dur("notice_to_durable", m.Durable.Sub(m.Notice)).Msg("evacuated")
	e.options.Meter.Evacuated(t, evacuated(g, m))
	e.ending.Go(func() { e.end(context.WithoutCancel(ctx), t) })
	return nil
}

// end kills the frozen source as soon as the kubelet is stopping it. A frozen process does not answer SIGTERM, so the
// kubelet would wait for the whole grace period before it does the same.
func (e *Evacuator) end(ctx context.Context, t Target) {
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	for {
		stopping, err := e.stopping(ctx, t)
		if stopping {
			err = e.options.Runtime.Signal(ctx, t.ID, syscall.SIGKILL)
			if err == nil || errors.Is(err, ErrGone) {
				return
			}
		}
		select {
		case <-ctx.Done():
			e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("source not ended; it stays frozen until the kubelet kills it")
			return
		case <-time.After(endEvery):
		}
	}
}

// stopping tells whether t may be killed: its pod is being deleted, and no kubelet will start it again. One that had not yet
// heard of the deletion would, unless its pod never restarts; that it has heard shows in the stop signal, which waits in
// the hold file or in the frozen process. (A process 1 that takes no notice of its stop signal shows none.)
func (e *Evacuator) stopping(ctx context.Context, t Target) (bool, error) {
	if !t.NeverRestarts {
		signalled, err := e.signalled(t)
		if err != nil || !signalled {
			return false, err
		}
	}
	return e.options.Journal.Leaving(ctx, t)
}

// signalled tells whether a signal has come for the frozen t, or t is gone.
func (e *Evacuator) signalled(t Target) (bool, error) {
	signalled, err := e.options.Holds.Any(t.ID)
	if err == nil && !signalled {
		signalled, err = pendingSignals(e.options.Proc, t.PID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return signalled, err
}
