package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// firstPause and longestPause bound the waits between tries of an upload.
	firstPause, longestPause = 250 * time.Millisecond, 4 * time.Second
	// recordEvery is the wait between tries to record a durable generation, which are never given up.
	recordEvery = time.Second
	// endWithin bounds the wait for the release of a frozen source, endEvery is how often it is looked at.
	endWithin, endEvery = time.Minute, 100 * time.Millisecond
	// beginTimeout bounds the record before the freeze: the window is worth more than a note.
	beginTimeout = 2 * time.Second
)

// errBucket marks failures of the store, which leave the dump on this node good for another try.
var errBucket = errors.New("the generation could not be stored")

// evacuate takes the final dump of t. It returns nil when t is final, or when it runs on as before and that is recorded.
func (e *Evacuator) evacuate(parent context.Context, t Target, m Moments) error {
	ctx, cancel := context.WithDeadline(parent, e.latest(m.Deadline))
	defer cancel()
	log := e.options.Log.With().Str("namespace", t.Namespace).Str("pod", t.Pod).Str("container", t.ID).Logger()

	if err := e.options.Holds.Set(t.ID); err != nil {
		return e.giveUp(parent, t, reasonOf(err), err)
	}
	e.begin(ctx, t, m)
	if err := e.options.Runtime.Pause(ctx, t.ID); err != nil {
		return e.giveUp(parent, t, reasonOf(err), err)
	}
	m.Frozen = time.Now()
	dump, err := e.dump(ctx, t)
	if err != nil {
		return e.giveUp(parent, t, reasonOf(err), err)
	}
	m.Dumped = time.Now()
	log.Info().Dur("seconds", m.Dumped.Sub(m.Frozen)).Int64("rss_bytes", dump.RSSBytes).Msg("dumped")

	committed, err := e.upload(ctx, t, dump)
	if err != nil {
		return e.giveUpUnlessCommitted(parent, t, m, err)
	}
	m.Durable = time.Now()
	return e.finish(parent, t, committed, m)
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

// dump dumps the frozen t, twice if need be.
func (e *Evacuator) dump(ctx context.Context, t Target) (Dump, error) {
	dump, err := e.options.Runtime.Dump(ctx, t.ID, e.workDir(t))
	if err == nil || ctx.Err() != nil {
		return dump, err
	}
	// A dump that was cut off may have let the tasks go.
	if fault := e.options.Runtime.Pause(ctx, t.ID); fault != nil {
		return Dump{}, errors.Join(err, fault)
	}
	dump, again := e.options.Runtime.Dump(ctx, t.ID, e.workDir(t))
	if again != nil {
		return Dump{}, errors.Join(err, again)
	}
	return dump, nil
}

func (e *Evacuator) workDir(t Target) string { return filepath.Join(e.options.WorkDir, t.ID) }

// upload writes and commits the generation, again and again until it is durable, ctx ends or it is fenced off.
func (e *Evacuator) upload(ctx context.Context, t Target, dump Dump) (Committed, error) {
	pause := firstPause
	for {
		committed, err := e.tryUpload(ctx, t, dump)
		if err == nil || errors.Is(err, store.ErrFenced) || !errors.Is(err, errBucket) {
			return committed, err
		}
		e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("upload failed, trying again")
		select {
		case <-ctx.Done():
			return Committed{}, err
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}

// tryUpload writes one generation: images, file trees, manifest, HEAD. Failures of the store are errBucket.
func (e *Evacuator) tryUpload(ctx context.Context, t Target, dump Dump) (_ Committed, err error) {
	folder := t.Folder(e.options.Cluster)
	number := int64(1)
	switch head, err := e.options.Store.Head(ctx, folder); {
	case err == nil:
		number = head.Number + 1
	case !errors.Is(err, store.ErrNotFound):
		return Committed{}, fmt.Errorf("%w: %w", errBucket, err)
	}
	w, err := e.options.Store.Begin(ctx, folder, store.Meta{
		Number: number, Epoch: t.Epoch, PodUID: t.PodUID, Node: e.options.NodeName, Final: true, Created: time.Now(),
		Containers:   []store.ContainerMeta{{Name: t.Name, Image: t.Image, ImageDigest: t.ImageDigest, RSSBytes: dump.RSSBytes}},
		Requirements: e.options.Requirements,
	}, store.WriteOptions{Codec: store.CodecZstd})
	if err != nil {
		return Committed{}, fmt.Errorf("%w: %w", errBucket, err)
	}
	defer func() {
		if err != nil {
			w.Abort(context.WithoutCancel(ctx))
		}
	}()
	if err := addImages(ctx, dump.Images, t.Name, w); err != nil {
		return Committed{}, err
	}
	add := func(ctx context.Context, entry store.Entry, content io.Reader) error {
		return inBucket(w.Add(ctx, entry, content))
	}
	if err := e.options.Files.Add(ctx, t.Container, add); err != nil {
		return Committed{}, fmt.Errorf("read files of container %s: %w", t.ID, err)
	}
	generation, err := w.Commit(ctx)
	if err != nil {
		return Committed{}, inBucket(err)
	}
	return Committed{
		Number: generation.Number, Epoch: generation.Epoch,
		StoredBytes: generation.StoredBytes, RSSBytes: dump.RSSBytes,
	}, nil
}

// addImages adds the flat folder of CRIU images.
func addImages(ctx context.Context, dir, container string, w *store.Writer) error {
	images, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list CRIU images: %w", err)
	}
	for _, image := range images {
		if err := addImage(ctx, filepath.Join(dir, image.Name()), layout.ImagePath(container, image.Name()), w); err != nil {
			return err
		}
	}
	return nil
}

func addImage(ctx context.Context, from, to string, w *store.Writer) error {
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("read CRIU image: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read CRIU image: %w", err)
	}
	return inBucket(w.Add(ctx, store.Entry{
		Path: to, Type: store.TypeRegular, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime(),
	}, f))
}

func inBucket(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errBucket, err)
}

// finish records the durable generation until that is known to have succeeded: from here on t may run elsewhere.
func (e *Evacuator) finish(ctx context.Context, t Target, g Committed, m Moments) error {
	for {
		err := e.options.Journal.Final(ctx, t, g, m)
		if err == nil {
			break
		}
		if errors.Is(err, ErrUnprotected) {
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
	e.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", g.Number).Int64("epoch", g.Epoch).
		Int64("stored_bytes", g.StoredBytes).Int64("rss_bytes", g.RSSBytes).
		Dur("freeze_to_dumped", m.Dumped.Sub(m.Frozen)).Dur("notice_to_durable", m.Durable.Sub(m.Notice)).Msg("evacuated")
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
