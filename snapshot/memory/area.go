package memory

import (
	"bufio"
	"io"
	"iter"
	"strconv"
	"strings"
)

// area is one line of /proc/PID/maps.
type area struct {
	start, end uint64
	readable   bool
	private    bool
	flags      string
	device     string
	inode      uint64
	name       string
}

// areasOf goes through maps as it is read: a few dozen areas at a time, as they are at that moment. It ends at the first
// line that cannot be read, which is the last one where the process has ended.
func areasOf(maps io.Reader) iter.Seq[area] {
	return func(yield func(area) bool) {
		lines := bufio.NewScanner(maps)
		lines.Buffer(make([]byte, 4096), 64<<10)
		for lines.Scan() {
			if a, ok := parseArea(lines.Text()); !ok || !yield(a) {
				return
			}
		}
	}
}

// parseArea parses "START-END FLAGS OFFSET DEVICE INODE    NAME". Source: proc_pid_maps(5).
func parseArea(line string) (area, bool) {
	var fields [5]string
	rest := line
	for i := range fields {
		var found bool
		fields[i], rest, found = strings.Cut(rest, " ")
		if !found && i < len(fields)-1 {
			return area{}, false
		}
	}
	from, to, _ := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	inode, err3 := strconv.ParseUint(fields[4], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || end < start || len(fields[1]) != 4 {
		return area{}, false
	}
	return area{
		start: start, end: end, readable: fields[1][0] == 'r', private: fields[1][3] == 'p', flags: fields[1],
		device: fields[3], inode: inode, name: strings.TrimLeft(rest, " "),
	}, true
}

func (a area) extent() extent { return extent{a.end, a.flags} }

// ofKernel says that the kernel or a device provides the content: vdso, vvar, vsyscall, uprobes and the like.
func (a area) ofKernel() bool {
	switch {
	case a.name == "[heap]", a.name == "[stack]", strings.HasPrefix(a.name, "[anon:"):
		return false
	case strings.HasPrefix(a.name, "["):
		return true
	}
	return strings.HasPrefix(a.name, "/dev/") && a.name != "/dev/zero" && !strings.HasPrefix(a.name, "/dev/shm/")
}

// sharedMemory says that the area is of memory that processes share and that no file system has: anonymous, memfd or
// System V, also in huge pages. A file that is only called so is one of the container's own, and does no harm.
func (a area) sharedMemory() bool {
	if strings.HasPrefix(a.name, memfdPrefix) {
		return true // a private mapping as well: the memfd is dumped
	}
	return !a.private && (a.name == "/dev/zero (deleted)" || a.name == "/anon_hugepage (deleted)" ||
		strings.HasPrefix(a.name, "/SYSV") || strings.HasPrefix(a.name, "[anon_shmem:"))
}

const memfdPrefix = "/memfd:"
