package memory

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	slotCount = 4
	slotSize  = 4 << 20
	slotPages = slotSize / 4096
	hugePage  = 2 << 20
)

// slots are stretches of memory, each a few page tables long, that are written to, moved, dropped and mapped anew.
type slots struct {
	dice *rand.Rand
	base uintptr
	// calm leaves areas as they are.
	calm bool
}

// newSlots maps the slots, the first for huge pages.
func newSlots(seed uint64) *slots {
	const room = (slotCount+1)*slotSize + hugePage
	at := call(unix.SYS_MMAP, 0, room, unix.PROT_NONE, uintptr(private|unix.MAP_NORESERVE), ^uintptr(0), 0)
	s := &slots{dice: rand.New(rand.NewPCG(seed, 7)), base: (at + hugePage - 1) / hugePage * hugePage}
	for n := range slotCount {
		s.mapAnew(n)
		s.write(n, slotPages)
	}
	return s
}

func (s *slots) at(n int) uintptr { return s.base + uintptr(n)*slotSize }

func (s *slots) mapAnew(n int) {
	call(unix.SYS_MMAP, s.at(n), slotSize, unix.PROT_READ|unix.PROT_WRITE, uintptr(private|unix.MAP_FIXED), ^uintptr(0), 0)
	advice := uintptr(unix.MADV_NOHUGEPAGE)
	if n < 1 {
		advice = unix.MADV_HUGEPAGE
	}
	call(unix.SYS_MADVISE, s.at(n), slotSize, advice)
}

// write writes a word into so many random pages.
func (s *slots) write(n, pages int) {
	for range pages {
		at := s.at(n) + uintptr(s.dice.IntN(slotPages)*pageSize+s.dice.IntN(512)*8)
		binary.NativeEndian.PutUint64(bytesAt(at, 8), s.dice.Uint64())
	}
}

func (s *slots) move(from, to uintptr, length int) {
	call(unix.SYS_MREMAP, from, uintptr(length), uintptr(length), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to)
}

// swap moves two slots, or a part of them, each to the place of the other.
func (s *slots) swap(a, b, length int) {
	spare := s.at(slotCount)
	s.move(s.at(a), spare, length)
	s.move(s.at(b), s.at(a), length)
	s.move(spare, s.at(b), length)
}

// step does one thing at random.
func (s *slots) step() {
	n := s.dice.IntN(slotCount)
	part := uintptr(s.dice.IntN(slotPages) * pageSize)
	length := uintptr(1+s.dice.IntN(64)) * uintptr(pageSize)
	length = min(length, slotSize-part)
	what := s.dice.IntN(40)
	if s.calm && slices.Contains([]int{0, 1, 6, 7}, what) {
		what = 2
	}
	switch what {
	case 0:
		if other := s.dice.IntN(slotCount); other != n {
			s.swap(n, other, slotSize)
		}
	case 1:
		if other := s.dice.IntN(slotCount); other != n {
			s.swap(n, other, pageSize*(1+s.dice.IntN(700)))
		}
	case 2, 3:
		call(unix.SYS_MADVISE, s.at(n)+part, length, unix.MADV_DONTNEED)
	case 4, 5:
		call(unix.SYS_MADVISE, s.at(n)+part, length, unix.MADV_DONTNEED)
		for at := uintptr(0); at < length; at += uintptr(pageSize) {
			runtime.KeepAlive(bytesAt(s.at(n)+part+at, 1)[0])
		}
	case 6:
		s.mapAnew(n)
		s.write(n, 200)
	case 7:
		call(unix.SYS_MPROTECT, s.at(n)+part, length, unix.PROT_READ)
		call(unix.SYS_MPROTECT, s.at(n)+part, length, unix.PROT_READ|unix.PROT_WRITE)
	case 8:
		forked()
	default:
		s.write(n, 1+s.dice.IntN(8))
	}
}

// forked makes a child that shares all frames for a moment.
func forked() {
	moment := unix.Timespec{Nsec: 1e6}
	pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 {
		_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&moment)), 0, 0)
		for {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	go func() {
		var status unix.WaitStatus
		_, _ = unix.Wait4(int(pid), &status, 0, nil)
	}()
}

// tracked does at random, on several threads and in a child, what a Filter may stumble over, beside memory that stays.
func tracked(out *os.File) {
	check(unix.Setpriority(unix.PRIO_PROCESS, 0, 19)) // who reads is to get on
	b := &builder{}
	b.write("quiet", mapped(500, private, -1), 500, 1)
	check(role("trackedChild").Start())
	b.tell(out)
	for n := range 2 {
		go func() {
			runtime.LockOSThread()
			s := newSlots(uint64(n) + 2)
			s.calm = n == 1
			for {
				s.step()
				moment(2e6)
			}
		}()
	}
	untilClosed()
}

// trackedChild executes itself anew now and then. (A parent cannot be stopped while its vfork waits for a stopped child.)
func trackedChild() {
	s := newSlots(9)
	s.calm = true
	for range 300 {
		s.step()
		moment(2e6)
	}
	check(syscall.Exec("/proc/self/exe", []string{"tracked"}, os.Environ()))
}

func moment(nanoseconds int64) {
	left := unix.NsecToTimespec(nanoseconds)
	_ = unix.Nanosleep(&left, nil)
}
