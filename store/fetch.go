package store

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
)

// fetchers is how many packs are read, checked and unpacked at a time.
const fetchers = 4

// Sink is what a generation is fetched into. First Make is called for every entry in their order, then content is
// written from several goroutines, then Finish is called for every entry in their order.
type Sink interface {
	// Make makes the entry; a regular file that is no hard link with its size, all of it zeros.
	Make(e Entry) error
	// Open opens a regular file that Make made. It may be called concurrently, for the same file too, whose parts are
	// then written side by side.
	Open(e Entry) (File, error)
	// Finish gives the entry what writing into it or below it changes: times, modes, owners.
	Finish(e Entry) error
}

// File is a regular file of a Sink.
type File interface {
	io.WriterAt
	io.Closer
}

// Fetch brings a generation, or a part of it, into a Sink. After an error Run may be called again, and goes on with the packs that have
// not been written wholly; Make and Finish are not called again for what they have made and finished. It is not for
// concurrent use.
//
// No byte is written that is not authentic, and none outside of the places that Make made. Memory is bounded by 4 packs
// and frames, 65 MiB, beside the manifest.
type Fetch struct {
	reader *Reader
	sink   Sink
	// made, inlined and finished are how many records have been made, written as far as the manifest holds them, and
	// finished; done are the packs that have been written.
	made, inlined, finished int
	done                    []bool
	pieces                  [][]piece // by pack
	records                 []record
	// Bytes are those of the packs read so far.
	bytes int64
	mu    sync.Mutex
}

// piece is a run of blocks of a pack and where it goes.
type piece struct {
	record int
	offset int64
	at     int
	blocks int64
}

// Fetch prepares a fetch of the generation into sink.
func (r *Reader) Fetch(sink Sink) *Fetch { return r.FetchSome(sink, func(Entry) bool { return true }) }

// FetchSome is Fetch of those entries alone that are wanted; packs without content of theirs are not read. Of a hard link, what
// it leads to has to be wanted as well.
func (r *Reader) FetchSome(sink Sink, wanted func(Entry) bool) *Fetch {
	f := &Fetch{
		reader: r, sink: sink, done: make([]bool, len(r.contents.packs)), pieces: make([][]piece, len(r.contents.packs)),
	}
	for _, rec := range r.contents.records {
		if wanted(rec.Entry) {
			f.records = append(f.records, rec)
		}
	}
	for i := range f.records {
		var offset int64
		for _, ext := range f.records[i].extents {
			if ext.pack != zeroPack {
				f.pieces[ext.pack] = append(f.pieces[ext.pack], piece{record: i, offset: offset, at: ext.at, blocks: ext.blocks})
			}
			offset += ext.blocks * BlockSize
		}
	}
	for i := range f.pieces {
		f.done[i] = len(f.pieces[i]) == 0
	}
	for _, pieces := range f.pieces {
		slices.SortStableFunc(pieces, func(a, b piece) int { return a.at - b.at })
	}
	return f
}

// ReadBytes is how much of packs has been read so far.
func (f *Fetch) ReadBytes() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes
}

// Run fetches. ErrPackMissing and ErrPackCorrupt name the pack; an error of the sink is returned as it is.
func (f *Fetch) Run(ctx context.Context) error {
	records := f.records
	for ; f.made < len(records); f.made++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.sink.Make(records[f.made].Entry); err != nil {
			return err
		}
	}
	for ; f.inlined < len(records); f.inlined++ {
		if err := f.writeInline(&records[f.inlined]); err != nil {
			return err
		}
	}
	var left []int
	for i := range f.done {
		if !f.done[i] {
			left = append(left, i)
		}
	}
	var largest int64
	for _, pack := range f.reader.contents.packs {
		largest = max(largest, pack.size)
	}
	err := f.reader.eachPack(ctx, len(left), largest, func(ctx context.Context, packs *packReader, i int) error {
		return f.pack(ctx, packs, left[i])
	})
	if err != nil {
		return err
	}
	for ; f.finished < len(records); f.finished++ {
		if err := f.sink.Finish(records[f.finished].Entry); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fetch) writeInline(rec *record) error {
	if !rec.Inline || rec.Size == 0 {
		return nil
	}
	file, err := f.sink.Open(rec.Entry)
	if err != nil {
		return err
	}
	if _, err := file.WriteAt(rec.content, 0); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// pack writes the blocks of a pack to where they belong.
func (f *Fetch) pack(ctx context.Context, packs *packReader, i int) error {
	info := f.reader.contents.packs[i]
	body, err := f.reader.readPack(ctx, info, packs.buf)
	if err != nil {
		return err
	}
	pack, err := packs.whole(info, body)
	if err != nil {
		return fmt.Errorf("open %s: %w", f.reader.target.packKey(info.id), err)
	}
	files := openFiles{sink: f.sink, open: map[int]File{}}
	err = f.write(ctx, pack, f.pieces[i], &files)
	if closed := files.close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done[i] = true
	f.bytes += info.size
	return nil
}

func (f *Fetch) write(ctx context.Context, pack *openPack, pieces []piece, files *openFiles) error {
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return err
		}
		entry := f.records[p.record].Entry
		for p.blocks > 0 {
			plain, err := pack.blocks(p.at, int(p.blocks))
			if err != nil {
				return fmt.Errorf("open %s: %w", f.reader.target.packKey(pack.info.id), err)
			}
			n := int64(len(plain) / BlockSize)
			plain = plain[:min(int64(len(plain)), entry.Size-p.offset)]
			file, err := files.get(p.record, entry)
			if err != nil {
				return err
			}
			if _, err := file.WriteAt(plain, p.offset); err != nil {
				return err
			}
			p.at, p.offset, p.blocks = p.at+int(n), p.offset+n*BlockSize, p.blocks-n
		}
	}
	return nil
}

// openFiles keeps a few files open for one pack.
type openFiles struct {
	sink Sink
	open map[int]File
}

const maxOpenFiles = 16

func (o *openFiles) get(record int, e Entry) (File, error) {
	if file := o.open[record]; file != nil {
		return file, nil
	}
	if len(o.open) >= maxOpenFiles {
		if err := o.close(); err != nil {
			return nil, err
		}
	}
	file, err := o.sink.Open(e)
	if err != nil {
		return nil, err
	}
	o.open[record] = file
	return file, nil
}

func (o *openFiles) close() error {
	var first error
	for record, file := range o.open {
		if err := file.Close(); err != nil && first == nil {
			first = err
		}
		delete(o.open, record)
	}
	return first
}
