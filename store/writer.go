package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// readChunk is how much of a file is read at a time.
const readChunk = 256 << 10

// WriteOptions say how a generation is written.
type WriteOptions struct {
	// Base is the generation before, from Store.Base or Writer.Base; what it holds already is not stored again. Nil where
	// there is none, or where everything is to be stored.
	Base *Base
	// Codec compresses frames; the zero value is CodecNone.
	Codec Codec
}

// Writer writes one generation. It must be ended by Commit or Abort. AddPages may be called concurrently with itself;
// all else is for one caller at a time.
//
// A Writer may be kept open for long: pages that are added again replace what was added before, and what is at no place
// any more at Commit is left out, so that rounds of pre-dump go into one generation. Memory is bounded by 85 MiB of packs and
// frames, 24 bytes for each block of the base and 32 for each that is stored: 96 MiB more for 16 GiB that did not change,
// 224 MiB more where all of it did. A file's kept version takes some 100 bytes.
type Writer struct {
	store  *Store
	target Target
	keys   *targetKeys
	base   Head
	// orphan is the ETag of a manifest that an unfinished writer left under this generation's key; empty if none.
	orphan string

	contents manifest
	tree     *tree
	chunk    []byte
	packer   *packer

	mu     sync.Mutex
	codec  Codec // of frames that are begun from now on
	before *Base
	tables map[stream]*table
	packs  livePacks   // of the base
	first  blockID     // of this Writer's own blocks
	hashes []blockHash // of this Writer's own blocks
	frame  *frameJob   // the one being filled
	inline int64
	made   int // objects put beside packs, manifest and HEAD

	closed    bool // no more Adds
	published bool // a manifest may name the packs
	after     *Base
}

// Begin starts generation meta.Number of target. Uploads run under ctx until Commit or Abort. ErrFenced where HEAD has a
// newer epoch, meta.Number is not the one after HEAD's, or the base is not HEAD's generation.
//
// A manifest of this number and epoch that HEAD does not name is what a writer left that died before its end, or is
// about to commit. Begin then rewrites HEAD with the same content: that writer can no longer commit, and its manifest
// may be replaced.
func (s *Store) Begin(ctx context.Context, target Target, meta Meta, opts WriteOptions) (*Writer, error) {
	w, err := s.begin(ctx, target, meta, opts)
	if err != nil {
		return nil, fmt.Errorf("begin generation %d: %w", meta.Number, err)
	}
	return w, nil
}

func (s *Store) begin(ctx context.Context, target Target, meta Meta, opts WriteOptions) (*Writer, error) {
	if err := errors.Join(target.Validate(), meta.validate()); err != nil {
		return nil, err
	}
	if !opts.Codec.known() {
		return nil, fmt.Errorf("unknown %s: %w", opts.Codec, ErrInvalid)
	}
	head, keys, made, err := s.headToWrite(ctx, target)
	if err != nil {
		return nil, err
	}
	w := &Writer{
		store: s, target: target, keys: keys, contents: manifest{meta: meta}, tree: newTree(),
		codec: opts.Codec, before: opts.Base, tables: map[stream]*table{}, first: firstBlock,
	}
	if made {
		w.made++
	}
	if err := w.takeNumber(ctx, head); err != nil {
		return nil, err
	}
	if w.before != nil {
		w.packs, w.first = w.before.packs, w.before.next
	}
	w.packer = &packer{store: s, target: target, keys: keys, number: meta.Number, epoch: meta.Epoch}
	w.packer.start(ctx)
	return w, nil
}

func (m Meta) validate() error {
	if m.Number < 1 || m.Epoch < 0 {
		return fmt.Errorf("number %d, epoch %d: numbers begin at 1, epochs at 0: %w", m.Number, m.Epoch, ErrInvalid)
	}
	texts := []string{m.PodUID, m.Node}
	for _, c := range m.Containers {
		texts = append(texts, c.Name, c.Image, c.ImageDigest)
	}
	for name, value := range m.Requirements {
		texts = append(texts, name, value)
	}
	for _, text := range texts {
		if len(text) > maxMetaString {
			return fmt.Errorf("text of %d bytes, want at most %d: %w", len(text), maxMetaString, ErrInvalid)
		}
	}
	return nil
}

func (w *Writer) takeNumber(ctx context.Context, head Head) error {
	meta := w.contents.meta
	switch {
	case head.Epoch > meta.Epoch:
		return fmt.Errorf("HEAD is at epoch %d, newer than %d: %w", head.Epoch, meta.Epoch, ErrFenced)
	case head.Number+1 != meta.Number:
		return fmt.Errorf("HEAD is at generation %d: %w", head.Number, ErrFenced)
	case w.before != nil && !w.before.head.sameGeneration(head):
		return fmt.Errorf("HEAD is at generation %d, the base is generation %d: %w", head.Number, w.before.head.Number, ErrFenced)
	}
	w.base = head
	w.contents.parent = head.parent()
	left, err := w.store.bucket.Stat(ctx, w.target.manifestKey(meta.Number, meta.Epoch))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	w.orphan = left.ETag
	next := head
	next.Epoch = meta.Epoch
	w.base, err = w.store.swapHead(ctx, w.target, w.keys, head, next)
	return err
}

// AddPages hands in memory of a task: pages at address on. Those that the base, or an earlier call, has at the same
// place with the same content are not stored again. address and the length of pages are multiples of BlockSize. A task
// is a name that stays the same from one generation to the next, at most 255 bytes. pages may be reused afterwards.
func (w *Writer) AddPages(ctx context.Context, task string, address uint64, pages []byte) error {
	if task == "" || len(task) > maxTask || address%BlockSize != 0 || len(pages)%BlockSize != 0 {
		return fmt.Errorf("add %d bytes at %#x of task %q: want a name of 1 to %d bytes and multiples of %d: %w",
			len(pages), address, task, maxTask, BlockSize, ErrInvalid)
	}
	if address/BlockSize+uint64(len(pages)/BlockSize) > maxPlace {
		return fmt.Errorf("add %d bytes at %#x of task %q: beyond the last address: %w", len(pages), address, task, ErrInvalid)
	}
	if err := w.addBlocks(ctx, stream{name: task}, address/BlockSize, pages); err != nil {
		return fmt.Errorf("add pages of task %s: %w", task, err)
	}
	return nil
}

// AddImage adds the file in which CRIU keeps the pages of a task: those of the runs, one after the other. Runs ascend
// and do not overlap; their content is what AddPages or the base has there. ErrInvalid where there is none. The size of
// the entry is that of the runs.
func (w *Writer) AddImage(ctx context.Context, e Entry, task string, runs []Run) error {
	rec := record{Entry: e, task: task, runs: slices.Clone(runs)}
	if err := w.check(ctx, e); err != nil {
		return err
	}
	if fault := rec.imageFault(); fault != "" {
		return fmt.Errorf("add image %q: %s: %w", e.Path, fault, ErrInvalid)
	}
	for _, other := range w.contents.records {
		if other.task == task {
			return fmt.Errorf("add image %q: task %q has image %q: %w", e.Path, task, other.Path, ErrInvalid)
		}
	}
	t, hint := w.tableOf(stream{name: task}), -1
	for _, run := range runs {
		first := run.Address / BlockSize
		for place := first; place < first+uint64(run.Pages); place++ {
			var known bool
			if known, hint = w.known(t.get(place), hint); !known {
				return fmt.Errorf("add image %q: page %#x of task %q was never added: %w", e.Path, place*BlockSize, task, ErrInvalid)
			}
		}
	}
	return w.keepRecord(rec)
}

// Add appends an entry; for a regular file that is no hard link it reads exactly e.Size bytes from r until its end. A
// dir may come after what is in it, and the parents of an entry may be left out; a hard link comes after its target. r may
// be a SparseReader. ErrInvalid for an entry that does not fit; like an error of r it leaves the Writer usable, without
// the entry.
func (w *Writer) Add(ctx context.Context, e Entry, r io.Reader) error {
	if err := w.check(ctx, e); err != nil {
		return err
	}
	if r == nil {
		r = bytes.NewReader(nil)
	}
	rec := record{Entry: e}
	if e.hasContent() {
		var err error
		if e.Inline && e.Size <= maxInline && w.inline+e.Size <= maxInlineSum {
			err = w.addInline(&rec, r)
		} else {
			rec.Inline = false
			err = w.addContent(ctx, &rec, r)
		}
		if err != nil {
			return fmt.Errorf("add %q: %w", e.Path, err)
		}
	}
	return w.keepRecord(rec)
}

// check asks all that must hold of an entry before its content is read.
func (w *Writer) check(ctx context.Context, e Entry) error {
	if w.closed {
		return fmt.Errorf("add %q: the writer has ended: %w", e.Path, ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("add %q: %w", e.Path, err)
	}
	if err := e.Validate(); err != nil {
		return fmt.Errorf("add: %w", err)
	}
	if fault := w.tree.fault(e); fault != "" {
		return fmt.Errorf("add entry %q: %s: %w", e.Path, fault, ErrInvalid)
	}
	return nil
}

func (w *Writer) keepRecord(rec record) error {
	w.contents.records = append(w.contents.records, rec)
	return w.tree.add(rec.Entry)
}

func (w *Writer) addInline(rec *record, r io.Reader) error {
	rec.content = make([]byte, rec.Size)
	if _, err := io.ReadFull(r, rec.content); err != nil {
		return shorter(rec.Size, err)
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return fmt.Errorf("content goes on after its %d bytes: %w", rec.Size, ErrInvalid)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read content: %w", err)
	}
	w.inline += rec.Size
	return nil
}

func shorter(size int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("content ends before its %d bytes: %w", size, ErrInvalid)
	}
	return fmt.Errorf("read content: %w", err)
}

// maxScan is how many blocks are hashed before the Writer is locked to compare them.
const maxScan = 256

// addBlocks compares blocks with what is at their places, and stores those that differ.
func (w *Writer) addBlocks(ctx context.Context, s stream, place uint64, blocks []byte) error {
	var hashes [maxScan]blockHash
	for len(blocks) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(len(blocks)/BlockSize, maxScan)
		for i := range n {
			hashes[i] = hashBlock(blocks[i*BlockSize:(i+1)*BlockSize], w.keys.seed)
		}
		if err := w.compare(ctx, s, place, blocks[:n*BlockSize], hashes[:n]); err != nil {
			return err
		}
		place += uint64(n)
		blocks = blocks[n*BlockSize:]
	}
	return nil
}

func (w *Writer) compare(ctx context.Context, s stream, place uint64, blocks []byte, hashes []blockHash) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("the writer has ended: %w", ErrInvalid)
	}
	t, hint := w.tableOf(s), -1
	for i, hash := range hashes {
		at := place + uint64(i)
		old := t.get(at)
		var same bool
		if same, hint = w.same(old, hash, hint); same {
			continue
		}
		block := blocks[i*BlockSize : (i+1)*BlockSize]
		id := blockZero
		if hash != w.keys.zero || !isZero(block) {
			var err error
			if id, err = w.append(ctx, block, hash); err != nil {
				return err
			}
		}
		if id != old && !(s.file && id == blockZero && old == blockAbsent) { // holes of files take no memory
			t.set(w, at, id)
		}
	}
	return nil
}

// tableOf is the table of a stream, begun from the base's.
func (w *Writer) tableOf(s stream) *table {
	if t := w.tables[s]; t != nil {
		return t
	}
	t := newTable()
	if w.before != nil && w.before.tables[s] != nil {
		t = w.before.tables[s].clone()
	}
	w.tables[s] = t
	return t
}

// same says whether block id has that hash. hint is the index of the pack in which the last one was.
func (w *Writer) same(id blockID, hash blockHash, hint int) (bool, int) {
	switch {
	case id == blockAbsent:
		return false, hint
	case id == blockZero:
		return hash == w.keys.zero, hint
	case id >= w.first:
		return w.hashes[id-w.first] == hash, hint
	}
	// A pack that is no longer live has left its IDs behind; what it held is stored anew.
	if hint = w.packs.find(id, hint); hint < 0 {
		return false, hint
	}
	pack := w.packs[hint]
	return pack.hashes[id-pack.first] == hash, hint
}

// known says whether the content of block id can be referred to.
func (w *Writer) known(id blockID, hint int) (bool, int) {
	if id == blockAbsent || id == blockZero || id >= w.first {
		return id != blockAbsent, hint
	}
	hint = w.packs.find(id, hint)
	return hint >= 0, hint
}

// append puts a block into the frame being filled. It waits for the bucket where too much is on its way.
func (w *Writer) append(ctx context.Context, block []byte, hash blockHash) (blockID, error) {
	id := w.first + blockID(len(w.hashes))
	if w.frame == nil {
		frame, err := w.emptyFrame(ctx)
		if err != nil {
			return 0, err
		}
		frame.first = id
		w.frame = frame
	}
	w.hashes = append(w.hashes, hash)
	w.frame.raw, w.frame.hashes = append(w.frame.raw, block...), append(w.frame.hashes, hash)
	if len(w.frame.raw) == frameSize {
		w.packer.add(w.frame)
		w.frame = nil
	}
	return id, nil
}

// emptyFrame waits for one.
func (w *Writer) emptyFrame(ctx context.Context) (*frameJob, error) {
	frame, err := w.packer.take(ctx)
	if err != nil {
		if frame != nil {
			w.packer.free <- frame
		}
		return nil, err
	}
	frame.codec = w.codec
	return frame, nil
}

// end stops all Adds and waits for the packs.
func (w *Writer) end() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	if w.frame != nil {
		w.packer.add(w.frame)
		w.frame = nil
	}
	w.mu.Unlock()
	return w.packer.finish()
}

// Abort ends the Writer without a commit, and deletes the packs it put unless a manifest may name them: then, and where
// deleting fails, they are left to be reaped. After Commit has succeeded it does nothing.
func (w *Writer) Abort(ctx context.Context) {
	w.packer.stop()
	_ = w.end() // nothing is kept, whatever became of it
	if w.published {
		return
	}
	_ = w.packer.remove(ctx) // what is left is the reaper's
	w.packer.packs = nil
}
