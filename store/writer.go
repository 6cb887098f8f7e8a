package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/oklog/ulid/v2"
)

const (
	// uploads is how many packs are under way at a time. A Writer holds at most one pack buffer more than that: 80 MiB.
	uploads = 4
	// zeroBlock is the grain at which zeros are left out of frames: a page.
	zeroBlock = 4 << 10
)

var zeros [zeroBlock]byte

// Writer writes one generation. It is not for concurrent use, and must be ended by Commit or Abort.
type Writer struct {
	store  *Store
	target Target
	keys   *targetKeys
	base   Head
	// orphan is the ETag of a manifest that an unfinished writer left under this generation's key; empty if none.
	orphan string

	contents manifest
	tree     *tree
	encoder  *zstd.Encoder
	chunk    []byte // what is read from a file at a time
	frame    []byte // raw bytes of the frame being filled
	pack     *packBuilder

	jobs    chan *packBuilder
	buffers chan []byte
	running sync.WaitGroup
	stop    context.CancelFunc
	failure failure

	closed    bool // no more Adds
	published bool // a manifest may name the packs
}

// failure keeps the first error of the uploads.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *failure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Begin starts generation meta.Number of target. Uploads run under ctx until Commit or Abort. ErrFenced where HEAD has a
// newer epoch or meta.Number is not the one after HEAD's.
//
// A manifest of this number and epoch that HEAD does not name is what a writer left that died before its end, or is
// about to commit. Begin then rewrites HEAD with the same content: that writer can no longer commit, and its manifest
// may be replaced.
func (s *Store) Begin(ctx context.Context, target Target, meta Meta) (*Writer, error) {
	keys, err := s.keysOf(target)
	if err != nil {
		return nil, fmt.Errorf("begin generation %d: %w", meta.Number, err)
	}
	if err := meta.validate(); err != nil {
		return nil, fmt.Errorf("begin generation %d: %w", meta.Number, err)
	}
	w := &Writer{
		store: s, target: target, keys: keys, contents: manifest{meta: meta}, tree: newTree(),
		chunk: make([]byte, maxFrameRaw), frame: make([]byte, 0, maxFrameRaw),
		jobs: make(chan *packBuilder, uploads), buffers: make(chan []byte, uploads+1),
	}
	if err := w.takeNumber(ctx); err != nil {
		return nil, fmt.Errorf("begin generation %d of %s: %w", meta.Number, target.Prefix(), err)
	}
	if w.encoder, err = newFrameEncoder(); err != nil {
		return nil, err
	}
	for range uploads + 1 {
		w.buffers <- nil
	}
	ctx, w.stop = context.WithCancel(ctx)
	for range uploads {
		w.running.Go(func() { w.upload(ctx) })
	}
	return w, nil
}

func (m Meta) validate() error {
	if m.Number < 1 || m.Epoch < 0 {
		return fmt.Errorf("number %d, epoch %d: numbers begin at 1, epochs at 0: %w", m.Number, m.Epoch, ErrInvalid)
	}
	texts := []string{m.PodUID, m.Node}
	for _, c := range m.Containers {
		texts = append(texts, c.Name, c.Image, c.ImageDigest)
	}
	for name, value := range m.Requirements {
		texts = append(texts, name, value)
	}
	for _, text := range texts {
		if len(text) > maxMetaString {
			return fmt.Errorf("text of %d bytes, want at most %d: %w", len(text), maxMetaString, ErrInvalid)
		}
	}
	return nil
}

func (w *Writer) takeNumber(ctx context.Context) error {
	meta := w.contents.meta
	head, err := w.store.headWithETag(ctx, w.target, w.keys)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if head.Epoch > meta.Epoch {
		return fmt.Errorf("HEAD is at epoch %d, newer than %d: %w", head.Epoch, meta.Epoch, ErrFenced)
	}
	if head.Number+1 != meta.Number {
		return fmt.Errorf("HEAD is at generation %d: %w", head.Number, ErrFenced)
	}
	w.base = head
	left, err := w.store.bucket.Stat(ctx, w.target.manifestKey(meta.Number, meta.Epoch))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	w.orphan = left.ETag
	next := head
	next.Epoch = meta.Epoch
	w.base, err = w.store.swapHead(ctx, w.target, w.keys, head, next)
	return err
}

// Add appends an entry; for a regular file that is no hard link it reads exactly e.Size bytes from r until its end. A
// dir may come after what is in it, and the parents of an entry may be left out; a hard link comes after its target.
// ErrInvalid for an entry that does not fit; like an error of r it leaves the Writer usable, without the entry.
func (w *Writer) Add(ctx context.Context, e Entry, r io.Reader) error {
	if w.closed {
		return fmt.Errorf("add %q: the writer has ended: %w", e.Path, ErrInvalid)
	}
	if err := e.Validate(); err != nil {
		return fmt.Errorf("add: %w", err)
	}
	if fault := w.tree.fault(e); fault != "" {
		return fmt.Errorf("add entry %q: %s: %w", e.Path, fault, ErrInvalid)
	}
	rec := record{Entry: e}
	if e.hasContent() {
		if err := w.addContent(ctx, &rec, r); err != nil {
			return fmt.Errorf("add %q: %w", e.Path, err)
		}
	}
	w.contents.records = append(w.contents.records, rec)
	return w.tree.add(e)
}

func (w *Writer) addContent(ctx context.Context, rec *record, r io.Reader) error {
	if r == nil {
		r = bytes.NewReader(nil)
	}
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, w.chunk)
		total += int64(n)
		if total > rec.Size {
			return fmt.Errorf("content goes on after its %d bytes: %w", rec.Size, ErrInvalid)
		}
		if err := w.addChunk(ctx, rec, w.chunk[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read content: %w", err)
		}
	}
	if total != rec.Size {
		return fmt.Errorf("content ends after %d of %d bytes: %w", total, rec.Size, ErrInvalid)
	}
	return nil
}

// addChunk splits a chunk into blocks of zeros and runs of other blocks.
func (w *Writer) addChunk(ctx context.Context, rec *record, chunk []byte) error {
	for len(chunk) > 0 {
		n := run(chunk, true)
		if n > 0 {
			rec.addZeros(int64(n))
			chunk = chunk[n:]
		}
		n = run(chunk, false)
		if err := w.addData(ctx, rec, chunk[:n]); err != nil {
			return err
		}
		chunk = chunk[n:]
	}
	return nil
}

// run is how many bytes from the start are in blocks that are all zeros, or in blocks that are not.
func run(chunk []byte, zero bool) int {
	n := 0
	for n < len(chunk) {
		block := chunk[n:min(n+zeroBlock, len(chunk))]
		if bytes.Equal(block, zeros[:len(block)]) != zero {
			break
		}
		n += len(block)
	}
	return n
}

func (rec *record) addZeros(n int64) {
	if last := len(rec.extents) - 1; last >= 0 && rec.extents[last].zero {
		rec.extents[last].length += n
		return
	}
	rec.extents = append(rec.extents, extent{zero: true, length: n})
}

func (w *Writer) addData(ctx context.Context, rec *record, data []byte) error {
	for len(data) > 0 {
		if err := w.openFrame(ctx); err != nil {
			return err
		}
		n := min(len(data), maxFrameRaw-len(w.frame))
		here := extent{
			pack: len(w.contents.packs) - 1, frame: len(w.pack.info.frames),
			offset: int64(len(w.frame)), length: int64(n),
		}
		// Nothing else is written between two runs of one entry, so in the same pack they are neighbours.
		if last := len(rec.extents) - 1; last >= 0 && !rec.extents[last].zero && rec.extents[last].pack == here.pack {
			rec.extents[last].length += here.length
		} else {
			rec.extents = append(rec.extents, here)
		}
		w.frame = append(w.frame, data[:n]...)
		data = data[n:]
		if len(w.frame) == maxFrameRaw {
			if err := w.closeFrame(); err != nil {
				return err
			}
		}
	}
	return nil
}

// openFrame makes sure of a pack that has room for the frame being filled.
func (w *Writer) openFrame(ctx context.Context) error {
	if len(w.frame) > 0 {
		return nil
	}
	if w.pack != nil && w.pack.full() {
		w.closePack()
	}
	if w.pack != nil {
		return nil
	}
	var buf []byte
	select {
	case buf = <-w.buffers:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := w.failure.get(); err != nil {
		w.buffers <- buf
		return err
	}
	if buf == nil {
		buf = make([]byte, 0, maxPackSize+maxFrameRaw)
	}
	info := &packInfo{id: ulid.Make(), number: w.contents.meta.Number, epoch: w.contents.meta.Epoch}
	pack, err := newPackBuilder(info, w.keys, w.encoder, buf)
	if err != nil {
		return err
	}
	w.pack = pack
	w.contents.packs = append(w.contents.packs, info)
	return nil
}

func (w *Writer) closeFrame() error {
	if len(w.frame) == 0 {
		return nil
	}
	err := w.pack.add(w.frame)
	w.frame = w.frame[:0]
	return err
}

// closePack hands the pack to the uploads. jobs has room for every pack buffer there is, so this never blocks.
func (w *Writer) closePack() {
	w.jobs <- w.pack
	w.pack = nil
}

// upload puts packs until there are no more. After a failure the rest is dropped, so that Add never hangs.
func (w *Writer) upload(ctx context.Context) {
	for pack := range w.jobs {
		body := pack.finish()
		if w.failure.get() == nil {
			if err := w.putPack(ctx, pack.info, body); err != nil {
				w.failure.set(err)
			}
		}
		w.buffers <- body[:0]
	}
}

func (w *Writer) putPack(ctx context.Context, info *packInfo, body []byte) error {
	var last error
	for range attempts {
		if _, last = w.store.bucket.Put(ctx, w.target.packKey(info.id), body, Condition{}); last == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("put pack: %w", last)
}

// finishUploads ends the uploads and waits for them.
func (w *Writer) finishUploads() {
	if !w.closed {
		w.closed = true
		close(w.jobs)
	}
	w.running.Wait()
	w.stop()
	w.encoder.Close()
}

// Abort ends the Writer without a commit, and deletes the packs it put unless a manifest may name them: then, and where
// deleting fails, they are left to be reaped. After Commit has succeeded it does nothing.
func (w *Writer) Abort(ctx context.Context) {
	w.stop()
	w.finishUploads()
	if w.published {
		return
	}
	for _, info := range w.contents.packs {
		if err := w.store.bucket.Delete(ctx, w.target.packKey(info.id)); err != nil {
			return // the rest is for the reaper too
		}
	}
	w.contents.packs = nil
}
