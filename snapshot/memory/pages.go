package memory

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is how much is read before it is handed on; it stays in the processor's cache.
	bufferSize = 1 << 20
	// maxVectors is the kernel's UIO_MAXIOV.
	maxVectors = 1024
	// maxFaults is after how many unreadable pages, one after the other, the rest of an area is left alone.
	maxFaults = 64
	// maxRegions is how many stretches of pages are looked up at a time. The kernel finds 512 in one step; where it takes
	// several, it says of the first one how far it came (walk_end, Linux 6.18).
	maxRegions = 512
	// wordsSize is how many bytes of a page table are read at a time where the kernel cannot search it.
	wordsSize = 64 << 10
)

// span is a stretch of populated pages.
type span struct{ start, end uint64 }

// area reads the populated pages of a, but for those that look leaves out.
func (w *worker) area(ctx context.Context, p *process, a area, look *look) error {
	faults := 0
	for from := a.start; from < a.end && faults < maxFaults; {
		spans, next, skipped, err := w.finder.find(p.pages, from, a.end)
		if err != nil || next <= from {
			w.stats.Vanished++
			return nil
		}
		w.stats.PagesSkipped += skipped
		spans = look.wanted(w, p, spans)
		fault, read, err := w.spans(ctx, p, a, spans, look)
		if err != nil {
			return err
		}
		if read > 0 {
			faults = 0
		}
		if from = next; fault != 0 {
			// What is behind it may be gone as well: look again.
			faults++
			from = fault + uint64(pageSize)
		}
	}
	return nil
}

// spans reads spans by buffers. fault is the address of a page that cannot be read, at which it stopped.
func (w *worker) spans(ctx context.Context, p *process, a area, spans []span, look *look) (fault uint64, read int, _ error) {
	var batch []span
	for len(spans) > 0 {
		batch, spans = cut(batch[:0], spans)
		look.before(w, p, batch)
		n := w.fill(p, a, batch)
		if !p.alive() {
			// Another process may have been read under its PID.
			w.stats.Vanished++
			return batch[0].start, read, nil
		}
		read += n
		fault, err := w.deliverAll(ctx, p, batch, n)
		if err != nil {
			return 0, read, err
		}
		look.after(w, p, batch, n)
		if fault != 0 {
			return w.force(ctx, p, fault, read)
		}
		if err := w.pause(ctx); err != nil {
			return 0, read, err
		}
	}
	return 0, read, nil
}

// deliverAll hands on the first n bytes of batch. fault is the address of the first page that is not among them, 0 if all are.
func (w *worker) deliverAll(ctx context.Context, p *process, batch []span, n int) (fault uint64, _ error) {
	at := 0
	for _, s := range batch {
		take := min(n-at, int(s.end-s.start))
		if take > 0 {
			if err := w.deliver(ctx, p.task, s.start, w.buf[at:at+take]); err != nil {
				return 0, err
			}
		}
		if at += take; take < int(s.end-s.start) {
			return s.start + uint64(take), nil
		}
	}
	return 0, nil
}

// force reads the one page that could not be read with the others: where the area has meanwhile been locked against
// reading, it is still there.
func (w *worker) force(ctx context.Context, p *process, address uint64, read int) (uint64, int, error) {
	page := w.buf[:pageSize]
	if n, _ := p.mem.ReadAt(page, int64(address)); n < pageSize || !p.alive() {
		w.stats.Vanished++
		return address, read, nil
	}
	return address, read + pageSize, w.deliver(ctx, p.task, address, page)
}

// cut takes as much off spans as the buffer and one call hold.
func cut(batch, spans []span) (_, rest []span) {
	room := uint64(bufferSize)
	for len(spans) > 0 && room > 0 && len(batch) < maxVectors {
		s := spans[0]
		if s.end-s.start > room {
			batch = append(batch, span{s.start, s.start + room})
			spans[0].start += room
			return batch, spans
		}
		batch, spans = append(batch, s), spans[1:]
		room -= s.end - s.start
	}
	return batch, spans
}

// fill reads batch into the buffer and returns how many bytes, in whole pages, could be read from its beginning on.
func (w *worker) fill(p *process, a area, batch []span) int {
	if a.readable {
		return w.fillByVectors(p, batch)
	}
	return w.fillByFile(p, batch, 0)
}

// fillByVectors is the fast way, which areas that may not be read refuse.
func (w *worker) fillByVectors(p *process, batch []span) int {
	var size uint64
	remote := w.finder.remote[:0]
	for _, s := range batch {
		remote = append(remote, unix.RemoteIovec{Base: uintptr(s.start), Len: int(s.end - s.start)})
		size += s.end - s.start
	}
	w.finder.remote = remote
	local := []unix.Iovec{{Base: &w.buf[0]}}
	local[0].SetLen(int(size))
	n, _ := unix.ProcessVMReadv(p.pid, local, remote, 0)
	return max(n, 0) / pageSize * pageSize
}

// fillByFile reads what comes after the first n bytes of batch, whatever the areas allow.
func (w *worker) fillByFile(p *process, batch []span, n int) int {
	at := 0
	for _, s := range batch {
		size := int(s.end - s.start)
		if from := n - at; from < size {
			got, err := p.mem.ReadAt(w.buf[n:at+size], int64(s.start)+int64(from))
			n += got
			if err != nil {
				break
			}
		}
		at += size
	}
	return n / pageSize * pageSize
}

// finder looks up which pages are populated.
type finder struct {
	spans   []span
	regions []region
	words   []byte
	remote  []unix.RemoteIovec
}

// find returns populated pages that no file has between from and to, how far it looked, and how many populated pages it
// left out. The spans are good until the next call.
func (f *finder) find(pages *os.File, from, to uint64) (_ []span, next uint64, skipped int64, _ error) {
	f.spans = f.spans[:0]
	if categories := searchable(); categories != 0 {
		next, skipped, err := f.search(pages, from, to, categories)
		return f.spans, next, skipped, err
	}
	next, skipped, err := f.walk(pages, from, to)
	return f.spans, next, skipped, err
}

// The ioctl that searches a page table, since Linux 6.7, and the categories of pages; pageGuard is younger. Source:
// include/uapi/linux/fs.h.
const (
	pagemapScan = 0xc0606610
	pageFile    = 1 << 2
	pagePresent = 1 << 3
	pageSwapped = 1 << 4
	pageZero    = 1 << 5
	pageGuard   = 1 << 8
)

type region struct{ start, end, categories uint64 }

type scanArgument struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, returned uint64
}

// searchable returns which categories to leave out the kernel knows, 0 where it has no search.
var searchable = sync.OnceValue(func() uint64 {
	self, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0
	}
	defer self.Close()
	var f finder
	for _, categories := range []uint64{pageFile | pageZero | pageGuard, pageFile | pageZero} {
		if _, _, err := f.search(self, 0, uint64(pageSize), categories); err == nil {
			return categories
		}
	}
	return 0
})

func (f *finder) search(pages *os.File, from, to, leaveOut uint64) (next uint64, skipped int64, _ error) {
	if f.regions == nil {
		f.regions = make([]region, maxRegions)
	}
	argument := scanArgument{
		start: from, end: to, vec: uint64(uintptr(unsafe.Pointer(&f.regions[0]))), vecLen: maxRegions,
		anyOf: pagePresent | pageSwapped, returned: leaveOut,
	}
	argument.size = uint64(unsafe.Sizeof(argument))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, pages.Fd(), pagemapScan, uintptr(unsafe.Pointer(&argument)))
	if errno != 0 {
		return 0, 0, errno
	}
	for _, r := range f.regions[:n] {
		if r.categories == 0 {
			f.add(r.start, r.end)
		} else {
			skipped += int64(r.end-r.start) / int64(pageSize)
		}
	}
	next = argument.walkEnd
	if n > 0 {
		next = max(next, f.regions[n-1].end)
	}
	return next, skipped, nil
}

func (f *finder) add(start, end uint64) {
	if last := len(f.spans) - 1; last >= 0 && f.spans[last].end == start {
		f.spans[last].end = end
		return
	}
	f.spans = append(f.spans, span{start, end})
}

// Bits of a word of /proc/PID/pagemap. Source: Documentation/admin-guide/mm/pagemap.rst.
const (
	wordPresent = 1 << 63
	wordSwapped = 1 << 62
	wordFile    = 1 << 61
	wordGuard   = 1 << 58
)

// walk reads the page table word by word, 64 KiB of it at most.
func (f *finder) walk(pages *os.File, from, to uint64) (next uint64, skipped int64, _ error) {
	if f.words == nil {
		f.words = make([]byte, wordsSize)
	}
	size := uint64(pageSize)
	want := min((to-from)/size*8, wordsSize)
	n, err := pages.ReadAt(f.words[:want], int64(from/size*8))
	if n < 8 && err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, err
	}
	at := from
	for words := f.words[:n/8*8]; len(words) > 0 && len(f.spans) < maxRegions; words = words[8:] {
		word := binary.NativeEndian.Uint64(words)
		if word&(wordPresent|wordSwapped) != 0 {
			if word&(wordFile|wordGuard) == 0 {
				f.add(at, at+size)
			} else {
				skipped++
			}
		}
		at += size
	}
	return at, skipped, nil
}
