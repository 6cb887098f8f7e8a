package store

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// SparseReader is a reader of a file's content that knows where nothing but zeros is, so that it need not be read.
type SparseReader interface {
	io.Reader
	// Hole moves over the zeros that the next Read would begin with, as far as they are known without reading, and says
	// how many they were: a multiple of BlockSize, or all that is left.
	Hole() (int64, error)
}

// kept is a version of a file: a name that the caller gave it, empty for none, and its size.
type kept struct {
	version string
	size    int64
}

const maxVersion = 64

// Preload compares the content of a file with what is at its places, and stores what differs ahead of the entry: Add of
// the same path then stores only what has changed since. Content may end before size, as a file does that shrinks while
// it is read; it is ErrInvalid beyond it. Without an entry at Commit what was preloaded is left out. An error of r leaves
// the Writer usable. r may be a SparseReader.
func (w *Writer) Preload(ctx context.Context, path string, size int64, r io.Reader) error {
	if err := w.checkContent(path, size); err != nil {
		return fmt.Errorf("preload: %w", err)
	}
	if _, err := w.fill(ctx, path, size, r); err != nil {
		return fmt.Errorf("preload %q: %w", path, err)
	}
	return nil
}

func (w *Writer) checkContent(path string, size int64) error {
	if w.closed {
		return fmt.Errorf("content of %q: the writer has ended: %w", path, ErrInvalid)
	}
	return Entry{Path: path, Type: TypeRegular, Size: size}.Validate()
}

// Keep notes that what Preload or Add read last at path was all the content, of that size, of a version of the file. A
// version is a name of 1 to 64 bytes that the caller chooses. It is forgotten when content at path is read again, lives in
// memory alone, and goes on in the Base of the generation that this Writer commits where that has the file.
func (w *Writer) Keep(path string, size int64, version string) error {
	if err := w.checkContent(path, size); err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	if version == "" || len(version) > maxVersion {
		return fmt.Errorf("keep %q: version of %d bytes, want 1 to %d: %w", path, len(version), maxVersion, ErrInvalid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tableOf(stream{file: true, name: path}).kept = kept{version: version, size: size}
	return nil
}

// Kept returns the version whose content is known for path, empty where none is.
func (w *Writer) Kept(path string) string {
	if w.closed {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := stream{file: true, name: path}
	t := w.tables[s]
	if t == nil && w.before != nil {
		t = w.before.tables[s]
	}
	if t == nil {
		return ""
	}
	return t.kept.version
}

// AddKept is Add without reading: the content is that of the version which was kept for the entry's path. ErrInvalid
// where another one was, or one of another size. The entry is never inline.
func (w *Writer) AddKept(ctx context.Context, e Entry, version string) error {
	if err := w.check(ctx, e); err != nil {
		return err
	}
	e.Inline = false
	if !e.hasContent() {
		return fmt.Errorf("add %q as kept: no content of its own: %w", e.Path, ErrInvalid)
	}
	w.mu.Lock()
	t := w.tableOf(stream{file: true, name: e.Path})
	have, sound := t.kept, w.sound(t, uint64(blocksOf(e.Size)))
	w.mu.Unlock()
	switch {
	case version == "" || have.version != version:
		return fmt.Errorf("add %q as kept: this version of it was not: %w", e.Path, ErrInvalid)
	case have.size != e.Size:
		return fmt.Errorf("add %q as kept: %d bytes, were %d: %w", e.Path, e.Size, have.size, ErrInvalid)
	case !sound:
		return fmt.Errorf("add %q as kept: what it refers to is gone: %w", e.Path, ErrInvalid)
	}
	return w.keepRecord(record{Entry: e})
}

// sound says whether all content up to end can be referred to.
func (w *Writer) sound(t *table, end uint64) bool {
	hint, known := -1, false
	for place := uint64(0); place < end; {
		if hole := t.holeAt(place); hole > 0 {
			place += hole
			continue
		}
		id := t.get(place)
		if known, hint = w.known(id, hint); !known && id != blockAbsent {
			return false
		}
		place++
	}
	return true
}

func (w *Writer) addContent(ctx context.Context, rec *record, r io.Reader) error {
	total, err := w.fill(ctx, rec.Path, rec.Size, r)
	if err == nil && total < rec.Size {
		err = shorter(rec.Size, io.EOF)
	}
	return err
}

// fill compares content with what is at its places, stores what differs, and returns how much there was.
func (w *Writer) fill(ctx context.Context, path string, size int64, r io.Reader) (total int64, _ error) {
	if w.chunk == nil {
		w.chunk = make([]byte, readChunk)
	}
	s := stream{file: true, name: path}
	w.mu.Lock()
	w.tableOf(s).kept = kept{}
	w.mu.Unlock()
	sparse, _ := r.(SparseReader)
	for {
		if sparse != nil {
			hole, err := sparse.Hole()
			if err != nil {
				return total, fmt.Errorf("find hole in content: %w", err)
			}
			if total+hole > size || hole < 0 || hole%BlockSize != 0 && total+hole != size {
				return total, fmt.Errorf("hole of %d bytes at %d of %d: %w", hole, total, size, ErrInvalid)
			}
			w.clear(s, uint64(total/BlockSize), uint64(blocksOf(hole)))
			total += hole
		}
		n, err := io.ReadFull(r, w.chunk)
		if total+int64(n) > size {
			return total, fmt.Errorf("content goes on after its %d bytes: %w", size, ErrInvalid)
		}
		end := int(blocksOf(int64(n))) * BlockSize
		clear(w.chunk[n:end])
		if err := w.addBlocks(ctx, s, uint64(total/BlockSize), w.chunk[:end]); err != nil {
			return total, err
		}
		total += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("read content: %w", err)
		}
	}
}

// clear makes places of a file a hole. It costs what has content there, and not what the hole is.
func (w *Writer) clear(s stream, place, blocks uint64) {
	if blocks == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t, end := w.tableOf(s), place+blocks
	first, last := place/chunkBlocks, (end-1)/chunkBlocks
	if last-first < uint64(len(t.chunks)) {
		for at := first; at <= last; at++ {
			w.clearChunk(t, at, place, end)
		}
		return
	}
	for at := range t.chunks {
		if at >= first && at <= last {
			w.clearChunk(t, at, place, end)
		}
	}
}

// clearChunk clears what of chunk at is from place to end.
func (w *Writer) clearChunk(t *table, at, place, end uint64) {
	if t.chunks[at] == nil {
		return
	}
	for p := max(place, at*chunkBlocks); p < min(end, (at+1)*chunkBlocks); p++ {
		if old := t.get(p); old != blockAbsent && old != blockZero {
			t.set(w, p, blockZero) // which at most takes the place of the same chunk
		}
	}
}
