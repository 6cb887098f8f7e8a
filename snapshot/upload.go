package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

// upload writes and commits the generation of the frozen t, again and again until it is durable, ctx ends or it is fenced
// off. opened says why there is no Writer yet. Where one has failed, and with it the memory that it had got, the next one
// gets that by another dump: t stands still, so it is the same.
func (e *Evacuator) upload(ctx context.Context, s *session, t Target, dump intoWriter, opened error) (Committed, error) {
	pause, err := firstPause, inBucket(opened)
	for {
		if err == nil {
			var committed Committed
			if committed, err = e.tryUpload(ctx, s, t, &dump); err == nil {
				return committed, nil
			}
		}
		if errors.Is(err, store.ErrFenced) || !errors.Is(err, errBucket) {
			return Committed{}, err
		}
		e.drop(s)
		e.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("upload failed, trying again")
		select {
		case <-ctx.Done():
			return Committed{}, err
		case <-time.After(pause):
			pause, err = min(2*pause, longestPause), nil
		}
	}
}

// tryUpload writes one generation: memory, other images, file trees, manifest, HEAD. Failures of the store are errBucket.
func (e *Evacuator) tryUpload(ctx context.Context, s *session, t Target, dump *intoWriter) (_ Committed, err error) {
	w, err := e.open(ctx, s)
	if err != nil {
		return Committed{}, inBucket(err)
	}
	if dump.inWriter() && dump.writer != w {
		if *dump, err = e.dump(ctx, t, w); err != nil {
			return Committed{}, err
		}
	}
	w.Discard()
	meta := e.meta(t, dump.dumps)
	meta.Final, meta.Created = true, dump.stamp
	if err := w.Describe(meta); err != nil {
		return Committed{}, inBucket(err)
	}
	s.laps.end("open")
	if err := addImages(ctx, t, dump.dumps, w.Writer); err != nil {
		return Committed{}, err
	}
	s.laps.end("images")
	if _, err := e.options.Files.Add(ctx, t, &fileWriter{openWriter: w}); err != nil {
		return Committed{}, fmt.Errorf("read files of pod %s/%s: %w", t.Namespace, t.Pod, err)
	}
	s.laps.end("files")
	committed, err := e.commit(ctx, s, t, dump.rssBytes())
	if errors.Is(err, store.ErrFenced) {
		// Where it was a newer epoch, the next Writer cannot begin and says so. Else somebody has rewritten the target.
		return Committed{}, fmt.Errorf("%w: another writer was first: %s", errBucket, err.Error())
	}
	return committed, err
}

// commit ends the Writer of s, and gives it up where that fails.
func (e *Evacuator) commit(ctx context.Context, s *session, t Target, rss int64) (Committed, error) {
	generation, err := s.commit(ctx)
	if err != nil {
		e.drop(s)
		s.forget()
		return Committed{}, inBucket(err)
	}
	s.laps.add("packs", generation.Took.Packs)
	s.laps.add("commit", generation.Took.Manifest)
	s.laps.add("read_back", generation.Took.ReadBack)
	e.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", generation.Number).
		Int64("epoch", generation.Epoch).Int64("blocks", generation.Blocks).Int64("new_blocks", generation.NewBlocks).
		Int64("stored_bytes", generation.StoredBytes).Int("puts", generation.Puts).Msg("committed")
	return Committed{
		Number: generation.Number, Epoch: generation.Epoch, StoredBytes: generation.StoredBytes, RSSBytes: rss,
	}, nil
}

// beginGeneration begins the generation after HEAD, on base where that is HEAD's, and returns the base that it has. Its uploads
// go on under uploads.
func (e *Evacuator) beginGeneration(ctx, uploads context.Context, t Target, base *store.Base) (*store.Writer, *store.Base, error) {
	folder := t.Folder(e.options.Cluster)
	head, err := e.options.Store.Head(ctx, folder)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, nil, err
	}
	if head.Number == 0 || t.Damaged && head.WrittenEpoch < t.Epoch {
		base = nil
	} else if base == nil || base.Head().Number != head.Number || base.Head().WrittenEpoch != head.WrittenEpoch {
		base = e.base(ctx, t)
	}
	meta := e.meta(t, nil)
	meta.Number = head.Number + 1
	w, err := e.options.Patient.Begin(uploads, folder, meta, store.WriteOptions{Base: base, Codec: store.CodecZstd})
	return w, base, err
}

// meta describes a generation of t that is not final, of these dumps where there are any yet.
func (e *Evacuator) meta(t Target, of dumps) store.Meta {
	meta := store.Meta{
		Epoch: t.Epoch, PodUID: t.PodUID, Node: e.options.NodeName, Created: time.Now(), Requirements: e.options.Requirements,
	}
	for i, c := range t.Containers {
		one := store.ContainerMeta{Name: c.Name, Image: c.Image, ImageDigest: c.ImageDigest}
		if of != nil {
			one.RSSBytes = of[i].RSSBytes
		}
		meta.Containers = append(meta.Containers, one)
	}
	return meta
}

// addImages adds the images of all of t's containers.
func addImages(ctx context.Context, t Target, of dumps, w *store.Writer) error {
	for i, c := range t.Containers {
		if err := addImagesOf(ctx, of[i], c.Name, w); err != nil {
			return err
		}
	}
	return nil
}

// addImagesOf adds the flat folder of CRIU images of a container.
func addImagesOf(ctx context.Context, dump Dump, container string, w *store.Writer) error {
	images, err := os.ReadDir(dump.Images)
	if err != nil {
		return fmt.Errorf("list CRIU images: %w", err)
	}
	memory := map[string]Memory{}
	for _, m := range dump.Memory {
		m.Task = taskName(container, m.Task)
		memory[m.Image] = m
	}
	for _, image := range images {
		from, m := filepath.Join(dump.Images, image.Name()), memory[image.Name()]
		delete(memory, image.Name())
		there := m.Runs
		if dump.OnDisk != nil {
			there = dump.OnDisk[m.Image]
		}
		if err := addImage(ctx, from, layout.ImagePath(container, image.Name()), m, there, w); err != nil {
			return err
		}
	}
	for name := range memory {
		return fmt.Errorf("CRIU image %s is missing: %w", name, fs.ErrNotExist)
	}
	return nil
}

// addImage adds one image: by the places of its pages where m says them, of which the file has those of there.
func addImage(ctx context.Context, from, to string, m Memory, there []store.Run, w *store.Writer) error {
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
	if err := addPages(ctx, f, m, there, w); err != nil {
		return err
	}
	entry.Size = 0
	for _, run := range m.Runs {
		entry.Size += run.Pages * store.BlockSize
	}
	return inBucket(w.AddImage(ctx, entry, m.Task, m.Runs))
}

// addPages hands the pages in f, those of runs, to where in memory they were.
func addPages(ctx context.Context, f io.Reader, m Memory, runs []store.Run, w *store.Writer) error {
	buf, piece := make([]byte, pieceSize), []byte(nil)
	for _, run := range runs {
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
