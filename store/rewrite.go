package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
)

// RewriteOptions say when content is moved out of a pack.
type RewriteOptions struct {
	// MinLive is the share of its blocks that a pack must have live to be left alone; 0 means 0.5.
	MinLive float64
	// MaxRead is how many bytes of packs a restore may read for each live one before more packs are given up, the
	// sparsest first; 0 means 1.25.
	MaxRead float64
}

func (o *RewriteOptions) complete() error {
	o.MinLive, o.MaxRead = cmp.Or(o.MinLive, 0.5), cmp.Or(o.MaxRead, 1.25)
	if !(o.MinLive > 0 && o.MinLive <= 1) || !(o.MaxRead >= 1) {
		return fmt.Errorf("rewrite below %v live, or above %v: want a share of at most 1, and at least 1: %w",
			o.MinLive, o.MaxRead, ErrInvalid)
	}
	return nil
}

// RewriteReport is what a rewrite has moved.
type RewriteReport struct {
	// Packs is how many were given up, ReadBytes their size, Blocks how many were moved out of them.
	Packs     int
	ReadBytes int64
	Blocks    int64
	// RestoreBytes is what a restore would have read of packs without the rewrite, RewrittenBytes what it reads now, and
	// LiveBytes how much of that it needs. What this Writer has added itself is counted at the size that the base's blocks
	// have on average.
	RestoreBytes   int64
	RewrittenBytes int64
	LiveBytes      int64
}

// Rewrite moves live content out of the base's packs that hold little of it: of packs that are below MinLive, and, while
// a restore would still read more than MaxRead times the live bytes, of the sparsest ones. The blocks go into packs of this
// Writer, which is where their bytes count; the old packs are free to be reaped once the base is. Without a base there is
// nothing to do.
//
// Called after the last entry, before Commit, it takes for live what the entries refer to. Called before the first entry,
// between two rounds of pre-dump, it takes for live all that the base and AddPages have anywhere. Where a pack cannot be read
// the Writer stays usable and refers to it as before. Beside 16 bytes for each block that is moved, memory is bounded by one
// pack.
func (w *Writer) Rewrite(ctx context.Context, opts RewriteOptions) (RewriteReport, error) {
	if err := opts.complete(); err != nil {
		return RewriteReport{}, err
	}
	plan, err := w.planRewrite(opts)
	if err == nil && len(plan.packs) > 0 {
		err = plan.run(ctx)
	}
	if err != nil {
		return plan.report, fmt.Errorf("rewrite packs of %s: %w", w.target, err)
	}
	return plan.report, nil
}

// rewrite is a plan of what is moved.
type rewrite struct {
	writer  *Writer
	streams []stream
	packs   []int     // of the Writer's, those that are given up
	moves   [][]place // by pack, in the order of its blocks
	report  RewriteReport
}

// place is where a block of a pack is needed.
type place struct {
	at     uint64 // in the stream
	stream int32
	block  int32 // of the pack
}

func (w *Writer) planRewrite(opts RewriteOptions) (*rewrite, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &rewrite{writer: w}
	if w.closed {
		return r, fmt.Errorf("the writer has ended: %w", ErrInvalid)
	}
	live, own, hint := make([]int, len(w.packs)), 0, -1
	w.eachLive(func(_ stream, _ uint64, id blockID) {
		if id >= w.first {
			own++
		} else if hint = w.packs.find(id, hint); hint >= 0 {
			live[hint]++
		}
	})
	r.choose(opts, live, own)
	chosen := make([]int, len(w.packs)) // place in r.packs, from 1
	for i, pack := range r.packs {
		chosen[pack] = i + 1
		r.moves = append(r.moves, make([]place, 0, live[pack]))
	}
	w.eachLive(func(s stream, at uint64, id blockID) {
		if id >= w.first || len(r.packs) == 0 {
			return
		}
		if hint = w.packs.find(id, hint); hint < 0 || chosen[hint] == 0 {
			return
		}
		if n := len(r.streams); n == 0 || r.streams[n-1] != s {
			r.streams = append(r.streams, s)
		}
		i := chosen[hint] - 1
		r.moves[i] = append(r.moves[i], place{at: at, stream: int32(len(r.streams) - 1), block: int32(id - w.packs[hint].first)})
	})
	return r, nil
}

// eachLive calls fn for every place whose content the generation needs, as far as can be told now, stream after stream.
func (w *Writer) eachLive(fn func(s stream, at uint64, id blockID)) {
	if len(w.contents.records) == 0 {
		w.eachPlace(fn)
		return
	}
	for i := range w.contents.records {
		s, runs := w.contents.records[i].places()
		t := w.tableNow(s)
		for _, run := range runs {
			first := run.Address / BlockSize
			for at := first; at < first+uint64(run.Pages); at++ {
				if id := t.get(at); id > blockZero {
					fn(s, at, id)
				}
			}
		}
	}
}

// eachPlace calls fn for every place of every table, the base's included where the Writer has none of its own.
func (w *Writer) eachPlace(fn func(s stream, at uint64, id blockID)) {
	streams := map[stream]bool{}
	for s := range w.tables {
		streams[s] = true
	}
	if w.before != nil {
		for s := range w.before.tables {
			streams[s] = true
		}
	}
	for s := range streams {
		t := w.tableNow(s)
		for _, at := range slices.Sorted(maps.Keys(t.chunks)) {
			for i, id := range t.chunks[at].ids {
				if id > blockZero {
					fn(s, at*chunkBlocks+uint64(i), id)
				}
			}
		}
	}
}

// tableNow is tableOf that makes none.
func (w *Writer) tableNow(s stream) *table {
	if t := w.tables[s]; t != nil {
		return t
	}
	if w.before != nil && w.before.tables[s] != nil {
		return w.before.tables[s]
	}
	return &table{}
}

// choose decides which packs are given up: live counts the needed blocks of each, own those of the Writer itself.
func (r *rewrite) choose(opts RewriteOptions, live []int, own int) {
	packs, w := r.writer.packs, r.writer
	var size, blocks int64
	var sparsest []int
	for i, pack := range packs {
		size, blocks = size+pack.size, blocks+int64(pack.blocks)
		if live[i] > 0 { // the others are left out by themselves
			r.report.RestoreBytes += pack.size
			r.report.LiveBytes += pack.share(live[i])
			sparsest = append(sparsest, i)
		}
	}
	if blocks > 0 {
		r.report.RestoreBytes += int64(len(w.hashes)) * size / blocks
		r.report.LiveBytes += int64(own) * size / blocks
	}
	share := func(i int) float64 { return float64(live[i]) / float64(packs[i].blocks) }
	slices.SortStableFunc(sparsest, func(a, b int) int { return cmp.Compare(share(a), share(b)) })
	r.report.RewrittenBytes = r.report.RestoreBytes
	for _, i := range sparsest {
		enough := float64(r.report.RewrittenBytes) <= opts.MaxRead*float64(r.report.LiveBytes)
		if live[i] >= packs[i].blocks || share(i) >= opts.MinLive && enough {
			break
		}
		r.packs = append(r.packs, i)
		r.report.RewrittenBytes -= packs[i].size - packs[i].share(live[i])
	}
}

func (r *rewrite) run(ctx context.Context) error {
	w := r.writer
	opener, err := newPackOpener(w.keys)
	if err != nil {
		return err
	}
	defer opener.close()
	reader := &Reader{store: w.store, target: w.target, keys: w.keys}
	var buf []byte
	for i, at := range r.packs {
		pack := w.packs[at] // they never change
		if int64(cap(buf)) < pack.size {
			buf = make([]byte, pack.size)
		}
		body, err := reader.readPack(ctx, pack.packInfo, buf)
		if err != nil {
			return err
		}
		open, err := opener.whole(pack.packInfo, body)
		if err == nil {
			err = r.move(ctx, pack, open, r.moves[i])
		}
		if err != nil {
			return fmt.Errorf("move %s: %w", w.target.packKey(pack.id), err)
		}
		r.moves[i] = nil
		r.report.Packs++
		r.report.ReadBytes += pack.size
	}
	return nil
}

// move appends blocks of a pack anew. The Writer is locked for a while at a time, so that AddPages comes in between.
func (r *rewrite) move(ctx context.Context, pack *livePack, open *openPack, places []place) error {
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.block, b.block) })
	for some := range slices.Chunk(places, maxScan) {
		if err := r.moveSome(ctx, pack, open, some); err != nil {
			return err
		}
	}
	return nil
}

func (r *rewrite) moveSome(ctx context.Context, pack *livePack, open *openPack, places []place) error {
	w := r.writer
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("the writer has ended: %w", ErrInvalid)
	}
	for _, p := range places {
		t, old := w.tableOf(r.streams[p.stream]), pack.first+blockID(p.block)
		if t.get(p.at) != old {
			continue // AddPages has replaced it since
		}
		block, err := open.blocks(int(p.block), 1)
		if err != nil {
			return err
		}
		hash := pack.hashes[p.block]
		if hashBlock(block, w.keys.seed) != hash {
			return fmt.Errorf("%w: block %d is not the one that the footer has a hash of", ErrPackCorrupt, p.block)
		}
		id, err := w.append(ctx, block, hash)
		if err != nil {
			return err
		}
		t.set(w, p.at, id)
		r.report.Blocks++
	}
	return nil
}

// Rewrite commits a new generation, HEAD's number plus one, under epoch, with the content and Meta of HEAD's and with the
// live content of sparse packs moved together (see Writer.Rewrite with its defaults). Where there is nothing to move,
// nothing is committed, and the result is HEAD's generation with no Puts.
//
// It is for targets that no agent writes to meanwhile: an agent that holds the generation before as its base is fenced,
// and a Checkpoint that names that generation needs it kept by Reap. ErrFenced where HEAD has a newer epoch.
func (s *Store) Rewrite(ctx context.Context, target Target, epoch int64) (Generation, error) {
	gen, err := s.rewrite(ctx, target, epoch)
	if err != nil {
		return Generation{}, fmt.Errorf("rewrite %s: %w", target, err)
	}
	return gen, nil
}

func (s *Store) rewrite(ctx context.Context, target Target, epoch int64) (Generation, error) {
	base, err := s.Base(ctx, target)
	if err != nil {
		return Generation{}, err
	}
	head := base.Head()
	r, err := s.Open(ctx, target, head.Number, head.WrittenEpoch)
	if err != nil {
		return Generation{}, err
	}
	meta := r.Meta()
	meta.Number, meta.Epoch = head.Number+1, epoch
	w, err := s.Begin(ctx, target, meta, WriteOptions{Base: base, Codec: CodecZstd})
	if err != nil {
		return Generation{}, err
	}
	for _, rec := range r.contents.records {
		if err := w.keepRecord(rec); err != nil {
			w.Abort(ctx)
			return Generation{}, err
		}
	}
	report, err := w.Rewrite(ctx, RewriteOptions{})
	if err != nil || report.Packs == 0 {
		w.Abort(ctx)
		return Generation{Number: head.Number, Epoch: head.WrittenEpoch}, err
	}
	gen, err := w.Commit(ctx)
	if err != nil {
		w.Abort(ctx)
	}
	return gen, err
}
