package criu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// A dump outlives its agent. CRIU has code of its own in the tasks for a while, and tasks whose CRIU is killed then die of
// it; but a container runtime that sees the agent end kills whatever is in the container's cgroup. So dumps run in the root
// cgroups: all of them, for a runtime that cannot remove a cgroup of a container does not call that ended, and then there is no
// next agent, for which a dump that serves pages waits. The next agent ends those of an earlier life when that does no harm, before it does anything else to the
// container.

// apart takes the folder of cgroups and a program, and runs that in the root of each hierarchy: under cgroup v2 that is the folder
// itself, under v1 each in it.
// A dump is worth more than its place: what cannot be written is left.
const apart = `leave() { [ ! -e "$1/cgroup.procs" ] || echo $$ > "$1/cgroup.procs"; }
{ if [ -e "$0/cgroup.procs" ]; then leave "$0"; else for h in "$0"/*; do leave "$h"; done; fi; } 2>/dev/null
exec "$@"`

const verbDump = "checkpoint"

// endOrphan ends dumps of the container that an earlier life of this agent began. Own dumps are none of its affair.
func (r *Runc) endOrphan(ctx context.Context, id string) error {
	if _, looked := r.looked.Load(id); looked {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, letGo)
	defer cancel()
	ticker := time.NewTicker(readyEvery)
	defer ticker.Stop()
	for {
		pids := r.orphans(id)
		if len(pids) == 0 {
			r.looked.Store(id, true)
			return nil
		}
		for _, pid := range pids {
			// CRIU has left the tasks when it serves. Not to be waited for any longer: it would do so for ever.
			if served, err := listensIn(filepath.Join(proc, strconv.Itoa(pid), "net", "tcp")); err == nil && served || ctx.Err() != nil {
				r.endServer(context.WithoutCancel(ctx), id, pid)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if len(r.orphans(id)) > 0 {
				return fmt.Errorf("end dump of container %s that an earlier agent began: %w", id, context.Cause(ctx))
			}
		}
	}
}

// endServer kills a dump while the container's cgroup is frozen, for CRIU has thawed it and holds the tasks itself.
func (r *Runc) endServer(ctx context.Context, id string, pid int) {
	ctx, cancel := context.WithTimeout(ctx, letGo)
	defer cancel()
	if status, err := r.Status(ctx, id); err == nil && status == snapshot.StatusRunning {
		// Where it fails the tasks run for a moment, as they would if the agent had been killed by anything else.
		_, _ = r.run(ctx, "pause", id)
	}
	if group, err := syscall.Getpgid(pid); err == nil && group != syscall.Getpgrp() {
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
}

// orphans are the processes of dumps of the container that this process has not begun.
func (r *Runc) orphans(id string) (pids []int) {
	folders, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, folder := range folders {
		line, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if err != nil || args[len(args)-1] != id || !slices.Contains(args, verbDump) || !slices.Contains(args, r.Binary) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil && parentOf(folder) != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parentOf reads a process's parent from its folder in proc, 0 where it has ended.
func parentOf(folder string) int {
	status, err := os.ReadFile(filepath.Join(folder, "status"))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nPPid:")
	line, _, _ := strings.Cut(rest, "\n")
	parent, _ := strconv.Atoi(strings.TrimSpace(line))
	return parent
}
