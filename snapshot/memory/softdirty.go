package memory

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// More of a word of /proc/PID/pagemap: the page's frame, where the reader has CAP_SYS_ADMIN, and whether it was written to
// since the bits were cleared. Source: Documentation/admin-guide/mm/pagemap.rst, soft-dirty.rst.
const (
	wordFrame     = 1<<55 - 1
	wordSoftDirty = 1 << 55
)

// clearSoftDirty is what to write to /proc/PID/clear_refs. Source: proc_pid_clear_refs(5).
const clearSoftDirty = "4"

// errNoTracking: the kernel does not tell which pages were written to.
var errNoTracking = errors.New("the kernel does not track writes to memory")

// ProbeTracking tries on two pages of this process whether the kernel tracks writes as a Filter needs it, and returns nil
// where it does. It does without a look at the kernel's configuration, and clears this process's own bits.
//
// A kernel that cannot search page tables (before Linux 6.7) is refused as well: those that had not yet learnt to leave pages
// that a device writes to marked (FOLL_PIN for direct I/O) are all among them.
func ProbeTracking() error {
	if searchable() == 0 {
		return fmt.Errorf("%w: no search of page tables (Linux 6.7)", errNoTracking)
	}
	pages, err := unix.Mmap(-1, 0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map pages: %w", err)
	}
	defer unix.Munmap(pages)
	pages[0], pages[pageSize] = 1, 1
	if err := os.WriteFile("/proc/self/clear_refs", []byte(clearSoftDirty), 0); err != nil {
		return fmt.Errorf("%w: %w", errNoTracking, err)
	}
	pages[0] = 2
	table, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return fmt.Errorf("%w: %w", errNoTracking, err)
	}
	defer table.Close()
	var words [2]uint64
	start := uint64(uintptr(unsafe.Pointer(&pages[0])))
	err = readWords(table, span{start, start + uint64(2*pageSize)}, words[:])
	runtime.KeepAlive(pages)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errNoTracking, err)
	case words[0]&wordSoftDirty == 0 || words[1]&wordSoftDirty != 0:
		return fmt.Errorf("%w: a page that was written to shows as %#x, one that was not as %#x", errNoTracking, words[0], words[1])
	case !settled(words[1]):
		return fmt.Errorf("%w: a page table without frames, %#x (CAP_SYS_ADMIN is needed)", errNoTracking, words[1])
	}
	return nil
}

// settled says of a word that it is of a page of the process's own in memory, in a frame that can be told from others, and
// not written to since the bits were cleared.
func settled(word uint64) bool {
	frame := word & wordFrame
	return word&(wordPresent|wordSwapped|wordFile|wordGuard|wordSoftDirty) == wordPresent && frame > 0 && frame < 1<<32
}

// readWords reads the page table of s into words, which has a place for each page. What is not there any more is 0.
func readWords(table *os.File, s span, words []uint64) error {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	n, err := table.ReadAt(bytes, int64(s.start/uint64(pageSize)*8))
	clear(bytes[n/8*8:])
	if n == 0 && err != nil {
		return fmt.Errorf("read page table: %w", err)
	}
	return nil
}

// clearBits clears the soft-dirty bits of p.
func (p *process) clearBits() error {
	if err := os.WriteFile(p.tree.path(p.pid, "clear_refs"), []byte(clearSoftDirty), 0); err != nil {
		return fmt.Errorf("clear soft-dirty bits: %w", orGone(err))
	}
	return nil
}

// incarnation tells the address spaces of one PID apart: when the process began, and where exec has put code, data, heap and
// stack. Source: proc_pid_stat(5).
func (p *process) incarnation() (string, error) {
	stat, err := os.ReadFile(p.tree.path(p.pid, "stat"))
	if err != nil {
		return "", orGone(err)
	}
	_, rest, _ := strings.Cut(string(stat[max(0, strings.LastIndex(string(stat), ")")):]), " ")
	fields := strings.Fields(rest)
	const first = 3 // the number of the first of fields
	var own []string
	for _, field := range []int{22, 26, 27, 28, 45, 47} {
		if field-first >= len(fields) {
			return "", fmt.Errorf("read status of process %d: it is cut off", p.pid)
		}
		own = append(own, fields[field-first])
	}
	return strings.Join(own, " "), nil
}
