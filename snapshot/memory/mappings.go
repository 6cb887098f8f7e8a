package memory

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// EachShared calls found with each file that a process maps shared and whose name, as maps has it, is wanted. Files that are
// unmapped meanwhile are left out. process is its folder in proc; lines of maps are described in proc(5).
func EachShared(process string, wanted func(name string) bool, found func(name string, st *unix.Stat_t)) error {
	f, err := os.Open(filepath.Join(process, "maps"))
	if err != nil {
		return fmt.Errorf("read mappings: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || !strings.HasSuffix(fields[1], "s") || fields[4] == "0" {
			continue
		}
		name := strings.Join(fields[5:], " ")
		if !wanted(name) {
			continue
		}
		var from, to uint64
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
			return fmt.Errorf("read mappings: %q: %w", fields[0], err)
		}
		var st unix.Stat_t
		file := filepath.Join(process, "map_files", fmt.Sprintf("%x-%x", from, to)) // without the zeros in front that maps has
		if err := unix.Stat(file, &st); err == nil {
			found(name, &st)
		} else if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
			return &fs.PathError{Op: "stat", Path: file, Err: err}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read mappings: %w", err)
	}
	return nil
}
