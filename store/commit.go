package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Generation is what a commit made durable.
type Generation struct {
	Number int64
	Epoch  int64
	// StoredBytes is what the bucket took for it: its own packs, manifest, HEAD, and KEY where it was new.
	StoredBytes int64
	// Puts counts the objects written; retries are not counted.
	Puts int
	// Blocks is how many the generation has, NewBlocks how many of them, or of such that are there no more, were stored.
	Blocks    int64
	NewBlocks int64
	// Took says where the time of the commit went.
	Took CommitTook
}

// CommitTook are the parts of a commit: Packs until all packs were in the bucket and found there, Manifest until HEAD named
// the manifest, ReadBack until both were read back.
type CommitTook struct{ Packs, Manifest, ReadBack time.Duration }

// Commit makes the generation durable: it waits for the packs and finds each in the bucket with its size, puts the
// manifest, moves HEAD, and reads both back. ErrFenced where another writer has taken the number or a newer epoch has
// come; ErrPackMissing where the bucket has lost a pack. After an error other than ErrFenced the generation may still
// turn out to be committed, when the bucket's last answer was lost: Head tells. Either way the Writer has ended.
func (w *Writer) Commit(ctx context.Context) (Generation, error) {
	meta := w.contents.meta
	gen, err := w.commit(ctx)
	if err != nil {
		return Generation{}, fmt.Errorf("commit generation %d of %s: %w", meta.Number, w.target.Prefix(), err)
	}
	return gen, nil
}

func (w *Writer) commit(ctx context.Context) (Generation, error) {
	if w.closed {
		return Generation{}, fmt.Errorf("the writer has ended: %w", ErrInvalid)
	}
	began := time.Now()
	defer context.AfterFunc(ctx, w.packer.stop)() // uploads run under the ctx of Begin, which may live on
	if err := errors.Join(w.end(), ctx.Err()); err != nil {
		return Generation{}, err
	}
	live := w.resolve()
	if err := w.findPacks(ctx); err != nil {
		return Generation{}, err
	}
	found := time.Now()
	sealed, err := w.contents.seal(w.keys)
	if err != nil {
		return Generation{}, err
	}
	w.published = true
	if err := w.putManifest(ctx, sealed); err != nil {
		return Generation{}, err
	}
	meta := w.contents.meta
	head := Head{Number: meta.Number, Epoch: meta.Epoch, WrittenEpoch: meta.Epoch, Manifest: sha256.Sum256(sealed)}
	head, err = w.store.swapHead(ctx, w.target, w.keys, w.base, head)
	if err != nil {
		return Generation{}, err
	}
	moved := time.Now()
	if err := w.readBack(ctx, head, sealed); err != nil {
		return Generation{}, fmt.Errorf("read back: %w", err)
	}
	gen := w.generation(len(sealed))
	gen.Took = CommitTook{Packs: found.Sub(began), Manifest: moved.Sub(found), ReadBack: time.Since(moved)}
	w.keepBase(head, live)
	return gen, nil
}

func (w *Writer) generation(manifest int) Generation {
	meta := w.contents.meta
	gen := Generation{
		Number: meta.Number, Epoch: meta.Epoch,
		StoredBytes: int64(manifest + headSize + w.made*keySize), Puts: len(w.packer.packs) + 2 + w.made,
		NewBlocks: int64(len(w.hashes)),
	}
	for _, pack := range w.packer.packs {
		gen.StoredBytes += pack.size
	}
	for _, rec := range w.contents.records {
		gen.Blocks += blocksOf(rec.Size)
	}
	return gen
}

// resolve writes down where the content of every record lies, and returns the packs that hold it. Packs of which nothing
// is referred to any more are left out.
func (w *Writer) resolve() livePacks {
	all := append(w.packs[:len(w.packs):len(w.packs)], w.packer.packs...)
	index, packs := make([]int, len(all)), livePacks(nil)
	for i := range index {
		index[i] = zeroPack
	}
	hint := -1
	locate := func(id blockID) extent {
		if id == blockZero || id == blockAbsent { // the hole of a file: AddImage takes no page that is absent
			return extent{pack: zeroPack, blocks: 1}
		}
		hint = all.find(id, hint)
		if index[hint] == zeroPack {
			index[hint] = len(packs)
			packs = append(packs, all[hint])
		}
		return extent{pack: index[hint], at: int(id - all[hint].first), blocks: 1}
	}
	for i := range w.contents.records {
		w.contents.records[i].resolve(w.tableOf, locate)
	}
	w.contents.packs = nil
	for _, pack := range packs {
		w.contents.packs = append(w.contents.packs, pack.packInfo)
	}
	slices.SortFunc(packs, func(a, b *livePack) int { return cmp.Compare(a.first, b.first) })
	return packs
}

// resolve fills in the extents of a record.
func (rec *record) resolve(tableOf func(stream) *table, locate func(blockID) extent) {
	s, runs := rec.places()
	if len(runs) == 0 {
		return
	}
	t := tableOf(s)
	rec.extents = nil
	for _, run := range runs {
		first := run.Address / BlockSize
		end := first + uint64(run.Pages)
		for place := first; place < end; {
			next := locate(t.get(place))
			if hole := t.holeAt(place); hole > 1 {
				next.blocks = int64(min(hole, end-place))
			}
			place += uint64(next.blocks)
			if n := len(rec.extents); n > 0 && rec.extents[n-1].continuedBy(next) {
				rec.extents[n-1].blocks += next.blocks
			} else {
				rec.extents = append(rec.extents, next)
			}
		}
	}
}

func (ext extent) continuedBy(next extent) bool {
	return ext.pack == next.pack && (ext.pack == zeroPack || ext.at+int(ext.blocks) == next.at)
}

// keepBase keeps what the next Writer needs.
func (w *Writer) keepBase(head Head, packs livePacks) {
	for _, pack := range w.packer.packs {
		from := int(pack.first - w.first)
		pack.hashes = slices.Clone(w.hashes[from : from+pack.blocks])
	}
	base := &Base{head: head, packs: packs, next: w.first + blockID(len(w.hashes)), tables: map[stream]*table{}}
	for i := range w.contents.records {
		if s, runs := w.contents.records[i].places(); len(runs) > 0 {
			base.take(w.tables, s, runs)
		}
	}
	w.after, w.before, w.tables, w.hashes = base, nil, nil, nil
}

// Base is what the generation just committed offers to the next Writer. Nil before Commit has succeeded.
func (w *Writer) Base() *Base { return w.after }

// findPacks finds every pack that the manifest is about to name in the bucket, with its size: those of generations before
// too, which something else may have deleted.
func (w *Writer) findPacks(ctx context.Context) error {
	sizes, err := w.store.listPacks(ctx, w.target)
	if err != nil {
		return err
	}
	for _, pack := range w.contents.packs {
		key := w.target.packKey(pack.id)
		size, there := sizes[key]
		if !there {
			return fmt.Errorf("find %s: %w", key, ErrPackMissing)
		}
		if size != pack.size {
			return fmt.Errorf("find %s: %d bytes, want %d: %w", key, size, pack.size, ErrPackCorrupt)
		}
	}
	return nil
}

// listPacks returns the sizes of a target's packs by key.
func (s *Store) listPacks(ctx context.Context, target Target) (map[string]int64, error) {
	var last error
	for range attempts {
		sizes := map[string]int64{}
		last = nil
		for info, err := range s.bucket.List(ctx, target.packsPrefix()) {
			if err != nil {
				last = fmt.Errorf("list packs: %w", err)
				break
			}
			sizes[info.Key] = info.Size
		}
		if last == nil {
			return sizes, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// putManifest puts the manifest where there is none. One that is there already is our own first try (then all is well),
// or the orphan that Begin found, or that of a writer that got here first.
func (w *Writer) putManifest(ctx context.Context, sealed []byte) error {
	meta := w.contents.meta
	key := w.target.manifestKey(meta.Number, meta.Epoch)
	cond := Condition{IfAbsent: w.orphan == "", IfMatch: w.orphan}
	var last error
	for range attempts {
		_, err := w.store.bucket.Put(ctx, key, sealed, cond)
		if err == nil {
			return nil
		}
		last = err
		if ctx.Err() != nil {
			return err
		}
		there, err := readObject(ctx, w.store.bucket, key, maxManifestSealed, nil)
		switch {
		case err == nil && bytes.Equal(there, sealed):
			return nil
		case !errors.Is(last, ErrPrecondition):
			continue
		case w.orphan == "":
			return fmt.Errorf("put %s: another writer was first: %w", key, ErrFenced)
		}
		if cond, err = w.replaceable(ctx, key); err != nil {
			return err
		}
	}
	return last
}

// replaceable returns the condition under which a manifest may be replaced that is neither ours nor the orphan that
// Begin found. The order matters: the manifest's ETag first, HEAD after it. Whoever could have committed that manifest
// must have moved HEAD before, so while HEAD is still the one that Begin wrote, nobody has and nobody can.
func (w *Writer) replaceable(ctx context.Context, key string) (Condition, error) {
	manifest, err := w.store.bucket.Stat(ctx, key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Condition{}, err
	}
	head, err := w.store.bucket.Stat(ctx, w.target.headKey())
	if err != nil {
		return Condition{}, err
	}
	if head.ETag != w.base.etag {
		return Condition{}, fmt.Errorf("put %s: HEAD has moved: %w", key, ErrFenced)
	}
	return Condition{IfAbsent: manifest.ETag == "", IfMatch: manifest.ETag}, nil
}

// readBack reads HEAD and manifest as a restore would. HEAD may have moved on, that does not undo the commit.
func (w *Writer) readBack(ctx context.Context, want Head, sealed []byte) error {
	head, err := w.store.readHead(ctx, w.target, w.keys)
	if err != nil {
		return err
	}
	if head.Number < want.Number || head.Number == want.Number && !head.sameGeneration(want) {
		return fmt.Errorf("%w: it shows generation %d, epoch %d", ErrHeadCorrupt, head.Number, head.WrittenEpoch)
	}
	key := w.target.manifestKey(want.Number, want.WrittenEpoch)
	there, err := readObject(ctx, w.store.bucket, key, maxManifestSealed, nil)
	if err != nil {
		return err
	}
	if !bytes.Equal(there, sealed) {
		return fmt.Errorf("read %s: %w", key, ErrManifestCorrupt)
	}
	return nil
}
