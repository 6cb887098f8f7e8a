package store

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Progress is what a Writer has done since Begin.
type Progress struct {
	// NewBlocks is how many blocks differed from what was at their place. Those of zeros alone, which take no space, do
	// not count.
	NewBlocks int64
	// RawBytes are those of the frames that were compressed, StoredBytes what became of them, EncodeTime the processor time
	// that this took in all, on up to four cores.
	RawBytes, StoredBytes int64
	EncodeTime            time.Duration
	// UploadedBytes are those of packs that are in the bucket. UploadTime is how long at least one was on its way.
	UploadedBytes int64
	UploadTime    time.Duration
}

// Progress tells how far the Writer is. It may be called at any time.
func (w *Writer) Progress() Progress {
	w.mu.Lock()
	blocks := int64(len(w.hashes))
	w.mu.Unlock()
	p := w.packer.progress.now()
	p.NewBlocks = blocks
	return p
}

// Describe replaces the Meta that was given to Begin, but for Number and Epoch.
func (w *Writer) Describe(meta Meta) error {
	meta.Number, meta.Epoch = w.contents.meta.Number, w.contents.meta.Epoch
	if err := meta.validate(); err != nil {
		return fmt.Errorf("describe generation %d: %w", meta.Number, err)
	}
	w.contents.meta = meta
	return nil
}

// SetCodec has frames that are begun from now on compressed by codec.
func (w *Writer) SetCodec(codec Codec) error {
	if !codec.known() {
		return fmt.Errorf("unknown %s: %w", codec, ErrInvalid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.codec = codec
	return nil
}

// Discard forgets all entries, so that they can be added again. Their content is kept, and not stored a second time.
func (w *Writer) Discard() {
	w.contents.records, w.tree, w.inline = nil, newTree(), 0
}

// Flush has what was added so far uploaded without waiting for a pack to be full, in the background. It makes a small pack
// where little was added.
func (w *Writer) Flush(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("flush: the writer has ended: %w", ErrInvalid)
	}
	if w.frame == nil {
		frame, err := w.emptyFrame(ctx)
		if err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		w.frame = frame
	}
	w.frame.last = true
	w.packer.add(w.frame)
	w.frame = nil
	return nil
}

// tally adds up Progress.
type tally struct {
	mu       sync.Mutex
	sum      Progress
	underWay int
	since    time.Time
}

func (t *tally) now() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := t.sum
	if t.underWay > 0 {
		sum.UploadTime += time.Since(t.since)
	}
	return sum
}

func (t *tally) encoded(raw, stored int, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.RawBytes += int64(raw)
	t.sum.StoredBytes += int64(stored)
	t.sum.EncodeTime += took
}

func (t *tally) begins() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.underWay++; t.underWay == 1 {
		t.since = time.Now()
	}
}

func (t *tally) ends(uploaded int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.UploadedBytes += int64(uploaded)
	if t.underWay--; t.underWay == 0 {
		t.sum.UploadTime += time.Since(t.since)
	}
}
