package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"
)

// GenerationInfo is what a manifest tells of its generation.
type GenerationInfo struct {
	Number int64
	Epoch  int64
	Meta   Meta
	// ManifestBytes is the size of the manifest object.
	ManifestBytes int64
	// Entries and ContentBytes count the files, and their sizes, holes included.
	Entries      int
	ContentBytes int64
	// Packs and PackBytes are those that a restore reads, OwnPacks and OwnPackBytes those of them that the generation's
	// own writer put.
	Packs        int
	PackBytes    int64
	OwnPacks     int
	OwnPackBytes int64
	// Blocks is how many its packs hold, LiveBlocks how many of them it refers to. LiveBytes is the share of PackBytes
	// that those take, each pack's size spread evenly over its blocks.
	Blocks     int64
	LiveBlocks int64
	LiveBytes  int64
}

// ReadAmplification is how much a restore reads of packs for each byte that it needs; 1 is the least.
func (g GenerationInfo) ReadAmplification() float64 { return amplification(g.PackBytes, g.LiveBytes) }

func amplification(read, live int64) float64 {
	if live == 0 {
		return 1
	}
	return float64(read) / float64(live)
}

// Generations describes the committed generations of a target, the newest first, as far back as there are manifests.
// It reads manifests alone. Empty where nothing is committed yet, ErrNotFound where there is no HEAD. Where a manifest
// is damaged it returns those before it together with the error.
func (s *Store) Generations(ctx context.Context, target Target) ([]GenerationInfo, error) {
	infos, err := s.generations(ctx, target)
	if err != nil {
		return infos, fmt.Errorf("describe generations of %s: %w", target, err)
	}
	return infos, nil
}

func (s *Store) generations(ctx context.Context, target Target) ([]GenerationInfo, error) {
	keys, err := s.keysOf(ctx, target)
	if err != nil {
		return nil, err
	}
	head, err := s.readHead(ctx, target, keys)
	if err != nil {
		return nil, err
	}
	var infos []GenerationInfo
	for link, err := range s.chain(ctx, target, keys, head) {
		if err != nil {
			return infos, err
		}
		object, err := s.bucket.Stat(ctx, target.manifestKey(link.named.number, link.named.epoch))
		if err != nil {
			return infos, err
		}
		info := link.contents.info()
		info.ManifestBytes = object.Size
		infos = append(infos, info)
	}
	return infos, nil
}

// link is a manifest of the chain that HEAD begins.
type link struct {
	named    parent
	contents *manifest
}

// chain yields the manifests from HEAD's back to the first that is not there any more. Only HEAD's own must be there. An
// error ends it; it comes with the name of the manifest.
func (s *Store) chain(ctx context.Context, target Target, keys *targetKeys, head Head) iter.Seq2[link, error] {
	return func(yield func(link, error) bool) {
		for named := head.parent(); named.number > 0; {
			contents, err := s.readManifest(ctx, target, keys, named)
			if errors.Is(err, ErrNotFound) {
				if named.number < head.Number {
					return
				}
				// Not %w: that HEAD's manifest is gone is damage, not the absence of a target.
				err = fmt.Errorf("%w: HEAD names it, and it is gone: %v", ErrManifestCorrupt, err)
			}
			if !yield(link{named, contents}, err) || err != nil {
				return
			}
			named = contents.parent
		}
	}
}

func (m *manifest) info() GenerationInfo {
	info := GenerationInfo{
		Number: m.meta.Number, Epoch: m.meta.Epoch, Meta: m.meta, Entries: len(m.records), Packs: len(m.packs),
	}
	for i := range m.records {
		info.ContentBytes += m.records[i].Size
	}
	live := m.live()
	for i, pack := range m.packs {
		info.PackBytes += pack.size
		info.Blocks += int64(pack.blocks)
		info.LiveBlocks += int64(live[i])
		info.LiveBytes += pack.share(live[i])
		if pack.number == m.meta.Number && pack.epoch == m.meta.Epoch {
			info.OwnPacks++
			info.OwnPackBytes += pack.size
		}
	}
	return info
}

// share is what n of the blocks take of the pack.
func (p *packInfo) share(n int) int64 { return p.size * int64(n) / int64(p.blocks) }

// live counts for each pack the blocks that are referred to.
func (m *manifest) live() []int {
	marks := make([][]uint64, len(m.packs))
	for i, pack := range m.packs {
		marks[i] = make([]uint64, (pack.blocks+63)/64)
	}
	for i := range m.records {
		for _, ext := range m.records[i].extents {
			if ext.pack == zeroPack {
				continue
			}
			for at := ext.at; at < ext.at+int(ext.blocks); at++ {
				marks[ext.pack][at/64] |= 1 << (at % 64)
			}
		}
	}
	counts := make([]int, len(m.packs))
	for i := range marks {
		for _, word := range marks[i] {
			counts[i] += bits.OnesCount64(word)
		}
	}
	return counts
}
