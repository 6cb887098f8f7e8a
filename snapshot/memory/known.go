package memory

import (
	"io"
	"maps"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/lifeboat-dev/lifeboat/store"
)

// groupPages is how many pages are kept together: 2 MiB of memory.
const groupPages = 512

// pageRecord says in which frame a page was when it was read, and a checksum of what was read. Frame 0: it is not known.
type pageRecord struct{ frame, sum uint32 }

// pageGroup is 4 KiB for 2 MiB of memory: 2 MiB for a GiB.
type pageGroup struct {
	pages [groupPages]pageRecord
	// written are the pages that were seen to be written to since; their frame is the one they had then.
	written [groupPages / 64]uint64
}

// knownTask is what is known of the pages of one address space.
type knownTask struct {
	incarnation string
	// areas are those of when the bits were cleared, by their beginning, as long as they are as they were then.
	areas map[uint64]extent
	// trusted are the same, in ascending order.
	trusted []span
	groups  map[uint64]*pageGroup
}

// extent is an area that can be trusted while it is the same.
type extent struct {
	end   uint64
	flags string
}

// refresh forgets areas that are not as they were: where areas are merged a kernel may forget that it counted one of them as
// written to as a whole (before VM_SOFTDIRTY was kept in merges), and its pages have no marks of their own.
func (k *knownTask) refresh(maps io.Reader) {
	now := map[uint64]extent{}
	for a := range areasOf(maps) {
		if a.inode == 0 && k.areas[a.start] == a.extent() {
			now[a.start] = a.extent()
		}
	}
	k.areas = now
	k.order()
}

func (k *knownTask) order() {
	k.trusted = nil
	for _, start := range slices.Sorted(maps.Keys(k.areas)) {
		k.trusted = append(k.trusted, span{start, k.areas[start].end})
	}
}

// distrust forgets the area that began there.
func (k *knownTask) distrust(start uint64) {
	if _, known := k.areas[start]; known {
		delete(k.areas, start)
		k.order()
	}
}

func split(address uint64) (group uint64, at int) {
	number := address / uint64(pageSize)
	return number / groupPages, int(number % groupPages)
}

func (k *knownTask) record(address uint64) (_ pageRecord, written bool) {
	number, at := split(address)
	g := k.groups[number]
	if g == nil {
		return pageRecord{}, false
	}
	return g.pages[at], g.written[at/64]>>(at%64)&1 != 0
}

// learn notes a page that was read in that frame after the bits were cleared, and was not written to before it was read.
func (k *knownTask) learn(address uint64, word uint64, content []byte) {
	number, at := split(address)
	g := k.groups[number]
	if g == nil {
		g = &pageGroup{}
		k.groups[number] = g
	}
	g.pages[at] = pageRecord{uint32(word & wordFrame), sumOf(content)}
}

// wrote notes that a page was written to, so that it is not trusted before the bits are cleared again, and what it has now.
// It tells whether that is something else than before.
func (k *knownTask) wrote(address uint64, word uint64, content []byte) (changed bool) {
	number, at := split(address)
	g := k.groups[number]
	if g == nil {
		g = &pageGroup{}
		k.groups[number] = g
	}
	sum := sumOf(content)
	changed = g.pages[at].sum != sum
	g.pages[at].sum = sum
	if frame := word & wordFrame; word&wordSoftDirty != 0 && frame > 0 && frame < 1<<32 {
		g.pages[at].frame = uint32(frame)
	}
	g.written[at/64] |= 1 << (at % 64)
	return changed
}

// trim forgets all pages but those of runs.
func (k *knownTask) trim(runs []store.Run) {
	kept := make(map[uint64]*pageGroup, len(k.groups))
	for _, run := range runs {
		address, end := run.Address, run.Address+uint64(run.Pages)*store.BlockSize
		for address < end {
			number, from := split(address)
			count := min(groupPages-from, int((end-address)/uint64(pageSize)))
			address += uint64(count * pageSize)
			g := k.groups[number]
			switch {
			case g == nil:
				continue
			case count == groupPages:
				kept[number] = g
				continue
			case kept[number] == nil:
				kept[number] = &pageGroup{written: g.written}
			}
			copy(kept[number].pages[from:from+count], g.pages[from:])
		}
	}
	k.groups = kept
}

func sumOf(content []byte) uint32 { return uint32(xxh3.Hash(content)) }

// sifted is what became of pages when they were held against what is known of them.
type sifted struct {
	unread     []span
	cleanPages int64
	// dirty says that a page showed as written to, cleared that one no longer does which did: somebody else clears the bits.
	dirty, cleared bool
}

// sift tells pages that must be read from those that are known to be as they were: in the frame in which they were read, and
// not written to since. words is room for the page table.
func (k *knownTask) sift(table wordReader, spans []span, words []uint64) (sifted, error) {
	var out sifted
	size, areas := uint64(pageSize), k.trusted
	for _, s := range spans {
		for s.start < s.end {
			part := span{s.start, min(s.end, s.start+uint64(len(words))*size)}
			s.start = part.end
			these := words[:(part.end-part.start)/size]
			if err := table(part, these); err != nil {
				return sifted{}, err
			}
			for i, word := range these {
				address := part.start + uint64(i)*size
				was, written := k.record(address)
				for len(areas) > 0 && areas[0].end <= address {
					areas = areas[1:]
				}
				same := settled(word) && was.frame == uint32(word&wordFrame) && len(areas) > 0 && areas[0].start <= address
				out.dirty = out.dirty || word&wordSoftDirty != 0
				out.cleared = out.cleared || same && written
				if same && !written {
					out.cleanPages++
				} else {
					out.unread = addSpan(out.unread, address, address+size)
				}
			}
		}
	}
	return out, nil
}

// wordReader reads the words of pages.
type wordReader func(s span, words []uint64) error

func addSpan(spans []span, start, end uint64) []span {
	if last := len(spans) - 1; last >= 0 && spans[last].end == start {
		spans[last].end = end
		return spans
	}
	return append(spans, span{start, end})
}
