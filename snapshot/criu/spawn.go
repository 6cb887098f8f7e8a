package criu

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// spawnTries is how often a container is frozen anew because of a vfork under way.
const spawnTries = 5

// Pause implements snapshot.Runtime. Who waits in vfork (as posix_spawn, Go and the JVM do) for a child that is frozen before its exec does not
// stop for CRIU, which waits for that until its timeout. So it is frozen anew, a moment later; a child that takes its time
// is left to the dump.
func (r *Runc) Pause(ctx context.Context, id string) error {
	state, err := r.state(ctx, id)
	if err != nil || snapshot.Status(state.Status) != snapshot.StatusRunning {
		return r.freeze(ctx, id)
	}
	for try := 1; ; try++ {
		if err := r.freeze(ctx, id); err != nil || try == spawnTries || !spawning(state.PID) {
			return err
		}
		if err := r.turn(ctx, "resume", id, snapshot.StatusRunning); err != nil {
			return err
		}
	}
}

// spawning says whether a thread of init's tree waits in vfork. No other wait is in these functions of the kernel itself.
func spawning(init int) bool {
	pids, _ := memory.Processes(proc, init)
	for _, pid := range pids {
		threads, _ := filepath.Glob(filepath.Join(proc, strconv.Itoa(pid), "task", "*", "wchan"))
		for _, thread := range threads {
			where, _ := os.ReadFile(thread)
			if strings.HasSuffix(string(where), "kernel_clone") || strings.Contains(string(where), "vfork") {
				return true
			}
		}
	}
	return false
}
