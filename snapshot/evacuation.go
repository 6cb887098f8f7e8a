package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
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
		return e.giveUp(parent, t, how, reasonOf(err), err)
	}
	defer s.leave()
	s.laps = newLaps(m.Notice)
	s.laps.end("wait")
	log := e.options.Log.With().Str("namespace", t.Namespace).Str("pod", t.Pod).Logger()

	next := e.opening(ctx, s)
	defer next.Wait()
	defer cancel()
	if how.preDump {
		e.lastRound(ctx, s, next.soon(ctx))
		s.laps.end("round")
	}
	if err := e.holdForGood(t); err != nil {
		return e.giveUp(parent, t, how, reasonOf(err), err)
	}
	e.begin(ctx, t, m)
	s.laps.end("record")
	var w *openWriter // none: a full dump
	if e.options.Scanner != nil {
		w = next.soon(ctx)
		w.use(how.codec)
	}
	if err := e.freeze(ctx, t); errors.Is(err, errPartly) && !how.inherited && time.Until(m.Deadline) > e.options.Margin {
		return e.putOff(parent, t, err)
	} else if err != nil {
		return e.giveUp(parent, t, how, reasonOf(err), err)
	}
	m.Frozen = time.Now()
	s.laps.end("pause")
	dump, err := e.dump(ctx, t, w)
	if err != nil {
		reason := reasonOf(err)
		cancel()
		next.Wait()
		e.drop(s)
		return e.giveUp(parent, t, how, reason, err)
	}
	m.Dumped = time.Now()
	s.laps.end("dump")
	log.Info().Dur("seconds", m.Dumped.Sub(m.Frozen)).Dur("read_seconds", dump.readTime()).Int64("rss_bytes", dump.rssBytes()).
		Strs("containers", t.Names()).Bool("lazy", dump.inWriter()).AnErr("not_lazy", dump.notLazy()).Msg("dumped")

	next.Wait()
	committed, err := e.upload(ctx, s, t, dump, next.err)
	if err != nil {
		e.drop(s)
		return e.giveUpUnlessCommitted(parent, t, m, how, err)
	}
	m.Durable = time.Now()
	committed.WindowBytes = committed.StoredBytes - s.atNotice
	return e.finish(parent, t, committed, m, how, s.laps)
}

// putOff lets t run on of which a container has ended before the freeze, as one does that is being started anew. A later round finds
// it whole, or lacking that container: neither counts as the one evacuation that is tried under a notice.
func (e *Evacuator) putOff(ctx context.Context, t Target, cause error) error {
	if err := errors.Join(e.stamps().void(t.PodUID), e.thaw(ctx, t)); err != nil {
		return errors.Join(cause, err)
	}
	e.options.Log.Warn().Err(cause).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("evacuation put off until the pod is whole, target thawed")
	return nil
}

// errNotWhole is the cause recorded for a target that lacked a container until it was too late.
var errNotWhole = errors.New("containers of the pod had ended or not started yet, and there was no time left to wait for them")

// giveUpMissing records that t was not evacuated because it was never whole. It runs.
func (e *Evacuator) giveUpMissing(ctx context.Context, t Target) error {
	cause := fmt.Errorf("%w: %s", errNotWhole, strings.Join(t.Missing, ", "))
	e.noteFailed(t, v1alpha1.ReasonDeadlinePassed)
	e.options.Log.Error().Err(cause).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("target not evacuated, it was not whole in time")
	return e.tellFailed(ctx, t, untold{v1alpha1.ReasonDeadlinePassed, cause.Error()})
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

// intoWriter are dumps of a target, their stamp, and the Writer that has the pages which are not in their files.
type intoWriter struct {
	dumps
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
	if fault := e.freeze(ctx, t); fault != nil {
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

// dumpOnce dumps all of t once, under a stamp of its own: t may have run since the one before.
func (e *Evacuator) dumpOnce(ctx context.Context, t Target, w *openWriter) (intoWriter, error) {
	stamp, err := e.stamps().next(t.PodUID)
	if err != nil {
		return intoWriter{}, err
	}
	all, err := e.dumpAll(ctx, t, w)
	return intoWriter{all, stamp, w}, err
}

// finish records the durable generation until that is known to have succeeded: from here on t may run elsewhere.
func (e *Evacuator) finish(ctx context.Context, t Target, g Committed, m Moments, how manner, took laps) error {
	how.done()
	defer e.beginFinish(t.PodUID)() // before standsStill: what that finds still stays so
	still := false
	for {
		var err error
		if !still { // once Final was called, whatever runs must not be thawed
			err = e.standsStill(ctx, t)
			still = err == nil
		}
		if still {
			err = e.options.Journal.Final(ctx, t, g, m)
		}
		switch {
		case err == nil:
			e.final(ctx, t, g, m, took)
			return nil
		case !still && errors.Is(err, ErrNotFrozen):
			return e.giveUp(ctx, t, how, reasonOf(err), err)
		case errors.Is(err, ErrUnprotected) || errors.Is(err, ErrSuperseded):
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
}

// Finishing tells whether the durable generation of a pod is being recorded. Nothing may be created in that pod until it is
// known how that has ended: a kubelet that has killed a frozen container, as its liveness probe failed, makes it anew, while
// another pod may go on from the generation. Whoever asks must do so before he reads the Checkpoint.
func (e *Evacuator) Finishing(podUID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.finishing[podUID]
}

// beginFinish has Finishing say so until the returned function is called.
func (e *Evacuator) beginFinish(podUID string) (end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finishing[podUID] = true
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.finishing, podUID)
	}
}

// final tells of a generation that was recorded, and has its source end.
func (e *Evacuator) final(ctx context.Context, t Target, g Committed, m Moments, took laps) {
	e.dropDump(t)
	took.log(e.options.Log.Info()).Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", g.Number).Int64("epoch", g.Epoch).
		Int64("stored_bytes", g.StoredBytes).Int64("window_bytes", g.WindowBytes).Int64("rss_bytes", g.RSSBytes).
		Dur("freeze_to_dumped", m.Dumped.Sub(m.Frozen)).Dur("notice_to_durable", m.Durable.Sub(m.Notice)).Msg("evacuated")
	e.options.Meter.Evacuated(t, evacuated(g, m))
	e.ending.Go(func() { e.end(context.WithoutCancel(ctx), t) })
}

// standsStill holds that nothing of t runs just before it becomes final: a container that somebody has killed in the freeze is
// made anew by its kubelet, unless the pod is leaving. ErrNotFrozen otherwise.
func (e *Evacuator) standsStill(ctx context.Context, t Target) error {
	return each(t, func(c Container) error {
		status, err := e.options.Runtime.Status(ctx, c.ID)
		if err != nil || status == StatusPaused {
			return err
		}
		if status == StatusStopped {
			leaving, err := e.options.Journal.Leaving(ctx, t)
			if err != nil || leaving {
				return err
			}
		}
		return fmt.Errorf("%w: %s is %s", ErrNotFrozen, c.Name, status)
	})
}

// end kills the frozen source's containers, each as soon as the kubelet is stopping it. A frozen process does not answer
// SIGTERM, so the kubelet would wait for the whole grace period before it does the same. It stops native sidecars only after
// all other containers have ended, so none waits for another here.
func (e *Evacuator) end(ctx context.Context, t Target) {
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	left := slices.Clone(t.Containers)
	for {
		var faults []error
		left = slices.DeleteFunc(left, func(c Container) bool {
			stopping, err := e.stopping(ctx, t, c)
			if stopping {
				err = e.kill(ctx, c.ID)
			}
			faults = append(faults, err)
			return stopping && err == nil
		})
		if len(left) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			e.options.Log.Warn().Err(errors.Join(faults...)).Str("namespace", t.Namespace).Str("pod", t.Pod).Int("containers", len(left)).
				Msg("source not ended; it stays frozen until the kubelet kills it")
			return
		case <-time.After(endEvery):
		}
	}
}

// stopping tells whether container c of t may be killed: the pod is being deleted, and no kubelet will start it again. One that
// had not yet heard of the deletion would, unless the container never restarts; that it has heard shows in the stop signal,
// which waits in the hold file or in the frozen process. (A process 1 that takes no notice of its stop signal shows none.)
func (e *Evacuator) stopping(ctx context.Context, t Target, c Container) (bool, error) {
	if !c.NeverRestarts {
		signalled, err := e.signalled(c)
		if err != nil || !signalled {
			return false, err
		}
	}
	return e.options.Journal.Leaving(ctx, t)
}

// signalled tells whether a signal has come for the frozen container, or it is gone.
func (e *Evacuator) signalled(c Container) (bool, error) {
	signalled, err := e.options.Holds.Any(c.ID)
	if err == nil && !signalled {
		signalled, err = pendingSignals(e.options.Proc, c.PID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return signalled, err
}
