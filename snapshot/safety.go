package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// stillLeast and stillFactor bound how long a safety dump may hold its target still: the factor of what was planned,
	// or of the least. One that takes longer is given up.
	stillLeast, stillFactor = 5 * time.Second, 4
	// thawWithin bounds a thaw; who cannot be thawed is tried again by the next round of the Evacuator.
	thawWithin = 30 * time.Second
	// commitGrace is how long an evacuation waits for the commit of a safety dump that is under way.
	commitGrace = 3 * time.Second
	// recordWithin bounds the record of what is only told.
	recordWithin = 5 * time.Second
)

// Board is where people look: the Checkpoint of a target. Nothing that is written there lets anybody restore.
type Board interface {
	// Safety tells of a safety generation: durable, not final, its source runs on.
	Safety(ctx context.Context, t Target, g Committed, frozen time.Time) error
	// Judged tells how well t is protected.
	Judged(ctx context.Context, t Target, v Verdict, p Prediction) error
}

// errStill ends a safety dump that takes too long.
var errStill = errors.New("the safety dump took too long, the target runs on")

// safetyDump takes a dump of the running t that leaves it running: frozen while memory and files are read, thawed, then
// committed. The Writer goes on with what it leaves.
func (e *Evacuator) safetyDump(ctx context.Context, s *session, w *openWriter, step Step) error {
	t := s.current()
	defer e.dropDump(t)
	s.mu.Lock()
	s.measured.since(w)
	s.mu.Unlock()
	w.Discard()
	still, err := e.holdStill(ctx, t, w, step.Takes)
	if err != nil {
		return err
	}
	if err := addImages(ctx, t, still.dumps, w.Writer); err != nil {
		return err
	}
	if err := w.Describe(e.meta(t, still.dumps)); err != nil {
		return inBucket(err)
	}
	e.tidy(ctx, s, w)
	s.mu.Lock()
	changed := s.measured.since(w)
	s.mu.Unlock()

	commit, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(commitGrace, cancel) })()
	began, before := time.Now(), w.Progress()
	committed, err := e.commit(commit, s, t, still.rssBytes())
	if err != nil {
		return err
	}
	uploading := w.Progress().UploadTime - before.UploadTime
	e.sent(changed)
	e.options.Meter.Stepped(t, dumpDone(still, changed, w.Progress().UploadedBytes-before.UploadedBytes))
	s.dumped(still, changed, step.Codec, max(0, time.Since(began)-uploading))
	e.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", committed.Number).
		Dur("still_seconds", still.thawed.Sub(still.frozen)).Int64("rss_bytes", still.rssBytes()).
		Int64("changed_bytes", changed.NewBlocks*store.BlockSize).Bool("lazy", still.inWriter()).AnErr("not_lazy", still.notLazy()).
		Msg("safety dump")
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWithin)
	defer cancel()
	if err := e.options.Board.Safety(record, t, committed, still.frozen); err != nil {
		e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("safety dump not told")
	}
	return nil
}

// stillness is what was read of a target while it stood still.
type stillness struct {
	dumps
	frozen, thawed time.Time
	// fileBytes is the size of its file trees, fileBlocks what of them was new.
	fileBytes, fileBlocks int64
}

// holdStill freezes t, has memory and files read into w, and thaws it, whatever came of it.
func (e *Evacuator) holdStill(ctx context.Context, t Target, w *openWriter, takes time.Duration) (_ stillness, err error) {
	atMost := max(stillFactor*takes, stillLeast)
	if t.Settings.MaxFreeze > 0 {
		atMost = min(atMost, t.Settings.MaxFreeze)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, atMost, errStill)
	defer cancel()
	if !e.takeInHand(t) {
		return stillness{}, fmt.Errorf("pod %s/%s is on hold", t.Namespace, t.Pod)
	}
	defer e.letGo(t)
	var out stillness
	if err := each(t, func(c Container) error { return e.runs(ctx, c) }); err != nil {
		return out, err
	}
	defer func() {
		thaw, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawWithin)
		defer cancel()
		err = errors.Join(err, e.endSafety(thaw, t))
	}()
	for _, c := range t.Containers {
		if err := e.safeties().Set(c.ID); err != nil {
			return out, err
		}
	}
	if err := e.hold(t); err != nil {
		return out, err
	}
	if err := e.freeze(ctx, t); err != nil {
		return out, err
	}
	out.frozen = time.Now()
	if out.dumps, err = e.dumpAll(ctx, t, w); err != nil {
		return out, err
	}
	before := w.Progress().NewBlocks
	files, err := e.options.Files.Add(ctx, t, &fileWriter{openWriter: w})
	if err != nil {
		return out, fmt.Errorf("read files of pod %s/%s: %w", t.Namespace, t.Pod, err)
	}
	out.fileBytes = files.Bytes
	out.fileBlocks = w.Progress().NewBlocks - before
	out.thawed = time.Now()
	return out, nil
}

// runs holds that a container runs. Who has paused it has his reasons: it is not for us to thaw.
func (e *Evacuator) runs(ctx context.Context, c Container) error {
	status, err := e.options.Runtime.Status(ctx, c.ID)
	if err != nil || status != StatusRunning {
		return errors.Join(err, fmt.Errorf("container %s is %s and not running", c.ID, status))
	}
	return nil
}

// dumped notes what a safety dump has shown.
func (s *session) dumped(still stillness, p store.Progress, codec store.Codec, commit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.measured
	m.changed(still.frozen, (p.NewBlocks-still.fileBlocks)*store.BlockSize, still.fileBlocks*store.BlockSize)
	m.encoded(codec, p)
	m.based = still.frozen
	f := &m.facts
	f.LastDump, f.LastCommit, f.CommitTime = still.frozen, time.Now(), commit
	f.RSSBytes, f.FileBytes = max(f.RSSBytes, still.rssBytes()), still.fileBytes
	f.Freezes = keep(f.Freezes, FreezePoint{
		RSSBytes: still.rssBytes(), ChangedBytes: p.NewBlocks * store.BlockSize, Took: still.thawed.Sub(still.frozen),
	})
}

// safeties are the holds of safety dumps: containers that may be thawed without asking anybody, because no final
// generation of theirs was ever recorded. Those of all of a pod are there before the first hold, and go after the last.
func (e *Evacuator) safeties() Holds { return Holds{Dir: e.options.Holds.Dir + "-safety"} }

// holdForGood has signals held back for an evacuation. Whatever the bucket has of the pod by now is not of that.
func (e *Evacuator) holdForGood(t Target) error {
	if err := e.clearSafeties(t); err != nil {
		return err
	}
	if _, err := e.stamps().next(t.PodUID); err != nil {
		return err
	}
	return e.hold(t)
}

func (e *Evacuator) clearSafeties(t Target) error {
	for _, c := range t.Containers {
		if _, err := e.safeties().Clear(c.ID); err != nil {
			return err
		}
	}
	return nil
}

// endSafety thaws t after a safety dump, and delivers what came meanwhile.
func (e *Evacuator) endSafety(ctx context.Context, t Target) error {
	if err := e.thaw(ctx, t); err != nil {
		return err
	}
	return e.clearSafeties(t)
}

// takeInHand tells the Evacuator to leave t's holds alone, unless there is one already.
func (e *Evacuator) takeInHand(t Target) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if held, err := e.anyHeld(t); held || err != nil {
		return false
	}
	for _, c := range t.Containers {
		e.inHand[c.ID] = true
	}
	return true
}

func (e *Evacuator) letGo(t Target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range t.Containers {
		delete(e.inHand, c.ID)
	}
}

// isInHand tells whether a safety dump of this life holds any of t still; holdsStill whether it does that container.
func (e *Evacuator) isInHand(t Target) bool {
	return slices.ContainsFunc(t.Containers, func(c Container) bool { return e.holdsStill(c.ID) })
}

func (e *Evacuator) holdsStill(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.inHand[id]
}

// anyHeld tells whether any of t is on hold.
func (e *Evacuator) anyHeld(t Target) (bool, error) {
	for _, c := range t.Containers {
		if held, err := e.options.Holds.Held(c.ID); held || err != nil {
			return held, err
		}
	}
	return false, nil
}

// holding is whose hold on a target there is.
type holding int

const (
	// holdingNone: none that is to be settled.
	holdingNone holding = iota
	// holdingSafety: that of a safety dump of an earlier life.
	holdingSafety
	// holdingPart: that of an evacuation, on a part of the pod. Another part has not been frozen yet, has been thawed, or has
	// ended: no generation may count as final.
	holdingPart
	// holdingAll: that of an evacuation, on all of it.
	holdingAll
)

// holdOf says whose hold on t there is now.
func (e *Evacuator) holdOf(t Target) (holding, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	held, safe := 0, 0
	for _, c := range t.Containers {
		on, err := e.options.Holds.Held(c.ID)
		if err != nil {
			return holdingNone, err
		}
		marked, err := e.safeties().Held(c.ID)
		switch {
		case err != nil:
			return holdingNone, err
		case e.inHand[c.ID]:
			return holdingNone, nil
		case on && marked:
			safe++
		}
		if on {
			held++
		}
	}
	switch {
	case held == 0:
		return holdingNone, nil
	case safe == held:
		return holdingSafety, nil
	case held == len(t.Containers) && safe == 0 && len(t.Missing) == 0:
		return holdingAll, nil
	}
	return holdingPart, nil
}
