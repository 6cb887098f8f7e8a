package store

import (
	"context"
	"fmt"
)

// Base is a committed generation as the next Writer needs it: what content each place has, and the hashes of it. It takes
// 24 bytes for each block of the generation. It never changes.
type Base struct {
	head   Head
	packs  livePacks
	next   blockID
	tables map[stream]*table
}

// Head is that of the generation.
func (b *Base) Head() Head { return b.head }

// footersAtOnce is how many footers of packs are read at a time.
const footersAtOnce = 8

// Base reads what the newest committed generation offers to the next Writer: its manifest, and the footer of each pack.
// ErrNotFound where there is none.
func (s *Store) Base(ctx context.Context, target Target) (*Base, error) {
	base, err := s.base(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("read base of %s: %w", target.Prefix(), err)
	}
	return base, nil
}

func (s *Store) base(ctx context.Context, target Target) (*Base, error) {
	head, err := s.Head(ctx, target)
	if err != nil {
		return nil, err
	}
	if head.Number == 0 {
		return nil, fmt.Errorf("nothing is committed yet: %w", ErrNotFound)
	}
	r, err := s.Open(ctx, target, head.Number, head.WrittenEpoch)
	if err != nil {
		return nil, err
	}
	base := &Base{head: head, next: firstBlock, tables: map[stream]*table{}}
	for _, info := range r.contents.packs {
		base.packs = append(base.packs, &livePack{packInfo: info, first: base.next})
		base.next += blockID(info.blocks)
	}
	err = inParallel(ctx, len(base.packs), footersAtOnce, func(ctx context.Context, i int) error {
		footer, err := r.footer(ctx, i)
		if err == nil {
			base.packs[i].hashes = footer.hashes
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range r.contents.records {
		base.place(&r.contents.records[i])
	}
	return base, nil
}

// place fills the table of a record's stream from its extents. Holes of files are left out: there, no content is zeros.
func (b *Base) place(rec *record) {
	s, runs := rec.places()
	if len(runs) == 0 {
		return
	}
	t := newTable()
	for _, span := range rec.spans(runs) {
		switch {
		case span.pack != zeroPack:
			first := b.packs[span.pack].first + blockID(span.at)
			for i := range uint64(span.blocks) {
				t.set(nil, span.place+i, first+blockID(i))
			}
		case !s.file:
			for i := range uint64(span.blocks) {
				t.set(nil, span.place+i, blockZero)
			}
		}
	}
	b.tables[s] = t
}

// take takes a Writer's table over.
func (b *Base) take(tables map[stream]*table, s stream, runs []Run) {
	t := tables[s]
	t.trim(runs)
	b.tables[s] = t
}
