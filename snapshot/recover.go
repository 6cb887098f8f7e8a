package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

// errThawed is the cause recorded for a target that an earlier life of the agent left frozen.
var errThawed = errors.New("the agent ended during the evacuation and there was no time left to finish it; the pod runs on here")

// settle deals with a target that is on hold from an earlier life of the agent and not final on its Checkpoint. One on hold
// for a safety dump is thawed; a notice, if there is one, is acted upon by the next round. For all others what the bucket
// holds comes first, for a commit may have landed unrecorded; then the deadline decides. A pod of which a part alone is on
// hold has no generation that counts: the rest may have run since.
func (e *Evacuator) settle(ctx context.Context, t Target, notice *watcher.Notice, heard bool, how manner) error {
	hold, err := e.holdOf(t)
	leaving := notice != nil && notice.Action.Evacuates()
	switch {
	case err != nil:
		return err
	case hold == holdingSafety:
		e.options.Log.Warn().Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("thawed after a safety dump that was cut off")
		e.dropDump(t)
		return e.endSafety(ctx, t)
	case hold == holdingNone && leaving && len(t.Missing) == 0 && !e.hasFailed(t.PodUID):
		return e.evacuate(ctx, t, momentsOf(*notice), how) // a safety dump has just ended
	case hold == holdingNone:
		return nil
	case hold == holdingPart:
		if err := e.stamps().void(t.PodUID); err != nil {
			return err
		}
	}
	how.inherited = true
	m := Moments{Deadline: t.Deadline}
	if notice != nil {
		m = momentsOf(*notice)
	}
	committed, found, err := e.committed(ctx, t)
	switch {
	case found:
		return e.finish(ctx, t, committed, m, how, laps{})
	case errors.Is(err, store.ErrFenced):
		return fmt.Errorf("settle pod %s/%s: it stays frozen: %w", t.Namespace, t.Pod, err)
	case (leaving || !heard) && len(t.Missing) == 0 && time.Until(m.Deadline) > e.options.Margin:
		return e.evacuateAnew(ctx, t, m, hold, how)
	case err != nil && time.Until(m.Deadline) > 0:
		return fmt.Errorf("settle pod %s/%s: whether it may run is not known until its deadline: %w", t.Namespace, t.Pod, err)
	}
	return e.giveUp(ctx, t, how, v1alpha1.ReasonThawed, errThawed)
}

// evacuateAnew evacuates a target that an earlier life has held for that. Where a part of it may have run since, the write
// of Begun fences that life's Journal.Final as Failed does: without it nothing is evacuated.
func (e *Evacuator) evacuateAnew(ctx context.Context, t Target, m Moments, hold holding, how manner) error {
	if hold == holdingPart {
		if err := e.options.Journal.Begun(ctx, t, m); err != nil {
			return fmt.Errorf("settle pod %s/%s: %w", t.Namespace, t.Pod, err)
		}
	}
	return e.evacuate(ctx, t, m, how)
}

// sweep removes dumps that an earlier life of the agent left on the disk, except of containers that are on hold, and what
// tells safety dumps that have ended.
func (e *Evacuator) sweep() error {
	held, err := e.options.Holds.List()
	if err != nil {
		return err
	}
	safeties, err := e.safeties().List()
	if err != nil {
		return err
	}
	for _, id := range safeties {
		if slices.Contains(held, id) {
			continue
		}
		if _, err := e.safeties().Clear(id); err != nil {
			return err
		}
	}
	if len(held) == 0 {
		if err := e.stamps().clear(); err != nil {
			return err
		}
	}
	dir := filepath.Join(e.options.HostRoot, e.options.WorkDir)
	dumps, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list dumps: %w", err)
	}
	for _, d := range dumps {
		if slices.Contains(held, d.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, d.Name())); err != nil {
			return fmt.Errorf("remove old dump: %w", err)
		}
	}
	return nil
}

// giveUpUnlessCommitted ends a failed upload. A commit whose answer was lost counts as done, and a target that a newer epoch
// fences off stays frozen. Where the bucket cannot be asked the target is thawed: without Journal.Final no other node may
// restore it, whatever the bucket came to hold. (An inherited one is fenced before.)
func (e *Evacuator) giveUpUnlessCommitted(ctx context.Context, t Target, m Moments, how manner, cause error) error {
	ask, cancel := context.WithTimeout(ctx, e.options.Margin)
	defer cancel()
	committed, found, err := e.committed(ask, t)
	switch {
	case found:
		m.Durable = time.Now()
		return e.finish(ctx, t, committed, m, how, laps{})
	case errors.Is(err, store.ErrFenced):
		return errors.Join(cause, err)
	}
	return e.giveUp(ctx, t, how, reasonOf(cause), cause)
}

// committed asks the bucket for the generation of the newest final dump of this very pod. One of an older dump is
// none: it may have landed after its evacuation was given up, and t has run since. ErrFenced: a newer epoch holds the
// folder, so the pod runs elsewhere and must not run here.
func (e *Evacuator) committed(ctx context.Context, t Target) (Committed, bool, error) {
	stamp, err := e.stamps().newest(t.PodUID)
	if err != nil {
		return Committed{}, false, err
	}
	folder := t.Folder(e.options.Cluster)
	head, err := e.options.Store.Head(ctx, folder)
	if errors.Is(err, store.ErrNotFound) {
		return Committed{}, false, nil
	}
	if err != nil {
		return Committed{}, false, err
	}
	if head.Epoch > t.Epoch {
		return Committed{}, false, fmt.Errorf("pod of epoch %d, bucket at epoch %d: %w", t.Epoch, head.Epoch, store.ErrFenced)
	}
	if head.Number == 0 {
		return Committed{}, false, nil
	}
	r, err := e.options.Store.Open(ctx, folder, head.Number, head.WrittenEpoch)
	if err != nil {
		return Committed{}, false, err
	}
	meta := r.Meta()
	if meta.PodUID != t.PodUID || !meta.Final || !meta.Created.Equal(stamp) {
		return Committed{}, false, nil
	}
	g := Committed{Number: meta.Number, Epoch: meta.Epoch, StoredBytes: r.StoredBytes()}
	for _, c := range meta.Containers {
		g.RSSBytes += c.RSSBytes
	}
	return g, true, nil
}
