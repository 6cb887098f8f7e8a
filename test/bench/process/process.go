// Package process asks the kernel what processes of this machine use.
package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// First is the PID on this machine of a container's oldest process.
func First(id string) (int, error) {
	found, err := Of(id)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("container %s has no process", id)
	}
	return found[0], nil
}

// Of are the PIDs on this machine of a container's processes, in ascending order: its cgroup bears its ID.
func Of(id string) ([]int, error) {
	var found []int
	for pid := range pids {
		groups, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find processes of container %s: %w", id, err)
		}
		if strings.Contains(string(groups), id) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// pids are those of this machine in ascending order; none where they cannot be listed.
func pids(yield func(int) bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	highest := 0
	there := map[int]bool{}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			there[pid], highest = true, max(highest, pid)
		}
	}
	for pid := 1; pid <= highest; pid++ {
		if there[pid] && !yield(pid) {
			return
		}
	}
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 wherever Linux runs. Source: proc_pid_stat(5).
const tick = 10 * time.Millisecond

// CPU is the CPU time that a process has used.
func CPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("ask for CPU time of process %d: %w", pid, err)
	}
	return parseCPU(string(stat))
}

// parseCPU adds utime and stime up, fields 14 and 15. The program's name, in parentheses, may hold anything.
func parseCPU(stat string) (time.Duration, error) {
	_, rest, _ := strings.Cut(stat[max(0, strings.LastIndex(stat, ")")):], " ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time: %q", stat)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// Children are the PIDs of a process's children by the names of their programs, of which the kernel keeps 15 bytes.
func Children(parent int) (map[string]int, error) {
	found := map[string]int{}
	for pid := range pids {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue // it has ended meanwhile
		}
		name, of, err := parseParent(string(stat))
		if err != nil {
			return nil, err
		}
		if of == parent {
			found[name] = pid
		}
	}
	return found, nil
}

// parseParent reads the program's name and the parent's PID, fields 2 and 4.
func parseParent(stat string) (name string, parent int, err error) {
	from, to := strings.Index(stat, "("), strings.LastIndex(stat, ")")
	if from < 0 || to < from {
		return "", 0, fmt.Errorf("read parent: %q", stat)
	}
	fields := strings.Fields(stat[to+1:])
	if len(fields) < 2 {
		return "", 0, fmt.Errorf("read parent: %q", stat)
	}
	parent, err = strconv.Atoi(fields[1])
	return stat[from+1 : to], parent, err
}

// Peak is the most memory in bytes that a process has had resident since its begin, or since Forget.
func Peak(pid int) (int64, error) { return status(pid, "VmHWM") }

// Resident is how much memory in bytes a process has resident.
func Resident(pid int) (int64, error) { return status(pid, "VmRSS") }

// Forget has Peak begin anew. Source: proc_pid_clear_refs(5), value 5.
func Forget(pid int) error {
	if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), "clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset peak of process %d: %w", pid, err)
	}
	return nil
}

func status(pid int, field string) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("ask for memory of process %d: %w", pid, err)
	}
	return parseStatus(string(text), field)
}

// parseStatus reads a field of /proc/PID/status that counts kB.
func parseStatus(text, field string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("read %s: no such line", field)
}
