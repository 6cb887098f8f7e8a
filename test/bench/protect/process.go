package protect

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

// firstProcess is the PID on this machine of a container's oldest process.
func firstProcess(id string) (int, error) {
	found, err := processesOf(id)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("container %s has no process", id)
	}
	return found[0], nil
}

// processesOf are the PIDs on this machine of a container's processes, in ascending order: its cgroup bears its ID.
func processesOf(id string) ([]int, error) {
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

// cpuOf is the CPU time that a process has used.
func cpuOf(pid int) (time.Duration, error) {
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
