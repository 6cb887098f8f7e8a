package snapshot

import (
	"context"
	"errors"
	"fmt"
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
	if err := addImages(ctx, still.Dump, t.Name, w.Writer); err != nil {
		return err
	}
	if err := w.Describe(e.meta(t, still.RSSBytes)); err != nil {
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
	committed, err := e.commit(commit, s, t, still.RSSBytes)
	if err != nil {
		return err
	}
	uploading := w.Progress().UploadTime - before.UploadTime
	e.sent(changed)
	e.options.Meter.Stepped(t, dumpDone(still, changed, w.Progress().UploadedBytes-before.UploadedBytes))
	s.dumped(still, changed, step.Codec, max(0, time.Since(began)-uploading))
	e.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", committed.Number).
		Dur("still_seconds", still.thawed.Sub(still.frozen)).Int64("rss_bytes", still.RSSBytes).
		Int64("changed_bytes", changed.NewBlocks*store.BlockSize).Bool("lazy", still.OnDisk != nil).AnErr("not_lazy", still.NotLazy).
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
	Dump
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
	if !e.takeInHand(t.ID) {
		return stillness{}, fmt.Errorf("container %s is on hold", t.ID)
	}
	defer e.letGo(t.ID)
	var out stillness
	if status, err := e.options.Runtime.Status(ctx, t.ID); err != nil || status != StatusRunning {
		// Who has paused it has his reasons: it is not for us to thaw.
		return out, errors.Join(err, fmt.Errorf("container %s is %s and not running", t.ID, status))
	}
	defer func() {
		thaw, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawWithin)
		defer cancel()
		err = errors.Join(err, e.endSafety(thaw, t))
	}()
	if err := e.safeties().Set(t.ID); err != nil {
		return out, err
	}
	if err := e.options.Holds.Set(t.ID); err != nil {
		return out, err
	}
	if err := e.options.Runtime.Pause(ctx, t.ID); err != nil {
		return out, err
	}
	out.frozen = time.Now()
	if out.Dump, err = e.options.Runtime.Dump(ctx, t.ID, e.workDir(t), w.sink(t.Name)); err != nil {
		return out, err
	}
	before := w.Progress().NewBlocks
	files, err := e.options.Files.Add(ctx, t, &fileWriter{openWriter: w})
	if err != nil {
		return out, fmt.Errorf("read files of container %s: %w", t.ID, err)
	}
	out.fileBytes = files.Bytes
	out.fileBlocks = w.Progress().NewBlocks - before
	out.thawed = time.Now()
	return out, nil
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
	f.RSSBytes, f.FileBytes = max(f.RSSBytes, still.RSSBytes), still.fileBytes
	f.Freezes = keep(f.Freezes, FreezePoint{
		RSSBytes: still.RSSBytes, ChangedBytes: p.NewBlocks * store.BlockSize, Took: still.thawed.Sub(still.frozen),
	})
}

// safeties are the holds of safety dumps: containers that may be thawed without asking anybody, because no final
// generation of theirs was ever recorded. The file is there before the hold, and goes after it.
func (e *Evacuator) safeties() Holds { return Holds{Dir: e.options.Holds.Dir + "-safety"} }

// hold has signals held back for an evacuation. Whatever the bucket has of the container by now is not of that.
func (e *Evacuator) hold(id string) error {
	if _, err := e.safeties().Clear(id); err != nil {
		return err
	}
	if _, err := e.stamps().next(id); err != nil {
		return err
	}
	return e.options.Holds.Set(id)
}

// endSafety thaws t after a safety dump, and delivers what came meanwhile.
func (e *Evacuator) endSafety(ctx context.Context, t Target) error {
	if err := e.thaw(ctx, t); err != nil {
		return err
	}
	_, err := e.safeties().Clear(t.ID)
	return err
}

// takeInHand tells the Evacuator to leave a container's hold alone, unless there is one already.
func (e *Evacuator) takeInHand(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if held, err := e.options.Holds.Held(id); held || err != nil {
		return false
	}
	e.inHand[id] = true
	return true
}

func (e *Evacuator) letGo(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.inHand, id)
}

func (e *Evacuator) isInHand(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.inHand[id]
}

// holdOf says whose hold on a container there is now: that of a safety dump of an earlier life, that of an evacuation, or
// none that is to be settled.
func (e *Evacuator) holdOf(id string) (safety, evacuation bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inHand[id] {
		return false, false, nil
	}
	held, err := e.options.Holds.Held(id)
	if err != nil || !held {
		return false, false, err
	}
	safety, err = e.safeties().Held(id)
	return safety, !safety, err
}
