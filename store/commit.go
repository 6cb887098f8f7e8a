package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
)

// statsAtOnce is how many packs are looked up at a time before a commit.
const statsAtOnce = 8

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
	frameErr := w.closeFrame()
	if w.pack != nil {
		w.closePack()
	}
	w.finishUploads()
	if err := errors.Join(frameErr, w.failure.get(), ctx.Err()); err != nil {
		return Generation{}, err
	}
	if err := inParallel(ctx, len(w.contents.packs), statsAtOnce, w.findPack); err != nil {
		return Generation{}, err
	}
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
	if _, err := w.store.swapHead(ctx, w.target, w.keys, w.base, head); err != nil {
		return Generation{}, err
	}
	if err := w.readBack(ctx, head, sealed); err != nil {
		return Generation{}, fmt.Errorf("read back: %w", err)
	}
	gen := Generation{
		Number: meta.Number, Epoch: meta.Epoch, StoredBytes: int64(len(sealed)), Puts: len(w.contents.packs) + 2,
	}
	for _, pack := range w.contents.packs {
		gen.StoredBytes += pack.size
	}
	return gen, nil
}

func (w *Writer) findPack(ctx context.Context, i int) error {
	pack := w.contents.packs[i]
	key := w.target.packKey(pack.id)
	info, err := w.store.bucket.Stat(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrPackMissing, err)
	}
	if err != nil {
		return err
	}
	if info.Size != pack.size {
		return fmt.Errorf("stat %s: %d bytes, want %d: %w", key, info.Size, pack.size, ErrPackCorrupt)
	}
	return nil
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
