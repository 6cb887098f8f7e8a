package snapshot

import (
	"context"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// tidyEvery is how often a target's bucket folder is reaped, and sparse packs of it are rewritten.
	tidyEvery = time.Hour
	// reapKeep generations stay, and what was superseded less than reapGrace ago: a restore falls back from the newest to the
	// one before. From the notice on nobody reaps, until the pod that claimed is itself a target.
	reapKeep, reapGrace = 2, time.Hour
	// tellEvery is the least time between two verdicts told of one target, tellFigures that between two which differ in
	// their figures alone.
	tellEvery, tellFigures = 10 * time.Second, time.Minute
	// figureFactor is by how much a figure differs that is told anew, leastFigure what counts as none.
	figureFactor             = 1.5
	leastDirty, leastSeconds = 1 << 20, 1.0
)

// tidy moves content out of packs that hold little of it, now and then. It reads packs and adds to what is uploaded, so it
// is nothing for a window: an evacuation ends it, and the Writer refers to the packs as before.
func (e *Evacuator) tidy(ctx context.Context, s *session, w *openWriter) {
	if time.Since(s.tidied) < tidyEvery {
		return
	}
	s.tidied = time.Now()
	t := s.current()
	report, err := w.Rewrite(ctx, store.RewriteOptions{})
	log := e.options.Log.Info()
	if err != nil {
		log = e.options.Log.Warn().Err(err)
	}
	log.Str("namespace", t.Namespace).Str("pod", t.Pod).Int("packs", report.Packs).Int64("read_bytes", report.ReadBytes).Msg("rewritten")
}

// reap deletes what no generation needs any more, now and then. Its requests end with ctx, at the next notice.
func (e *Evacuator) reap(ctx context.Context, s *session) {
	if time.Since(s.reaped) < tidyEvery {
		return
	}
	s.reaped = time.Now()
	t := s.current()
	report, err := e.options.Store.Reap(ctx, t.Folder(e.options.Cluster), store.ReapOptions{Keep: reapKeep, Grace: reapGrace})
	log := e.options.Log.Info()
	if err != nil {
		log = e.options.Log.Warn().Err(err)
	}
	log.Str("namespace", t.Namespace).Str("pod", t.Pod).Int("packs", report.Packs.Objects).Int64("bytes", report.Packs.Bytes).
		Int("manifests", report.Manifests.Objects).Msg("reaped")
}

// told is what was last told of a target.
type told struct {
	at         time.Time
	verdict    Verdict
	prediction Prediction
	underWay   bool
}

// material says whether a verdict is worth a write.
func (t told) material(now time.Time, v Verdict, p Prediction) bool {
	since := now.Sub(t.at)
	switch {
	case t.underWay:
		return false
	case t.at.IsZero():
		return true
	case v.Level != t.verdict.Level || v.Reason != t.verdict.Reason:
		return since >= tellEvery
	}
	return since >= tellFigures && (differ(float64(p.Uploaded), float64(t.prediction.Uploaded), leastDirty) ||
		differ(p.Durable.Seconds(), t.prediction.Durable.Seconds(), leastSeconds))
}

func differ(a, b, least float64) bool {
	a, b = max(a, least), max(b, least)
	return max(a, b) > figureFactor*min(a, b)
}

// tell writes the verdict where people look, in the background.
func (e *Evacuator) tell(ctx context.Context, s *session, plan TargetPlan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.told.material(time.Now(), plan.Verdict, plan.Prediction) {
		return
	}
	s.told.underWay = true
	t := s.target
	e.steps.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, recordWithin)
		defer cancel()
		err := e.options.Board.Judged(ctx, t, plan.Verdict, plan.Prediction)
		if err != nil && ctx.Err() == nil {
			e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("verdict not told")
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told.at, s.told.underWay = time.Now(), false
		if err == nil {
			s.told.verdict, s.told.prediction = plan.Verdict, plan.Prediction
		}
	})
}
