package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// isMapped says whether f may change without a trace: it was mapped shared when the pass began, or nobody knows.
func (p *pass) isMapped(f *found) bool {
	p.findMapped()
	switch {
	case p.mappedFault != nil:
		return true
	case len(p.mapped) == 0:
		return false
	case p.mapped[f.inode]:
		return true
	case f.tree.merged == "":
		return false
	}
	// A process sees the overlay's inode, not that of the layer.
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(f.tree.merged, f.relative), &st)
	return err != nil || p.mapped[inode{st.Dev, st.Ino}]
}

func (p *pass) findMapped() {
	if p.mapped == nil {
		p.mapped, p.mappedFault = mappedBy(p.reader.proc, p.init)
	}
}

// mappedBy finds the files that any process of the pod of process init has mapped shared. Those that may only be read
// count as well: mprotect(2) may change that.
func mappedBy(proc string, init int) (map[inode]bool, error) {
	mapped := map[inode]bool{}
	hierarchy, group, err := podCgroup(proc, init)
	if err != nil {
		return mapped, err
	}
	folders, err := os.ReadDir(proc)
	if err != nil {
		return mapped, fmt.Errorf("list processes: %w", err)
	}
	for _, folder := range folders {
		if _, err := strconv.Atoi(folder.Name()); err != nil {
			continue
		}
		process := filepath.Join(proc, folder.Name())
		its, err := cgroupIn(process, hierarchy)
		if err == nil && inGroup(its, group) {
			err = addMapped(process, mapped)
		}
		if err != nil && !isGone(err) {
			return mapped, err
		}
	}
	return mapped, nil
}

func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

func inGroup(its, group string) bool {
	return group == "/" || its == group || strings.HasPrefix(its, group+"/")
}

// podCgroup is the parent of the cgroup of process init, in the hierarchy where that is the deepest.
func podCgroup(proc string, init int) (hierarchy, group string, _ error) {
	raw, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(init), "cgroup"))
	if err != nil {
		return "", "", fmt.Errorf("read cgroup of process %d: %w", init, err)
	}
	for line := range strings.Lines(string(raw)) {
		id, its, ok := cutCgroup(line)
		if ok && len(its) > len(group) {
			hierarchy, group = id, its
		}
	}
	if group == "" {
		return "", "", fmt.Errorf("process %d has no cgroup", init)
	}
	return hierarchy, path.Dir(group), nil
}

// cutCgroup cuts a line of /proc/PID/cgroup: "4:memory:/path".
func cutCgroup(line string) (hierarchy, group string, ok bool) {
	hierarchy, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
	_, group, found := strings.Cut(rest, ":")
	return hierarchy, group, ok && found
}

func cgroupIn(process, hierarchy string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(process, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("read cgroup: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if id, group, ok := cutCgroup(line); ok && id == hierarchy {
			return group, nil
		}
	}
	return "", fmt.Errorf("read cgroup of %s: hierarchy %s is missing", process, hierarchy)
}

// addMapped adds what one process maps shared.
func addMapped(process string, mapped map[inode]bool) error {
	named := func(name string) bool { return strings.HasPrefix(name, "/") }
	return memory.EachShared(process, named, func(_ string, st *unix.Stat_t) { mapped[inode{st.Dev, st.Ino}] = true })
}
