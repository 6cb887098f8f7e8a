package snapshot

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// Doubt tells that the API says that this node is gone, or is not heard of; false: no more. While there is doubt, targets are
// looked at every lookAgain, for another pod may be put in the place of one that runs here. It does not block.
func (e *Evacuator) Doubt(doubted bool) {
	e.mu.Lock()
	e.doubted, e.trusted = doubted, !doubted
	e.mu.Unlock()
	e.wakeUp()
}

func (e *Evacuator) inDoubt() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.doubted
}

// isTrusted tells whether the API has said that this node is well; it may not have been asked yet.
func (e *Evacuator) isTrusted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.trusted
}

// retireSuperseded stops what may not run here any more: targets whose Checkpoint says so, and among those that are copied and
// whose pods are gone from the API. It returns those of the latter that are to be asked for again: it could not find out, or the
// API doubts this node, and then the pod may still be given up with it, after it was removed.
func (e *Evacuator) retireSuperseded(ctx context.Context, targets []Target) (asked []Target, _ error) {
	var gone []Target
	var faults []error
	for _, t := range targets {
		if t.Superseded {
			gone = append(gone, t)
		}
	}
	if e.options.Succession != nil {
		for _, t := range e.missing(targets) {
			superseded, err := e.options.Succession.Superseded(ctx, t)
			switch {
			case err != nil || !superseded && e.inDoubt():
				faults = append(faults, err)
				asked = append(asked, t)
			case superseded:
				t.Superseded = true
				gone = append(gone, t)
			}
		}
	}
	for _, t := range gone {
		e.retire(ctx, t)
	}
	return asked, errors.Join(faults...)
}

// watchDoubted looks for what may not run here any more while the API doubts this node and a round is under way, which may wait
// for the API server to record a target.
func (e *Evacuator) watchDoubted(ctx context.Context) {
	for wait(ctx, lookAgain) == nil {
		if !e.inDoubt() || !e.inRound.Load() {
			continue
		}
		if err := e.lookForSuperseded(ctx); err != nil {
			e.options.Log.Warn().Err(err).Msg("not known which pods go on elsewhere, trying again")
		}
	}
}

func (e *Evacuator) lookForSuperseded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listEvery)
	defer cancel()
	targets, err := e.options.Journal.Targets(ctx)
	if err != nil {
		return err
	}
	_, err = e.retireSuperseded(ctx, targets)
	return err
}

// missing are the targets that are copied and are not among targets.
func (e *Evacuator) missing(targets []Target) []Target {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Target
	for pod, s := range e.sessions {
		if !slices.ContainsFunc(targets, func(t Target) bool { return t.PodUID == pod }) {
			out = append(out, s.current())
		}
	}
	return out
}

// retire freezes t for good, in the background: another pod goes on in its place. As an evacuated source, it is killed when the
// kubelet stops it; one that was killed before that, the kubelet would start again. Nothing that it has stored since is
// committed. Nobody else tries again, for t may be no target any more: it is done here until it has succeeded, or the agent
// ends.
func (e *Evacuator) retire(ctx context.Context, t Target) {
	if !e.beginToRetire(keyOf(t)) {
		return
	}
	s := e.session(t) // now, for whoever has its turn must have left it before
	ctx = context.WithoutCancel(ctx)
	log := e.options.Log.With().Str("namespace", t.Namespace).Str("pod", t.Pod).Logger()
	e.ending.Go(func() {
		for {
			err := e.freezeSuperseded(ctx, s)
			if err == nil {
				break
			}
			log.Error().Err(err).Msg("pod that goes on elsewhere not stopped, trying again")
			select {
			case <-e.over:
				return
			case <-time.After(lookAgain):
			}
		}
		log.Warn().Msg("frozen for good: the pod was given up with this node and goes on elsewhere")
		e.end(ctx, t)
	})
}

func (e *Evacuator) freezeSuperseded(ctx context.Context, s *session) error {
	if err := s.takeOver(ctx); err != nil {
		return err
	}
	defer s.leave()
	e.drop(s)
	return e.freezeForGood(ctx, s.current())
}

// freezeForGood has signals held back, so that none of t's code runs any more, and freezes what there is of it, also where
// the disk takes neither stamp nor hold.
func (e *Evacuator) freezeForGood(ctx context.Context, t Target) error {
	fault := e.clearSafeties(t) // with the mark of a safety dump beside it, the hold would let the next life thaw
	if fault == nil {
		fault = errors.Join(e.stamps().void(t.PodUID), e.hold(t))
	}
	return errors.Join(fault, each(t, func(c Container) error {
		if err := e.options.Runtime.Pause(ctx, c.ID); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		return nil
	}))
}

// beginToRetire says no where that was done by this life of the agent, or is under way.
func (e *Evacuator) beginToRetire(key sessionKey) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired[key] {
		return false
	}
	e.retired[key] = true
	return true
}

// isRetired tells whether any container of t was or is being frozen for good, as another pod goes on in its place.
func (e *Evacuator) isRetired(t Target) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key := range e.retired {
		if slices.ContainsFunc(strings.Split(key.containers, ","), t.Has) {
			return true
		}
	}
	return false
}
