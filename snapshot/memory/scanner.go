package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// Scanner implements snapshot.Scanner by a Reader for each call.
type Scanner struct {
	// Proc is the proc file system in which the PIDs of containers are those of snapshot.Container.
	Proc string
	// HostRoot is where the host's root is seen, whose cgroups are those that Proc names. Empty: throttling is not measured.
	HostRoot string
	// Filters leave pages out that were not written to since they were last read; nil: none.
	Filters *Filters
}

var _ snapshot.Scanner = Scanner{}

// Scan implements snapshot.Scanner.
func (s Scanner) Scan(ctx context.Context, c snapshot.Container, share float64, sink snapshot.ScanSink) (snapshot.Scan, error) {
	limit := NewLimit(share)
	reader := Reader{Proc: s.Proc, Limit: limit, Filter: s.Filters.Of(c.ID)}
	stats, err := reader.Read(ctx, c.PID, func(ctx context.Context, task string, address uint64, pages []byte) error {
		elsewhere, err := sink(ctx, task, address, pages)
		if err == nil && elsewhere > 0 {
			err = limit.Spend(ctx, elsewhere)
		}
		return err
	})
	return snapshot.Scan{
		Bytes: stats.BytesRead + stats.PagesKept*int64(pageSize), Unread: stats.PagesKept * int64(pageSize), Missed: stats.PagesMissed,
		Tracked: reader.Filter.trusted(), CPU: time.Duration(stats.CPUSeconds * float64(time.Second)),
	}, err
}

// Forget implements snapshot.Scanner.
func (s Scanner) Forget(id string) { s.Filters.Forget(id) }

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 wherever Linux runs. Source: proc_pid_stat(5).
const tick = 10 * time.Millisecond

// Vitals implements snapshot.Scanner.
func (s Scanner) Vitals(c snapshot.Container) (snapshot.Vitals, error) {
	tree, err := treeOf(s.Proc, c.PID)
	if errors.Is(err, fs.ErrNotExist) {
		err = snapshot.ErrGone
	}
	if err != nil {
		return snapshot.Vitals{}, fmt.Errorf("measure container %s: %w", c.ID, err)
	}
	var sum snapshot.Vitals
	for _, pid := range tree.pids {
		// One that has ended meanwhile counts as nothing.
		sum.RSSBytes += tree.resident(pid)
		sum.CPU += tree.used(pid)
	}
	if s.HostRoot != "" {
		sum.Periods, sum.Throttled = tree.throttling(s.HostRoot)
	}
	return sum, nil
}

// throttling reads how often the CPU limit of the first process's cgroup held it back, 0 where that cannot be told. Source:
// Documentation/admin-guide/cgroup-v2.rst (cpu.stat), scheduler/sched-bwc.rst for version 1, which has the same names.
func (t *tree) throttling(hostRoot string) (periods, throttled int64) {
	text, err := os.ReadFile(t.path(t.pids[0], "cgroup"))
	if err != nil {
		return 0, 0
	}
	var stat []byte
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		folder := ""
		if slices.Contains(strings.Split(fields[1], ","), "cpu") {
			folder = "cpu"
		} else if fields[1] != "" {
			continue
		}
		if found, err := os.ReadFile(filepath.Join(hostRoot, "sys/fs/cgroup", folder, fields[2], "cpu.stat")); err == nil {
			stat = found
		}
	}
	for line := range strings.Lines(string(stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case name == "nr_periods":
			periods = n
		case name == "nr_throttled":
			throttled = n
		}
	}
	return periods, throttled
}

// resident is the memory of a process that no file has. What processes share is counted once for each. Source:
// proc_pid_status(5).
func (t *tree) resident(pid int) int64 {
	status, err := os.ReadFile(t.path(pid, "status"))
	if err != nil {
		return 0
	}
	var sum int64
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "RssAnon" && name != "RssShmem" && name != "VmSwap" && name != "HugetlbPages" {
			continue
		}
		if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
			sum += kib << 10
		}
	}
	return sum
}

// used is the CPU time of a process and of the children that it has waited for.
func (t *tree) used(pid int) time.Duration {
	stat, err := os.ReadFile(t.path(pid, "stat"))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may hold anything. What follows begins with field 3.
	_, rest, _ := strings.Cut(string(stat[max(0, strings.LastIndex(string(stat), ")")):]), " ")
	fields := strings.Fields(rest)
	var sum time.Duration
	for i := 11; i < 15 && i < len(fields); i++ { // utime, stime, cutime, cstime
		if ticks, err := strconv.ParseInt(fields[i], 10, 64); err == nil {
			sum += time.Duration(ticks) * tick
		}
	}
	return sum
}
