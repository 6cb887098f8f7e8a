package store

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
)

// PageSource reads single pages of a generation, for a restore that begins before all of them are there. Its index is in
// memory: 16 bytes for each frame of the packs, and 40 for each run of pages that lie together. Its methods may be called
// concurrently.
type PageSource struct {
	reader  *Reader
	footers []*footer
	tasks   map[string][]span

	mu      sync.Mutex
	opener  *packOpener
	plain   []byte // of the frame read last
	current frameKey
}

type frameKey struct{ pack, frame int }

// span is a run of pages at consecutive addresses whose content lies together.
type span struct {
	place uint64
	extent
}

// Pages reads the index of all pages. It takes one small GET a pack.
func (r *Reader) Pages(ctx context.Context) (*PageSource, error) {
	opener, err := newPackOpener(r.keys)
	if err != nil {
		return nil, err
	}
	p := &PageSource{
		reader: r, opener: opener, footers: make([]*footer, len(r.contents.packs)), tasks: map[string][]span{},
		current: frameKey{pack: -1},
	}
	err = inParallel(ctx, len(p.footers), footersAtOnce, func(ctx context.Context, i int) error {
		footer, err := r.footer(ctx, i)
		if err == nil {
			footer.hashes = nil
			p.footers[i] = footer
		}
		return err
	})
	if err != nil {
		opener.close()
		return nil, fmt.Errorf("index pages: %w", err)
	}
	for i := range r.contents.records {
		if rec := &r.contents.records[i]; rec.task != "" {
			p.tasks[rec.task] = rec.spans(rec.runs)
		}
	}
	return p, nil
}

// spans cuts runs and extents where either ends.
func (rec *record) spans(runs []Run) []span {
	var spans []span
	extents := slices.Clone(rec.extents)
	for _, run := range runs {
		place, pages := run.Address/BlockSize, run.Pages
		for pages > 0 {
			s := span{place: place, extent: extents[0]}
			s.blocks = min(pages, s.blocks)
			spans = append(spans, s)
			place, pages = place+uint64(s.blocks), pages-s.blocks
			if extents[0].at += int(s.blocks); extents[0].blocks == s.blocks {
				extents = extents[1:]
			} else {
				extents[0].blocks -= s.blocks
			}
		}
	}
	return spans
}

// Close frees what it holds.
func (p *PageSource) Close() { p.opener.close() }

// ReadPage reads the page of task at address into page, which has BlockSize bytes. ErrNotFound where the generation has
// none there.
func (p *PageSource) ReadPage(ctx context.Context, task string, address uint64, page []byte) error {
	if len(page) != BlockSize || address%BlockSize != 0 {
		return fmt.Errorf("read page at %#x into %d bytes: want multiples of %d: %w", address, len(page), BlockSize, ErrInvalid)
	}
	place, spans := address/BlockSize, p.tasks[task]
	i := sort.Search(len(spans), func(i int) bool { return spans[i].place+uint64(spans[i].blocks) > place })
	if i == len(spans) || place < spans[i].place {
		return fmt.Errorf("read page %#x of task %q: %w", address, task, ErrNotFound)
	}
	s := spans[i]
	if s.pack == zeroPack {
		clear(page)
		return nil
	}
	if err := p.read(ctx, s.pack, s.at+int(place-s.place), page); err != nil {
		return fmt.Errorf("read page %#x of task %q: %w", address, task, err)
	}
	return nil
}

func (p *PageSource) read(ctx context.Context, pack, block int, page []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := frameKey{pack: pack, frame: block / frameBlocks}
	if key != p.current {
		if err := p.load(ctx, key); err != nil {
			return err
		}
	}
	copy(page, p.plain[block%frameBlocks*BlockSize:])
	return nil
}

// load reads one frame; neighbours are likely to be asked for next.
func (p *PageSource) load(ctx context.Context, key frameKey) error {
	p.current = frameKey{pack: -1}
	info, frame := p.reader.contents.packs[key.pack], p.footers[key.pack].frames[key.frame]
	sealed := make([]byte, frame.stored)
	if err := p.reader.readRange(ctx, info, int64(frame.at), sealed); err != nil {
		return err
	}
	aead, err := info.cipher(p.reader.keys)
	if err != nil {
		return err
	}
	plain, err := p.opener.open(info, aead, frame.codec, key.frame, sealed)
	if err != nil {
		return fmt.Errorf("open %s: %w", p.reader.target.packKey(info.id), err)
	}
	p.plain, p.current = append(p.plain[:0], plain...), key
	return nil
}
