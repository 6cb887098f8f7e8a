package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// RebuildOptions say how HEAD is rebuilt.
type RebuildOptions struct {
	// DryRun writes nothing and reports what HEAD would become.
	DryRun bool
}

// RebuildCandidate is a manifest that was looked at.
type RebuildCandidate struct {
	Number  int64
	Epoch   int64
	Created time.Time
	// Err is why it was passed over; nil for the chosen one.
	Err error
}

// RebuildReport is what Rebuild has found and done.
type RebuildReport struct {
	// Cause is what was wrong with HEAD.
	Cause error
	// Head is the new one, or what it would be.
	Head Head
	// Candidates are the manifests that were looked at, the newest first; the last is the chosen one.
	Candidates []RebuildCandidate
	// Unsure says that nothing proves that the chosen generation was ever committed: its writer may have died just before.
	// False where a later manifest names it as the one before.
	Unsure bool
}

// Rebuild makes a new HEAD where it is lost or damaged, or where the generation that it names is: the newest manifest,
// by number and epoch, whose packs are all there with their sizes and whose footers open. HEAD's epoch becomes one more
// than any that is seen in the bucket, so that every writer of before is fenced. ErrInvalid where HEAD and its
// generation are sound, ErrNotFound where there is no complete generation.
//
// A manifest that was put but never committed looks like a committed one. Such a generation is whole, but its source may
// have gone on after it; see RebuildReport.Unsure.
//
// The number of HEAD may fall, which it does nowhere else: no Reap of the target may run meanwhile.
func (s *Store) Rebuild(ctx context.Context, target Target, opts RebuildOptions) (RebuildReport, error) {
	b := &rebuilder{store: s, target: target}
	err := b.run(ctx, opts)
	if err != nil {
		return b.report, fmt.Errorf("rebuild HEAD of %s: %w", target, err)
	}
	return b.report, nil
}

type rebuilder struct {
	store  *Store
	target Target
	keys   *targetKeys
	report RebuildReport

	old       Head // as far as it can be told: the ETag at least, where there is one
	manifests []object
	packs     map[string]int64
	epoch     int64 // the greatest that was seen
}

func (b *rebuilder) run(ctx context.Context, opts RebuildOptions) error {
	var err error
	b.store.forget(b.target.Prefix()) // KEY itself must be there, or the new HEAD is of no use
	if b.keys, err = b.store.keysOf(ctx, b.target); err != nil {
		return err
	}
	// HEAD first: whoever changes it from now on makes the put fail.
	if err := b.readHead(ctx); err != nil {
		return err
	}
	if err := b.list(ctx); err != nil {
		return err
	}
	if b.report.Cause == nil {
		if err := b.checkHead(ctx); err != nil {
			return err
		}
	}
	next, err := b.choose(ctx)
	if err != nil {
		return err
	}
	b.report.Head = next
	if opts.DryRun {
		return nil
	}
	b.report.Head, err = b.store.swapHead(ctx, b.target, b.keys, b.old, next)
	return err
}

// readHead notes HEAD, or what is wrong with it.
func (b *rebuilder) readHead(ctx context.Context) error {
	there, err := b.store.bucket.Stat(ctx, b.target.headKey())
	if errors.Is(err, ErrNotFound) {
		b.report.Cause = err
		return nil
	}
	if err != nil {
		return err
	}
	head, err := b.store.headWithETag(ctx, b.target, b.keys)
	switch {
	case errors.Is(err, ErrHeadCorrupt):
		b.old, b.report.Cause = Head{etag: there.ETag}, err
	case err != nil:
		return err
	case head.Number == 0:
		return fmt.Errorf("nothing is committed yet, and HEAD says so: %w", ErrInvalid)
	default:
		b.old, b.epoch = head, head.Epoch
	}
	return nil
}

// list finds the manifests, the newest first, and the greatest epoch of them and of packs.
func (b *rebuilder) list(ctx context.Context) error {
	objects, err := b.store.inventory(ctx, b.target)
	if err != nil {
		return err
	}
	var packs []object
	b.packs = map[string]int64{}
	for _, obj := range objects {
		switch obj.kind {
		case kindManifest:
			b.manifests = append(b.manifests, obj)
			b.epoch = max(b.epoch, obj.epoch)
		case kindPack:
			packs = append(packs, obj)
			b.packs[obj.Key] = obj.Size
		}
	}
	slices.SortFunc(b.manifests, func(x, y object) int {
		return cmp.Or(cmp.Compare(y.number, x.number), cmp.Compare(y.epoch, x.epoch))
	})
	return b.store.classify(ctx, b.target, packs, func(_ object, header packHead, err error) {
		if err == nil {
			b.epoch = max(b.epoch, header.epoch)
		}
	})
}

// checkHead refuses to replace a HEAD whose generation is there.
func (b *rebuilder) checkHead(ctx context.Context) error {
	contents, err := b.store.readManifest(ctx, b.target, b.keys, b.old.parent())
	if err == nil {
		err = b.complete(ctx, contents)
	}
	if err == nil {
		return fmt.Errorf("HEAD and generation %d, which it names, are sound: nothing to rebuild: %w", b.old.Number, ErrInvalid)
	}
	if !damage(err) {
		return err
	}
	b.report.Cause = err
	return nil
}

// damage tells what is wrong with objects from not having been able to look.
func damage(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrPackMissing) || errors.Is(err, ErrNotFound)
}

// choose returns what HEAD becomes.
func (b *rebuilder) choose(ctx context.Context) (Head, error) {
	parents := map[parent]bool{}
	for _, obj := range b.manifests {
		candidate := RebuildCandidate{Number: obj.number, Epoch: obj.epoch}
		sum, contents, err := b.open(ctx, obj)
		if contents != nil {
			candidate.Created = contents.meta.Created
			parents[contents.parent] = true
		}
		if err == nil {
			err = b.complete(ctx, contents)
		}
		if err != nil && !damage(err) {
			return Head{}, err
		}
		candidate.Err = err
		b.report.Candidates = append(b.report.Candidates, candidate)
		if err == nil {
			next := Head{Number: obj.number, Epoch: b.epoch + 1, WrittenEpoch: obj.epoch, Manifest: sum}
			b.report.Unsure = !parents[next.parent()]
			return next, nil
		}
	}
	return Head{}, fmt.Errorf("no complete generation among %d manifests: bring objects back from older versions of them, "+
		"or remove the target: %w", len(b.manifests), ErrNotFound)
}

func (b *rebuilder) open(ctx context.Context, obj object) (sum [sha256.Size]byte, contents *manifest, err error) {
	sealed, err := readObject(ctx, b.store.bucket, obj.Key, maxManifestSealed, nil)
	if err != nil {
		return sum, nil, err
	}
	contents, err = openManifest(b.keys, obj.number, obj.epoch, sealed)
	if err != nil {
		return sum, nil, fmt.Errorf("open %s: %w", obj.Key, err)
	}
	if contents.parent.number >= obj.number {
		return sum, nil, fmt.Errorf("open %s: %w: generation %d comes before it", obj.Key, ErrManifestCorrupt, contents.parent.number)
	}
	return sha256.Sum256(sealed), contents, nil
}

// complete returns what a generation lacks.
func (b *rebuilder) complete(ctx context.Context, contents *manifest) error {
	for _, pack := range contents.packs {
		key := b.target.packKey(pack.id)
		size, there := b.packs[key]
		if !there {
			return fmt.Errorf("find %s: %w", key, ErrPackMissing)
		}
		if size != pack.size {
			return fmt.Errorf("find %s: %d bytes, want %d: %w", key, size, pack.size, ErrPackCorrupt)
		}
	}
	r := &Reader{store: b.store, target: b.target, keys: b.keys, contents: contents}
	return inParallel(ctx, len(contents.packs), footersAtOnce, func(ctx context.Context, i int) error {
		_, err := r.footer(ctx, i)
		return err
	})
}
