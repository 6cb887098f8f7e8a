package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ReapOptions say what a reap leaves.
type ReapOptions struct {
	// Keep is how many generations stay, HEAD's counted; at least 1.
	Keep int
	// Grace is how old, by the bucket's clock, something must be before it goes: for a generation the one that came after
	// it, for all else itself. It is the time that a reader has who opened a generation just before the next was
	// committed. 0: at once.
	Grace time.Duration
	// Now is the time that ages count to; zero is the machine's.
	Now time.Time
	// DryRun deletes nothing and reports what would go.
	DryRun bool
}

// ReapReport counts what a reap has deleted and what it has left.
type ReapReport struct {
	// Manifests and Packs are gone, or would be. Manifests are those of generations and of writers that never committed.
	Manifests Count
	Packs     Count
	// KeptManifests are those of the generations that stay, KeptPacks all that they name.
	KeptManifests Count
	KeptPacks     Count
	// YoungManifests and YoungPacks are needed by nobody, but younger than the grace period.
	YoungManifests Count
	YoungPacks     Count
	// OpenManifests and OpenPacks have a number above HEAD's: they belong to a writer that may still be at work.
	OpenManifests Count
	OpenPacks     Count
	// UnreadablePacks do not bear the header of a pack, so whose they are is not known. They stay.
	UnreadablePacks Count
}

// Reap deletes what no generation that stays needs: manifests that are out of retention or were never committed, and the
// packs that only they named. It may run beside readers, a writer and other reaps, and be stopped at any point.
//
// It deletes nothing where it cannot tell what is needed: without HEAD (an error that is ErrNotFound; see Rebuild and
// Remove), or where HEAD or the manifest of a generation that stays is damaged.
func (s *Store) Reap(ctx context.Context, target Target, opts ReapOptions) (ReapReport, error) {
	r := &reaper{store: s, target: target, opts: opts, needed: map[packID]bool{}, kept: map[string]bool{}}
	if r.opts.Now.IsZero() {
		r.opts.Now = time.Now()
	}
	if err := r.run(ctx); err != nil {
		return r.report, fmt.Errorf("reap %s: %w", target, err)
	}
	return r.report, nil
}

// reaper is one run. Why it takes nothing away that somebody needs:
//
// Let HEAD be at generation n when it is read. HEAD's number never falls, and only a writer that has seen it at n can
// move it to n+1. A manifest that goes has a number of at most n and is none of the chain's that stays. If it was never
// committed it can never be: its writer needs HEAD at its number less one. If it was, nobody finds it any more but
// readers that hold it open, for whom the grace period is.
//
// A pack that goes has a number of at most n and is named by no manifest that stays, so not by n's. A writer of n+1
// refers to packs that n names and to its own, which have the number n+1; so it does not refer to this one, whether it
// commits before the reap, in the middle or after. A writer of n+2 refers to packs that n+1 names, and so on. That is
// why it does not matter how old HEAD's reading is. What is in the bucket is listed before HEAD is read all the same:
// of a target that is removed in between and begun anew, at number 1, nothing is in that list.
//
// Manifests go before the packs that they name, the oldest first: stopped anywhere, what is left of the chain has no
// gaps and all its packs, and packs that nothing names are found again by the next reap. A lost reply is a delete done
// twice.
type reaper struct {
	store  *Store
	target Target
	opts   ReapOptions
	report ReapReport

	objects []object
	head    Head
	kept    map[string]bool // manifests
	needed  map[packID]bool
}

func (r *reaper) run(ctx context.Context) error {
	if r.opts.Keep < 1 {
		return fmt.Errorf("keep %d generations: want at least 1, HEAD's: %w", r.opts.Keep, ErrInvalid)
	}
	if r.opts.Grace < 0 {
		return fmt.Errorf("grace period of %s: want none below 0: %w", r.opts.Grace, ErrInvalid)
	}
	var err error
	if r.objects, err = r.store.inventory(ctx, r.target); err != nil {
		return err
	}
	r.head, err = r.store.Head(ctx, r.target)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrHeadCorrupt) {
		return fmt.Errorf("%w: without HEAD nothing says what is still needed: rebuild HEAD, or remove the target", err)
	}
	if err != nil {
		return err
	}
	if err := r.retain(ctx); err != nil {
		return err
	}
	manifests := r.chooseManifests()
	packs, err := r.choosePacks(ctx)
	if err != nil {
		return err
	}
	return r.delete(ctx, manifests, packs)
}

// retain finds out which manifests stay, and which packs they name.
func (r *reaper) retain(ctx context.Context) error {
	keys, err := r.store.keysOf(ctx, r.target)
	if err != nil {
		return err
	}
	modified := map[string]time.Time{}
	for _, obj := range r.objects {
		modified[obj.Key] = obj.Modified
	}
	after, place := "", 0 // after: the manifest that superseded the one at hand
	for link, err := range r.store.chain(ctx, r.target, keys, r.head) {
		// One that superseded it after the listing is not in it, and too young by that.
		if at, listed := modified[after]; place >= r.opts.Keep && listed && r.old(at) {
			return nil // it goes, and so do all that came before it
		}
		if errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("generation %d stays, but what it needs cannot be told, so nothing was deleted: bring its "+
				"manifest back from an older version of the object, or keep fewer generations: %w", link.named.number, err)
		}
		if err != nil {
			return err
		}
		after = r.target.manifestKey(link.named.number, link.named.epoch)
		r.kept[after] = true
		for _, pack := range link.contents.packs {
			r.needed[pack.id] = true
		}
		place++
	}
	return nil
}

// old says whether what was last changed at that time is out of the grace period.
func (r *reaper) old(modified time.Time) bool {
	return r.opts.Grace == 0 || r.opts.Now.Sub(modified) > r.opts.Grace
}

// chooseManifests returns the manifests that go, the oldest first.
func (r *reaper) chooseManifests() []object {
	var chosen []object
	for _, obj := range r.objects {
		switch {
		case obj.kind != kindManifest:
		case r.kept[obj.Key]:
			r.report.KeptManifests.add(obj.Size)
		case obj.number > r.head.Number:
			r.report.OpenManifests.add(obj.Size)
		case !r.old(obj.Modified):
			r.report.YoungManifests.add(obj.Size)
		default:
			chosen = append(chosen, obj)
		}
	}
	slices.SortFunc(chosen, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.epoch, b.epoch))
	})
	return chosen
}

// choosePacks returns the packs that go. It reads the headers of those alone that nothing names and that are old.
func (r *reaper) choosePacks(ctx context.Context) ([]object, error) {
	var candidates, chosen []object
	for _, obj := range r.objects {
		switch {
		case obj.kind != kindPack:
		case r.needed[obj.pack]:
			r.report.KeptPacks.add(obj.Size)
		case !r.old(obj.Modified):
			r.report.YoungPacks.add(obj.Size)
		default:
			candidates = append(candidates, obj)
		}
	}
	err := r.store.classify(ctx, r.target, candidates, func(obj object, header packHead, err error) {
		switch {
		case err != nil:
			r.report.UnreadablePacks.add(obj.Size)
		case header.number > r.head.Number:
			r.report.OpenPacks.add(obj.Size)
		default:
			chosen = append(chosen, obj)
		}
	})
	return chosen, err
}

func (r *reaper) delete(ctx context.Context, manifests, packs []object) error {
	for _, obj := range manifests {
		if !r.opts.DryRun {
			if err := r.store.deleteObject(ctx, obj.Key); err != nil {
				return err
			}
		}
		r.report.Manifests.add(obj.Size)
	}
	gone := func(i int) { r.report.Packs.add(packs[i].Size) }
	if r.opts.DryRun {
		for i := range packs {
			gone(i)
		}
		return nil
	}
	keys := make([]string, len(packs))
	for i, obj := range packs {
		keys[i] = obj.Key
	}
	return r.store.deleteAll(ctx, keys, gone)
}
