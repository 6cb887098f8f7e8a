package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// firstPause and longestPause bound the waits between tries of an upload.
	firstPause, longestPause = 250 * time.Millisecond, 4 * time.Second
	// pieceSize is how much of a target's memory is handed to the store at a time.
	pieceSize = 1 << 20
	// baseWithin is how long an evacuation waits for the generation before, which it can do without.
	baseWithin = 5 * time.Second
)

// errBucket marks failures of the store, which leave the dump on this node good for another try.
var errBucket = errors.New("the generation could not be stored")

func inBucket(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errBucket, err)
}

// basis is the generation before, which is read while the target is recorded, frozen and dumped.
type basis struct {
	taking     sync.WaitGroup
	generation *store.Base
}

// base reads the newest generation of t, so that what it holds need not be stored again. Where there is none, or it
// cannot be read soon, everything is stored.
func (e *Evacuator) base(parent context.Context, t Target) *store.Base {
	ctx, cancel := context.WithTimeout(parent, baseWithin)
	defer cancel()
	base, err := e.options.Store.Base(ctx, t.Folder(e.options.Cluster))
	if err != nil && !errors.Is(err, store.ErrNotFound) && parent.Err() == nil {
		e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).
			Msg("generation before cannot be read, everything is stored anew")
	}
	return base
}

// upload writes and commits the generation, again and again until it is durable, ctx ends or it is fenced off.
func (e *Evacuator) upload(ctx context.Context, t Target, dump Dump, base *store.Base) (Committed, error) {
	pause := firstPause
	for {
		committed, err := e.tryUpload(ctx, t, dump, base)
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

// tryUpload writes one generation: memory, other images, file trees, manifest, HEAD. Failures of the store are errBucket.
func (e *Evacuator) tryUpload(ctx context.Context, t Target, dump Dump, base *store.Base) (_ Committed, err error) {
	w, err := e.beginGeneration(ctx, t, dump, base)
	if err != nil {
		return Committed{}, inBucket(err)
	}
	defer func() {
		if err != nil {
			w.Abort(context.WithoutCancel(ctx))
		}
	}()
	if err := addImages(ctx, dump, t.Name, w); err != nil {
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
	e.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", generation.Number).
		Int64("epoch", generation.Epoch).Int64("blocks", generation.Blocks).Int64("new_blocks", generation.NewBlocks).
		Int64("stored_bytes", generation.StoredBytes).Int("puts", generation.Puts).Msg("committed")
	return Committed{
		Number: generation.Number, Epoch: generation.Epoch,
		StoredBytes: generation.StoredBytes, RSSBytes: dump.RSSBytes,
	}, nil
}

// beginGeneration begins the generation after HEAD, on base where that is HEAD's.
func (e *Evacuator) beginGeneration(ctx context.Context, t Target, dump Dump, base *store.Base) (*store.Writer, error) {
	folder := t.Folder(e.options.Cluster)
	head, err := e.options.Store.Head(ctx, folder)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if head.Number > 0 && (base == nil || base.Head().Number != head.Number || base.Head().WrittenEpoch != head.WrittenEpoch) {
		base = e.base(ctx, t)
	}
	return e.options.Store.Begin(ctx, folder, store.Meta{
		Number: head.Number + 1, Epoch: t.Epoch, PodUID: t.PodUID, Node: e.options.NodeName, Final: true, Created: time.Now(),
		Containers:   []store.ContainerMeta{{Name: t.Name, Image: t.Image, ImageDigest: t.ImageDigest, RSSBytes: dump.RSSBytes}},
		Requirements: e.options.Requirements,
	}, store.WriteOptions{Base: base, Codec: store.CodecZstd})
}

// addImages adds the flat folder of CRIU images.
func addImages(ctx context.Context, dump Dump, container string, w *store.Writer) error {
	images, err := os.ReadDir(dump.Images)
	if err != nil {
		return fmt.Errorf("list CRIU images: %w", err)
	}
	memory := map[string]Memory{}
	for _, m := range dump.Memory {
		m.Task = container + "/" + m.Task
		memory[m.Image] = m
	}
	for _, image := range images {
		from := filepath.Join(dump.Images, image.Name())
		if err := addImage(ctx, from, layout.ImagePath(container, image.Name()), memory[image.Name()], w); err != nil {
			return err
		}
	}
	return nil
}

// addImage adds one image: by the places of its pages where m says them.
func addImage(ctx context.Context, from, to string, m Memory, w *store.Writer) error {
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("read CRIU image: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read CRIU image: %w", err)
	}
	entry := store.Entry{Path: to, Type: store.TypeRegular, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime()}
	if m.Image == "" {
		// All but pages differ from dump to dump.
		entry.Inline = !strings.HasPrefix(filepath.Base(from), "pages-")
		return inBucket(w.Add(ctx, entry, f))
	}
	if err := addPages(ctx, f, m, w); err != nil {
		return err
	}
	return inBucket(w.AddImage(ctx, entry, m.Task, m.Runs))
}

// addPages hands the pages in f to where in memory they were.
func addPages(ctx context.Context, f io.Reader, m Memory, w *store.Writer) error {
	buf, piece := make([]byte, pieceSize), []byte(nil)
	for _, run := range m.Runs {
		for address, left := run.Address, run.Pages*store.BlockSize; left > 0; {
			if len(piece) == 0 {
				n, err := io.ReadFull(f, buf)
				if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					return fmt.Errorf("read CRIU image %s: %w", m.Image, err)
				}
				piece = buf[:n]
			}
			n := min(left, int64(len(piece)))
			if err := w.AddPages(ctx, m.Task, address, piece[:n]); err != nil {
				return inBucket(err)
			}
			address, left, piece = address+uint64(n), left-n, piece[n:]
		}
	}
	return nil
}
