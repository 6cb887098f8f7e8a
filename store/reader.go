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

// Open reads and checks the manifest of a committed generation. ErrNotFound where HEAD has not come to that number,
// another generation has it, or one between it and HEAD has been reaped; ErrManifestCorrupt or ErrWrongKey where it does
// not open.
func (s *Store) Open(ctx context.Context, target Target, number, epoch int64) (*Reader, error) {
	r, err := s.open(ctx, target, number, epoch)
	if err != nil {
		return nil, fmt.Errorf("open generation %d of epoch %d: %w", number, epoch, err)
	}
	return r, nil
}

func (s *Store) open(ctx context.Context, target Target, number, epoch int64) (*Reader, error) {
	keys, err := s.keysOf(ctx, target)
	if err != nil {
		return nil, err
	}
	head, err := s.readHead(ctx, target, keys)
	if err != nil {
		return nil, err
	}
	if number < 1 || number > head.Number || number == head.Number && epoch != head.WrittenEpoch {
		return nil, fmt.Errorf("HEAD of %s is at generation %d of epoch %d: %w",
			target.Prefix(), head.Number, head.WrittenEpoch, ErrNotFound)
	}
	// HEAD names its manifest, and each manifest the one before: what is in this chain was committed, nothing else.
	for named := head.parent(); ; {
		contents, err := s.readManifest(ctx, target, keys, named)
		if err != nil {
			return nil, err
		}
		if named.number == number {
			return &Reader{store: s, target: target, keys: keys, contents: contents}, nil
		}
		if named = contents.parent; named.number < number || named.number == number && named.epoch != epoch {
			return nil, fmt.Errorf("generation %d was committed under another epoch, or never: %w", number, ErrNotFound)
		}
	}
}

// OpenKnown is Open for a generation that is known to have been committed, by who was told of the commit: no chain of
// manifests from HEAD is asked for, so one that is damaged since does not stand in its way.
func (s *Store) OpenKnown(ctx context.Context, target Target, number, epoch int64) (*Reader, error) {
	keys, err := s.keysOf(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("open generation %d of epoch %d: %w", number, epoch, err)
	}
	_, contents, err := s.readSealed(ctx, target, keys, number, epoch)
	if err != nil {
		return nil, fmt.Errorf("open generation %d of epoch %d: %w", number, epoch, err)
	}
	return &Reader{store: s, target: target, keys: keys, contents: contents}, nil
}

// readManifest reads the manifest that HEAD or a later manifest names.
func (s *Store) readManifest(ctx context.Context, target Target, keys *targetKeys, named parent) (*manifest, error) {
	key := target.manifestKey(named.number, named.epoch)
	sealed, contents, err := s.readSealed(ctx, target, keys, named.number, named.epoch)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(sealed) != named.manifest {
		return nil, fmt.Errorf("open %s: %w: not the one that was committed", key, ErrManifestCorrupt)
	}
	if contents.parent.number >= named.number {
		return nil, fmt.Errorf("open %s: %w: generation %d comes before it", key, ErrManifestCorrupt, contents.parent.number)
	}
	return contents, nil
}

// readSealed reads a manifest by its name, as it is in the bucket and opened.
func (s *Store) readSealed(ctx context.Context, target Target, keys *targetKeys, number, epoch int64) ([]byte, *manifest, error) {
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
	return sealed, contents, nil
}

// Meta returns what the writer said of the generation.
func (r *Reader) Meta() Meta { return r.contents.meta }

// StoredBytes is what the bucket took for the packs that the generation's own writer put; those it took over from
// generations before are not counted.
func (r *Reader) StoredBytes() int64 {
	var bytes int64
	for _, pack := range r.contents.packs {
		if pack.number == r.contents.meta.Number && pack.epoch == r.contents.meta.Epoch {
			bytes += pack.size
		}
	}
	return bytes
}

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

// Packs yields the objects that a fetch reads, in the order in which it does: keys and sizes. They never change.
func (r *Reader) Packs() iter.Seq[Info] {
	return func(yield func(Info) bool) {
		for _, pack := range r.contents.packs {
			if !yield(Info{Key: r.target.packKey(pack.id), Size: pack.size}) {
				return
			}
		}
	}
}

// Image returns the task whose pages the entry at path holds, and where they were; no task where it is no image.
func (r *Reader) Image(path string) (task string, runs []Run) {
	for i := range r.contents.records {
		if rec := &r.contents.records[i]; rec.Path == path {
			return rec.task, rec.runs
		}
	}
	return "", nil
}

const (
	// rangeSize is how much of a pack one GET asks for, so that a few packs use many connections.
	rangeSize = 4 << 20
	// rangesAtOnce bounds the GETs of one pack.
	rangesAtOnce = 4
)

// readPack reads a pack into buf, in ranges side by side.
func (r *Reader) readPack(ctx context.Context, pack *packInfo, buf []byte) ([]byte, error) {
	buf = buf[:pack.size]
	ranges := int((pack.size + rangeSize - 1) / rangeSize)
	err := inParallel(ctx, ranges, rangesAtOnce, func(ctx context.Context, i int) error {
		from := int64(i) * rangeSize
		return r.readRange(ctx, pack, from, buf[from:min(from+rangeSize, pack.size)])
	})
	return buf, err
}

// packReader is what one goroutine needs to read packs one after the other.
type packReader struct {
	*packOpener
	buf []byte
}

// eachPack calls fn for 0 to n-1 like inParallel, fetchers at a time, each with a packReader that has room for packs of
// size bytes.
func (r *Reader) eachPack(ctx context.Context, n int, size int64, fn func(context.Context, *packReader, int) error) error {
	idle := make(chan *packReader, fetchers)
	for range fetchers {
		idle <- nil
	}
	defer func() {
		for range fetchers {
			if p := <-idle; p != nil {
				p.close()
			}
		}
	}()
	return inParallel(ctx, n, fetchers, func(ctx context.Context, i int) error {
		p := <-idle
		defer func() { idle <- p }()
		if p == nil {
			opener, err := newPackOpener(r.keys)
			if err != nil {
				return err
			}
			p = &packReader{packOpener: opener, buf: make([]byte, size)}
		}
		return fn(ctx, p, i)
	})
}

// readRange fills buf from a pack, and tries again after failures in transit. What was read is not yet checked.
func (r *Reader) readRange(ctx context.Context, pack *packInfo, from int64, buf []byte) error {
	key := r.target.packKey(pack.id)
	var last error
	for range attempts {
		last = r.readRangeOnce(ctx, key, from, buf, from+int64(len(buf)) == pack.size)
		if errors.Is(last, ErrNotFound) {
			return fmt.Errorf("%w: %w", ErrPackMissing, last)
		}
		if last == nil || errors.Is(last, ErrPackCorrupt) || ctx.Err() != nil {
			break
		}
	}
	return last
}

// readRangeOnce asks for a byte more than it wants where the object ought to end: a longer one is not what was written.
func (r *Reader) readRangeOnce(ctx context.Context, key string, from int64, buf []byte, atEnd bool) error {
	length := int64(len(buf))
	if atEnd {
		length++
	}
	stream, err := r.store.bucket.Get(ctx, key, from, length)
	if err != nil {
		return err
	}
	defer stream.Close()
	n, err := io.ReadFull(stream, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read %s: it ends at %d of %d bytes: %w", key, from+int64(n), from+int64(len(buf)), ErrPackCorrupt)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if !atEnd {
		return nil
	}
	switch _, err := io.ReadFull(stream, make([]byte, 1)); {
	case err == nil:
		return fmt.Errorf("read %s: it goes on after its %d bytes: %w", key, from+int64(n), ErrPackCorrupt)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

// footer reads the index of pack i alone.
func (r *Reader) footer(ctx context.Context, i int) (*footer, error) {
	pack := r.contents.packs[i]
	tail := make([]byte, pack.footerSize())
	if err := r.readRange(ctx, pack, pack.size-int64(len(tail)), tail); err != nil {
		return nil, err
	}
	aead, err := pack.cipher(r.keys)
	if err != nil {
		return nil, err
	}
	footer, err := pack.openFooter(aead, r.keys.prefix, tail)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", r.target.packKey(pack.id), err)
	}
	return footer, nil
}
