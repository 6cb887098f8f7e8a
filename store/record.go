package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
)

// extent is a run of a file's content in blocks: zeros, or blocks of a pack from at on.
type extent struct {
	pack   int // index in the manifest's packs; zeroPack for zeros
	at     int
	blocks int64
}

const zeroPack = -1

// record is an entry with its content: inline, or extents of which the last block may be part of one.
type record struct {
	Entry
	content []byte
	extents []extent
	// task and runs say which pages an image is made of.
	task string
	runs []Run
}

// imageFault says what is wrong with the runs of an image.
func (rec *record) imageFault() string {
	if rec.task == "" || len(rec.task) > maxTask {
		return fmt.Sprintf("task of %d bytes, want 1 to %d", len(rec.task), maxTask)
	}
	if !rec.hasContent() || rec.Inline {
		return "an image is a regular file with content in packs"
	}
	var end uint64
	var pages int64
	for _, run := range rec.runs {
		place := run.Address / BlockSize
		if run.Address%BlockSize != 0 || place < end || run.Pages < 1 || run.Pages > maxFileSize/BlockSize ||
			place+uint64(run.Pages) > maxPlace {
			return fmt.Sprintf("run of %d pages at %#x: want multiples of %d that ascend", run.Pages, run.Address, BlockSize)
		}
		end = place + uint64(run.Pages)
		pages += run.Pages
	}
	if rec.Size%BlockSize != 0 || pages != rec.Size/BlockSize { // not pages*BlockSize, which may overflow
		return fmt.Sprintf("%d bytes, its runs have %d pages", rec.Size, pages)
	}
	return ""
}

// places is the stream of a record's content, and which of its places that is; none where it has no content in packs.
func (rec *record) places() (stream, []Run) {
	switch {
	case rec.task != "":
		return stream{name: rec.task}, rec.runs
	case !rec.hasContent() || rec.Inline || rec.Size == 0:
		return stream{}, nil
	}
	return stream{file: true, name: rec.Path}, []Run{{Pages: blocksOf(rec.Size)}}
}

// What a record's content is.
const (
	contentPacks  = 0 // extents
	contentInline = 1
	contentImage  = 2 // extents, and the task and runs that they are pages of
)

// recordMinimum is the fewest bytes of an encoded record: every field takes one.
const recordMinimum = 12

func (rec *record) encode(w *manifestWriter) {
	main := &w.sections[sectionMain]
	main.uint(uint64(rec.Type))
	main.uint(boolBit(rec.Opaque))
	main.string(rec.Path)
	main.uint(uint64(rec.Mode))
	main.uint(uint64(rec.UID))
	main.uint(uint64(rec.GID))
	encodeTime(main, rec.ModTime)
	main.uint(uint64(rec.Size))
	main.string(rec.Linkname)
	main.string(rec.HardlinkTo)
	main.uint(uint64(len(rec.Xattrs)))
	for _, name := range slices.Sorted(maps.Keys(rec.Xattrs)) {
		main.string(name)
		main.string(string(rec.Xattrs[name]))
	}
	switch {
	case rec.Inline:
		main.uint(contentInline)
		w.sections[sectionInline].raw(rec.content)
		return
	case rec.task != "":
		main.uint(contentImage)
		main.string(rec.task)
		rec.encodeRuns(&w.sections[sectionRuns])
	default:
		main.uint(contentPacks)
	}
	rec.encodeExtents(w)
}

func (rec *record) encodeRuns(w *wireWriter) {
	w.uint(uint64(len(rec.runs)))
	var end uint64
	for _, run := range rec.runs {
		w.uint(run.Address/BlockSize - end)
		w.uint(uint64(run.Pages))
		end = run.Address/BlockSize + uint64(run.Pages)
	}
}

func (rec *record) encodeExtents(w *manifestWriter) {
	w.sections[sectionPacks].uint(uint64(len(rec.extents)))
	for _, ext := range rec.extents {
		w.sections[sectionPacks].uint(uint64(ext.pack + 1))
		w.sections[sectionBlocks].uint(uint64(ext.blocks))
		if ext.pack != zeroPack {
			w.sections[sectionStarts].int(int64(ext.at - w.ends[ext.pack]))
			w.ends[ext.pack] = ext.at + int(ext.blocks)
		}
	}
}

func (m *manifest) decodeRecord(r *manifestReader) record {
	main := &r.sections[sectionMain]
	var rec record
	rec.Type = Type(main.max(255))
	rec.Opaque = main.max(1) == 1
	rec.Path = main.string(maxPathLength)
	rec.Mode = uint32(main.max(modeMask))
	rec.UID = uint32(main.max(1<<32 - 1))
	rec.GID = uint32(main.max(1<<32 - 1))
	rec.ModTime = decodeTime(main)
	rec.Size = main.max(maxFileSize)
	rec.Linkname = main.string(maxPathLength)
	rec.HardlinkTo = main.string(maxPathLength)
	if n := main.count(2); n > 0 {
		rec.Xattrs = make(map[string][]byte)
		for i := 0; i < n && main.err == nil; i++ {
			name := main.string(maxXattrName)
			rec.Xattrs[name] = []byte(main.string(maxXattrValue))
		}
	}
	switch main.max(contentImage) {
	case contentInline:
		rec.Inline = true
		if rec.Size > maxInline {
			main.fail()
			return rec
		}
		rec.content = bytes.Clone(r.sections[sectionInline].raw(int(rec.Size)))
		return rec
	case contentImage:
		if rec.task = main.string(maxTask); rec.task == "" {
			main.fail()
		}
		rec.decodeRuns(&r.sections[sectionRuns])
	}
	rec.decodeExtents(r)
	return rec
}

func (rec *record) decodeRuns(r *wireReader) {
	n := r.count(2)
	rec.runs = make([]Run, 0, n)
	var end uint64
	for i := 0; i < n && r.err == nil; i++ {
		place, pages := end+uint64(r.max(maxPlace)), r.max(maxFileSize/BlockSize)
		if end = place + uint64(pages); end > maxPlace {
			r.fail()
		}
		rec.runs = append(rec.runs, Run{Address: place * BlockSize, Pages: pages})
	}
}

func (rec *record) decodeExtents(r *manifestReader) {
	packs, starts, blocks := &r.sections[sectionPacks], &r.sections[sectionStarts], &r.sections[sectionBlocks]
	n := packs.count(1)
	if n > len(blocks.buf) { // each has a byte there too
		blocks.fail()
		return
	}
	rec.extents = make([]extent, 0, n)
	for i := 0; i < n && packs.err == nil && blocks.err == nil && starts.err == nil; i++ {
		ext := extent{pack: int(packs.max(1<<32)) - 1, blocks: blocks.max(maxFileSize / BlockSize)}
		if ext.pack != zeroPack {
			at := int64(r.ends[ext.pack]) + starts.int()
			if at < 0 || at > maxBlocks || ext.blocks > maxBlocks-at { // at may have overflown
				starts.fail()
				return
			}
			ext.at = int(at)
			r.ends[ext.pack] = ext.at + int(ext.blocks)
		}
		if ext.blocks < 1 {
			blocks.fail()
		}
		rec.extents = append(rec.extents, ext)
	}
}
