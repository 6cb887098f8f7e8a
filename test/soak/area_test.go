package soak

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	private    = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	shared     = unix.MAP_SHARED | unix.MAP_ANONYMOUS
	readWrite  = unix.PROT_READ | unix.PROT_WRITE
	hugeLength = 2 << 20
)

// area is memory of which is known what each page has: zeros (version 0), or what follows from seed, place and version.
type area struct {
	kind     string
	at       uintptr
	first    int // place of the first page, in the patterns
	versions []uint32
	protect  int
	seed     uint64
	// floor is the version that pages have which are thrown away; forgets says that they can be.
	floor   uint32
	forgets bool
	moves   bool
}

func call(number uintptr, args ...uintptr) uintptr {
	var a [6]uintptr
	copy(a[:], args)
	result, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		panic(fmt.Sprintf("system call %d: %v", number, errno))
	}
	return result
}

func mapped(length, flags, fd int) uintptr {
	return call(unix.SYS_MMAP, 0, uintptr(length), readWrite, uintptr(flags), uintptr(fd), 0)
}

func bytesAt(address uintptr, length int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&address))), length)
}

// fill writes what a page of that place and version has.
func fill(content []byte, seed uint64, place int, version uint32) {
	if version == 0 {
		clear(content)
		return
	}
	words := rand.NewPCG(seed, uint64(place)<<32|uint64(version))
	for i := 0; i < len(content); i += 8 {
		binary.LittleEndian.PutUint64(content[i:], words.Uint64())
	}
}

// newArea maps one of a random kind, nothing of it written.
func newArea(rng *rand.Rand, seed uint64) *area {
	pages := 1 + rng.IntN(300)
	a := &area{protect: readWrite, seed: seed, kind: "private"}
	switch rng.IntN(8) {
	case 0:
		a.kind, a.at = "shared", mapped(pages*page, shared, -1)
	case 1:
		fd := must(unix.MemfdCreate("soak", 0))
		check(unix.Ftruncate(fd, int64(pages*page)))
		a.kind, a.at = "memfd", mapped(pages*page, unix.MAP_SHARED, fd)
		check(unix.Close(fd))
	case 2:
		pages = hugeLength / page
		reserved := mapped(2*hugeLength, private, -1)
		a.kind, a.forgets = "huge", true
		a.at = (reserved + hugeLength - 1) &^ (hugeLength - 1)
		if a.at > reserved {
			call(unix.SYS_MUNMAP, reserved, a.at-reserved)
		}
		if end := reserved + 2*hugeLength; end > a.at+hugeLength {
			call(unix.SYS_MUNMAP, a.at+hugeLength, end-a.at-hugeLength)
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, a.at, hugeLength, unix.MADV_HUGEPAGE)
	case 3:
		a.ofFile(pages)
		return a
	case 4:
		a.kind, a.at, a.moves = "locked", mapped(pages*page, private, -1), true
		_, _, _ = unix.Syscall(unix.SYS_MLOCK, a.at, uintptr(pages*page), 0)
	default:
		a.at, a.forgets, a.moves = mapped(pages*page, private, -1), true, true
	}
	a.versions = make([]uint32, pages)
	return a
}

// ofFile is a private mapping of a file, whose pages fall back to the file's when they are thrown away.
func (a *area) ofFile(pages int) {
	f := must(os.CreateTemp("/data", "mapped-"))
	content := make([]byte, page)
	for n := range pages {
		fill(content, a.seed, n, 1)
		must(f.Write(content))
		a.versions = append(a.versions, 1)
	}
	a.kind, a.at, a.floor, a.forgets = "file", mapped(pages*page, unix.MAP_PRIVATE, int(f.Fd())), 1, true
	check(f.Close())
}

func (a *area) length() uintptr { return uintptr(len(a.versions) * page) }

func (a *area) page(n int) []byte { return bytesAt(a.at+uintptr(n*page), page) }

// open makes the area writable while do is at work.
func (a *area) open(do func()) {
	call(unix.SYS_MPROTECT, a.at, a.length(), readWrite)
	do()
	call(unix.SYS_MPROTECT, a.at, a.length(), uintptr(a.protect))
}

// write gives some pages from n on a new version.
func (a *area) write(n, count, step int) {
	a.open(func() {
		for ; n < len(a.versions) && count > 0; n, count = n+step, count-1 {
			a.versions[n]++
			fill(a.page(n), a.seed, a.first+n, a.versions[n])
		}
	})
}

// forget throws pages away.
func (a *area) forget(n, count int) {
	count = min(count, len(a.versions)-n)
	call(unix.SYS_MADVISE, a.at+uintptr(n*page), uintptr(count*page), unix.MADV_DONTNEED)
	for i := n; i < n+count; i++ {
		a.versions[i] = a.floor
	}
}

// remap moves the area elsewhere, as long as it is or otherwise.
func (a *area) remap(pages int) {
	length := uintptr(pages * page)
	to := call(unix.SYS_MMAP, 0, length, unix.PROT_NONE, private, ^uintptr(0), 0)
	a.at = call(unix.SYS_MREMAP, a.at, a.length(), length, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to)
	for len(a.versions) < pages {
		a.versions = append(a.versions, 0)
	}
	a.versions = a.versions[:pages:pages]
}

// split unmaps pages in the middle, and returns the area behind them.
func (a *area) split(n, count int) *area {
	call(unix.SYS_MUNMAP, a.at+uintptr(n*page), uintptr(count*page))
	behind := *a
	behind.at, behind.first = a.at+uintptr((n+count)*page), a.first+n+count
	behind.versions = append([]uint32(nil), a.versions[n+count:]...)
	a.versions = a.versions[:n:n]
	return &behind
}

func (a *area) unmap() { call(unix.SYS_MUNMAP, a.at, a.length()) }

// prove compares every page with what it has to have.
func (a *area) prove(want []byte) (fault string) {
	a.open(func() {
		for n, version := range a.versions {
			have := a.page(n)
			fill(want, a.seed, a.first+n, version)
			if string(have) != string(want) {
				fault = fmt.Sprintf("%s area at %#x: page %d of %d is not its version %d: %x", a.kind, a.at, n, len(a.versions), version, have[:64])
				return
			}
		}
	})
	return fault
}
