package store

import "slices"

// blockID names the content of a block for as long as a target is written to without a break: every pack that is live has
// a range of them. 0 is no content, 1 a block of zeros.
type blockID uint64

const (
	blockAbsent blockID = 0
	blockZero   blockID = 1
	firstBlock  blockID = 2
)

// chunkBlocks is how many places a chunk of a table has: 2 MiB of memory.
const chunkBlocks = 512

// stream names what has places: a task's memory, or a file.
type stream struct {
	file bool
	name string
}

// table says what content each place of a stream has; a place is an address or an offset, in blocks. It takes 8 bytes a
// place. Tables of successive generations share their chunks until one changes.
type table struct {
	chunks map[uint64]*chunk
	// kept says of which version of a file this is all the content.
	kept kept
}

type chunk struct {
	owner *Writer // who may change it; nil: nobody
	ids   []blockID
}

func newTable() *table { return &table{chunks: map[uint64]*chunk{}} }

func (t *table) clone() *table {
	c := &table{chunks: make(map[uint64]*chunk, len(t.chunks)), kept: t.kept}
	for at, chunk := range t.chunks {
		c.chunks[at] = chunk
	}
	return c
}

func (t *table) get(place uint64) blockID {
	c := t.chunks[place/chunkBlocks]
	if i := place % chunkBlocks; c != nil && i < uint64(len(c.ids)) {
		return c.ids[i]
	}
	return blockAbsent
}

// holeAt is how many places from place on, which is in a chunk that is not there, have no content at the least.
func (t *table) holeAt(place uint64) uint64 {
	if t.chunks[place/chunkBlocks] != nil {
		return 0
	}
	return chunkBlocks - place%chunkBlocks
}

func (t *table) set(w *Writer, place uint64, id blockID) {
	c := t.chunks[place/chunkBlocks]
	switch {
	case c == nil:
		c = &chunk{owner: w}
		t.chunks[place/chunkBlocks] = c
	case c.owner != w:
		c = &chunk{owner: w, ids: slices.Clone(c.ids)}
		t.chunks[place/chunkBlocks] = c
	}
	i := int(place % chunkBlocks)
	if i >= len(c.ids) {
		c.ids = slices.Grow(c.ids, i+1-len(c.ids))[:i+1]
	}
	c.ids[i] = id
}

// Run is a run of pages at consecutive addresses.
type Run struct {
	// Address is that of the first page in bytes, a multiple of BlockSize.
	Address uint64
	Pages   int64
}

// trim leaves what the runs cover, and lets nobody change it in place any more.
func (t *table) trim(runs []Run) {
	kept := make(map[uint64]*chunk, len(t.chunks))
	for _, run := range runs {
		first := run.Address / BlockSize
		end := first + uint64(run.Pages)
		for at := first / chunkBlocks; at*chunkBlocks < end; at++ {
			c := t.chunks[at]
			if c == nil {
				continue
			}
			from := max(first, at*chunkBlocks) - at*chunkBlocks
			to := min(end-at*chunkBlocks, uint64(len(c.ids)))
			switch {
			case from == 0 && to == uint64(len(c.ids)):
				if c.owner != nil { // one that nobody owns is shared with other Writers, who may be reading this
					c.owner = nil
				}
				kept[at] = c
			case from < to:
				part := kept[at]
				if part == nil {
					part = &chunk{}
					kept[at] = part
				}
				part.ids = append(part.ids, make([]blockID, to-uint64(len(part.ids)))...)
				copy(part.ids[from:], c.ids[from:to])
			}
		}
	}
	t.chunks = kept
}

// livePack is a pack whose blocks may be referred to, with the IDs that they have.
type livePack struct {
	*packInfo
	first  blockID
	hashes []blockHash
}

func (p *livePack) end() blockID { return p.first + blockID(p.blocks) }

// livePacks are in ascending order of their IDs.
type livePacks []*livePack

// find returns the index of the pack that holds id, or -1. hint is the last answer.
func (l livePacks) find(id blockID, hint int) int {
	if hint >= 0 && hint < len(l) && id >= l[hint].first && id < l[hint].end() {
		return hint
	}
	i, found := slices.BinarySearchFunc(l, id, func(p *livePack, id blockID) int {
		switch {
		case id < p.first:
			return 1
		case id >= p.end():
			return -1
		}
		return 0
	})
	if !found {
		return -1
	}
	return i
}
