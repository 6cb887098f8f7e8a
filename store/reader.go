package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
)

// Reader reads one committed generation. Its methods may be called concurrently.
type Reader struct {
	store    *Store
	target   Target
	keys     *targetKeys
	contents *manifest
}

// Open reads and checks the manifest of a committed generation. ErrNotFound where HEAD has not come to that number, or
// the manifest is not there; ErrManifestCorrupt or ErrWrongKey where it does not open.
func (s *Store) Open(ctx context.Context, target Target, number, epoch int64) (*Reader, error) {
	contents, keys, err := s.loadManifest(ctx, target, number, epoch)
	if err != nil {
		return nil, fmt.Errorf("open generation %d of epoch %d: %w", number, epoch, err)
	}
	return &Reader{store: s, target: target, keys: keys, contents: contents}, nil
}

func (s *Store) loadManifest(ctx context.Context, target Target, number, epoch int64) (*manifest, *targetKeys, error) {
	keys, err := s.keysOf(target)
	if err != nil {
		return nil, nil, err
	}
	head, err := s.readHead(ctx, target, keys)
	if err != nil {
		return nil, nil, err
	}
	if number < 1 || number > head.Number || number == head.Number && epoch != head.WrittenEpoch {
		return nil, nil, fmt.Errorf("HEAD of %s is at generation %d of epoch %d: %w",
			target.Prefix(), head.Number, head.WrittenEpoch, ErrNotFound)
	}
	key := target.manifestKey(number, epoch)
	sealed, err := readObject(ctx, s.bucket, key, maxManifestSealed, nil)
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrManifestCorrupt, err)
	}
	if err != nil {
		return nil, nil, err
	}
	contents, err := openManifest(keys, number, epoch, sealed)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", key, err)
	}
	if number == head.Number && sha256.Sum256(sealed) != head.Manifest {
		return nil, nil, fmt.Errorf("open %s: %w: not the one that HEAD names", key, ErrManifestCorrupt)
	}
	return contents, keys, nil
}

// Meta returns what the writer said of the generation.
func (r *Reader) Meta() Meta { return r.contents.meta }

// PackBytes is what the packs of the generation take in the bucket.
func (r *Reader) PackBytes() int64 {
	var bytes int64
	for _, pack := range r.contents.packs {
		bytes += pack.size
	}
	return bytes
}

// Entries yields all entries in the order in which they were added.
func (r *Reader) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := range r.contents.records {
			if !yield(r.contents.records[i].Entry) {
				return
			}
		}
	}
}

// Fetch calls fn for every entry in order, with the content of a regular file that is no hard link, and an empty reader
// for all else. The reader is valid until fn returns and need not be read to its end. No byte reaches fn that is not
// authentic; an error in the middle of a file is returned by its reader and by Fetch, also where fn drops it. Packs are
// read ahead of fn; memory is bounded by four packs and two frames, a little over 64 MiB. An error of fn ends Fetch and
// is returned. ErrPackMissing and ErrPackCorrupt name the pack.
func (r *Reader) Fetch(ctx context.Context, fn func(Entry, io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	ahead := newReadAhead(r)
	defer ahead.wait()
	defer cancel()
	opener, err := newPackOpener(r.keys)
	if err != nil {
		return err
	}
	defer opener.decoder.Close()
	content := newContentReader(ahead, opener)
	stream := readerFunc(func(p []byte) (int, error) { return content.read(ctx, p) })
	for i := range r.contents.records {
		rec := &r.contents.records[i]
		content.next(rec.extents)
		if err := fn(rec.Entry, stream); err != nil {
			return err
		}
		if content.err != nil {
			return fmt.Errorf("fetch %q: %w", rec.Path, content.err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// contentReader reads the content of one entry after the other.
type contentReader struct {
	ahead  *readAhead
	opener *packOpener
	err    error // the first; it stays

	extents []extent
	runs    []int // for each extent the run of readAhead that holds it
	at      int64 // how much of extents[0] has been read

	run      int // the last run given out by next, and its pack
	lastPack int

	openRun, openFrame int    // where plain is from
	plain              []byte // one frame
}

func newContentReader(ahead *readAhead, opener *packOpener) *contentReader {
	return &contentReader{ahead: ahead, opener: opener, run: -1, lastPack: -1, openRun: -1}
}

// next turns to the entry with these extents, whatever was left of the one before.
func (c *contentReader) next(extents []extent) {
	c.extents, c.at, c.runs = extents, 0, c.runs[:0]
	for _, ext := range extents {
		if !ext.zero && ext.pack != c.lastPack {
			c.run++
			c.lastPack = ext.pack
		}
		c.runs = append(c.runs, c.run)
	}
}

func (c *contentReader) read(ctx context.Context, p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if len(c.extents) == 0 {
		return 0, io.EOF
	}
	ext := c.extents[0]
	if rest := ext.length - c.at; int64(len(p)) > rest {
		p = p[:rest]
	}
	n := len(p)
	if ext.zero {
		clear(p)
	} else if n, c.err = c.readData(ctx, p, ext); c.err != nil {
		return 0, c.err
	}
	if c.at += int64(n); c.at == ext.length {
		c.extents, c.runs, c.at = c.extents[1:], c.runs[1:], 0
	}
	return n, nil
}

// readData copies from the frame that holds the place where the reader stands.
func (c *contentReader) readData(ctx context.Context, p []byte, ext extent) (int, error) {
	info := c.ahead.contents.packs[ext.pack]
	place := info.frames[ext.frame].before + ext.offset + c.at
	frame := info.frameAt(ext.frame, place)
	if c.openRun != c.runs[0] || c.openFrame != frame {
		c.openRun = -1
		pack, err := c.ahead.get(ctx, c.runs[0])
		if err != nil {
			return 0, err
		}
		if c.plain, err = c.opener.open(info, pack.aead, pack.body, frame); err != nil {
			return 0, fmt.Errorf("open %s: %w", pack.key, err)
		}
		c.openRun, c.openFrame = c.runs[0], frame
	}
	return copy(p, c.plain[place-info.frames[frame].before:]), nil
}
