package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Count is a number of objects and their sizes together.
type Count struct {
	Objects int
	Bytes   int64
}

func (c *Count) add(bytes int64) {
	c.Objects++
	c.Bytes += bytes
}

// Usage is what a target takes in the bucket, by kind of object.
type Usage struct {
	Head Count
	Key  Count
	// Manifests are those of committed generations, Orphans those of writers that did not commit, or not yet.
	Manifests Count
	Orphans   Count
	// LivePacks are named by a committed generation, OpenPacks belong to a writer that may still be at work, DeadPacks
	// are needed by nobody.
	LivePacks Count
	OpenPacks Count
	DeadPacks Count
	// Unclassified are manifests and packs of which could not be told what they are: there was no master key, or a pack
	// does not bear the header of one.
	Unclassified Count
	// Foreign are objects that are none of the store's.
	Foreign Count
	// RestoreBytes is what a restore of the newest generation reads of packs, LiveBytes how much of that it needs.
	RestoreBytes int64
	LiveBytes    int64
}

// Total is the sum of all kinds.
func (u Usage) Total() Count {
	var total Count
	for _, c := range []Count{
		u.Head, u.Key, u.Manifests, u.Orphans, u.LivePacks, u.OpenPacks, u.DeadPacks, u.Unclassified, u.Foreign,
	} {
		total.Objects += c.Objects
		total.Bytes += c.Bytes
	}
	return total
}

// ReadAmplification is how much a restore reads of packs for each byte that it needs; 1 is the least.
func (u Usage) ReadAmplification() float64 { return amplification(u.RestoreBytes, u.LiveBytes) }

// Usage counts what a target takes. A Store without master keys cannot tell live from dead, and says Unclassified.
func (s *Store) Usage(ctx context.Context, target Target) (Usage, error) {
	usage, err := s.usage(ctx, target)
	if err != nil {
		return usage, fmt.Errorf("count usage of %s: %w", target, err)
	}
	return usage, nil
}

func (s *Store) usage(ctx context.Context, target Target) (Usage, error) {
	objects, err := s.inventory(ctx, target)
	if err != nil {
		return Usage{}, err
	}
	var usage Usage
	var head Head
	manifests, packs := map[string]bool{}, map[packID]bool{}
	if len(s.keys) > 0 {
		if head, err = s.Head(ctx, target); err != nil && !errors.Is(err, ErrNotFound) {
			return Usage{}, err
		}
	}
	if head.Number > 0 {
		if err := s.nameAll(ctx, target, head, &usage, manifests, packs); err != nil {
			return Usage{}, err
		}
	}
	var unnamed []object
	for _, obj := range objects {
		count := &usage.Foreign
		switch {
		case obj.kind == kindHead:
			count = &usage.Head
		case obj.kind == kindKey:
			count = &usage.Key
		case obj.kind != kindForeign && len(s.keys) == 0:
			count = &usage.Unclassified
		case obj.kind == kindManifest && manifests[obj.Key]:
			count = &usage.Manifests
		case obj.kind == kindManifest:
			count = &usage.Orphans
		case obj.kind == kindPack && packs[obj.pack]:
			count = &usage.LivePacks
		case obj.kind == kindPack:
			unnamed = append(unnamed, obj)
			continue
		}
		count.add(obj.Size)
	}
	return usage, s.classify(ctx, target, unnamed, func(obj object, h packHead, err error) {
		switch {
		case err != nil:
			usage.Unclassified.add(obj.Size)
		case h.number > head.Number:
			usage.OpenPacks.add(obj.Size)
		default:
			usage.DeadPacks.add(obj.Size)
		}
	})
}

// nameAll collects what committed generations name.
func (s *Store) nameAll(ctx context.Context, target Target, head Head, usage *Usage, manifests map[string]bool,
	packs map[packID]bool) error {
	keys, err := s.keysOf(ctx, target)
	if err != nil {
		return err
	}
	for link, err := range s.chain(ctx, target, keys, head) {
		if err != nil {
			return err
		}
		if link.named.number == head.Number {
			info := link.contents.info()
			usage.RestoreBytes, usage.LiveBytes = info.PackBytes, info.LiveBytes
		}
		manifests[target.manifestKey(link.named.number, link.named.epoch)] = true
		for _, pack := range link.contents.packs {
			packs[pack.id] = true
		}
	}
	return nil
}

// packHead is what the first bytes of a pack say: which generation's writer put it.
type packHead struct{ number, epoch int64 }

// classify reads the header of each pack, and calls fn with it or with ErrPackCorrupt, one call at a time. Packs that
// are gone by then are passed over.
func (s *Store) classify(ctx context.Context, target Target, packs []object, fn func(object, packHead, error)) error {
	var mu sync.Mutex
	return inParallel(ctx, len(packs), footersAtOnce, func(ctx context.Context, i int) error {
		header, err := s.readPackHead(ctx, target, packs[i].pack)
		if errors.Is(err, ErrPackMissing) {
			return nil
		}
		if err != nil && !errors.Is(err, ErrPackCorrupt) {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		fn(packs[i], header, err)
		return nil
	})
}

// readPackHead reads the first bytes of a pack alone. They are not authenticated.
func (s *Store) readPackHead(ctx context.Context, target Target, id packID) (packHead, error) {
	r := &Reader{store: s, target: target}
	header := make([]byte, packHeader)
	if err := r.readRange(ctx, &packInfo{id: id}, 0, header); err != nil {
		return packHead{}, err
	}
	h := packHead{
		number: int64(binary.LittleEndian.Uint64(header[24:])), epoch: int64(binary.LittleEndian.Uint64(header[32:])),
	}
	if string(header[:4]) != packMagic || packID(header[8:24]) != id || h.number < 1 || h.epoch < 0 ||
		binary.LittleEndian.Uint16(header[4:]) != formatVersion {
		return packHead{}, fmt.Errorf("read %s: %w: no header of this pack", target.packKey(id), ErrPackCorrupt)
	}
	return h, nil
}
