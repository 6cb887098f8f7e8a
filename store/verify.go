package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
)

// VerifyOptions say how much of a generation is verified.
type VerifyOptions struct {
	// Sample is the share of the packs, above 0 and at most 1, that is read whole, chosen at random; of the others the
	// footer is. 0 means all.
	Sample float64
	// Progress is told the bytes of packs read so far, of how many; one call at a time. It may be nil.
	Progress func(done, total int64)
	// Checked, where several generations of a target are verified one after the other, spares packs that they share
	// the second reading.
	Checked *Checked
}

// Checked remembers packs that were read whole and found sound. The zero value is ready.
type Checked struct {
	mu    sync.Mutex
	packs map[packInfo]bool
}

func (c *Checked) has(info *packInfo) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packs[*info]
}

func (c *Checked) add(info *packInfo) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.packs == nil {
		c.packs = map[packInfo]bool{}
	}
	c.packs[*info] = true
}

// Fault is damage that was found.
type Fault struct {
	// Key is that of the object.
	Key string
	// Err is a kind of ErrCorrupt, or ErrPackMissing.
	Err error
}

// VerifyReport is what Verify has seen.
type VerifyReport struct {
	// Packs is how many the generation has, PacksRead how many of them were read whole, Blocks and Bytes what was in them.
	Packs     int
	PacksRead int
	Blocks    int64
	Bytes     int64
	// Faults are in the order of the packs; a pack has one at most.
	Faults []Fault
}

// Verify reads the packs of the generation as a restore would, and more: each is in the bucket with its size, its
// checksum and header are those that the manifest names, its footer and every frame open, and every block has the keyed
// hash that the footer has of it. It goes on after a fault and reports them all. An error means that it could not look:
// the report then tells of what was read before. Memory is bounded by 4 packs.
func (r *Reader) Verify(ctx context.Context, opts VerifyOptions) (VerifyReport, error) {
	v := &verifier{reader: r, opts: opts, whole: map[int]bool{}, faults: map[int]Fault{}}
	err := v.run(ctx)
	report := v.report
	for i := range r.contents.packs {
		if fault, found := v.faults[i]; found {
			report.Faults = append(report.Faults, fault)
		}
	}
	if err != nil {
		return report, fmt.Errorf("verify generation %d of %s: %w", r.contents.meta.Number, r.target, err)
	}
	return report, nil
}

type verifier struct {
	reader *Reader
	opts   VerifyOptions
	sizes  map[string]int64
	whole  map[int]bool // packs to be read whole
	// largest is the size of the largest of them.
	largest int64

	mu          sync.Mutex
	report      VerifyReport
	faults      map[int]Fault
	done, total int64
}

func (v *verifier) run(ctx context.Context) error {
	if v.opts.Sample < 0 || v.opts.Sample > 1 || math.IsNaN(v.opts.Sample) {
		return fmt.Errorf("sample %v: want a share between 0 and 1: %w", v.opts.Sample, ErrInvalid)
	}
	packs := v.reader.contents.packs
	v.report.Packs = len(packs)
	v.choose()
	var err error
	if v.sizes, err = v.reader.store.listPacks(ctx, v.reader.target); err != nil {
		return err
	}
	return v.reader.eachPack(ctx, len(packs), v.largest, v.pack)
}

// choose decides which packs are read whole.
func (v *verifier) choose() {
	packs := v.reader.contents.packs
	n := len(packs)
	if v.opts.Sample > 0 {
		n = int(math.Ceil(v.opts.Sample * float64(n)))
	}
	for _, i := range rand.Perm(len(packs))[:n] {
		if !v.opts.Checked.has(packs[i]) {
			v.whole[i] = true
			v.total += packs[i].size
			v.largest = max(v.largest, packs[i].size)
		}
	}
}

func (v *verifier) pack(ctx context.Context, packs *packReader, i int) error {
	info := v.reader.contents.packs[i]
	key := v.reader.target.packKey(info.id)
	err := v.look(ctx, packs, i, key)
	damaged := errors.Is(err, ErrCorrupt) || errors.Is(err, ErrPackMissing)
	if err != nil && !damaged {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if damaged {
		v.faults[i] = Fault{Key: key, Err: err}
	}
	if !v.whole[i] {
		return nil
	}
	v.report.PacksRead++
	if !damaged {
		v.report.Blocks += int64(info.blocks)
		v.report.Bytes += info.size
		v.opts.Checked.add(info)
	}
	v.done += info.size
	if v.opts.Progress != nil {
		v.opts.Progress(v.done, v.total)
	}
	return nil
}

// look returns the first fault of a pack.
func (v *verifier) look(ctx context.Context, packs *packReader, i int, key string) error {
	info := v.reader.contents.packs[i]
	size, there := v.sizes[key]
	switch {
	case !there:
		return fmt.Errorf("find %s: %w", key, ErrPackMissing)
	case size != info.size:
		return fmt.Errorf("find %s: %d bytes, want %d: %w", key, size, info.size, ErrPackCorrupt)
	case !v.whole[i]:
		_, err := v.reader.footer(ctx, i)
		return err
	}
	body, err := v.reader.readPack(ctx, info, packs.buf)
	if err != nil {
		return err
	}
	if err := packs.check(ctx, info, body); err != nil {
		return fmt.Errorf("open %s: %w", key, err)
	}
	return nil
}

// check opens every frame of a pack and compares every block with its hash.
func (o *packOpener) check(ctx context.Context, info *packInfo, body []byte) error {
	found, err := readPackInfo(body)
	if err != nil {
		return err
	}
	if *found != *info {
		return fmt.Errorf("%w: not the pack that the manifest names", ErrPackCorrupt)
	}
	pack, err := o.whole(info, body)
	if err != nil {
		return err
	}
	for at := 0; at < info.blocks; {
		if err := ctx.Err(); err != nil {
			return err
		}
		plain, err := pack.blocks(at, frameBlocks)
		if err != nil {
			return err
		}
		for block := range slices.Chunk(plain, BlockSize) {
			if hashBlock(block, o.keys.seed) != pack.hashes[at] {
				return fmt.Errorf("%w: block %d is not the one that the footer has a hash of", ErrPackCorrupt, at)
			}
			at++
		}
	}
	return nil
}
