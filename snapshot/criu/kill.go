package criu

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// killFrozen sends SIGKILL to every process of a frozen container, and says whether it is one. The runtime kills the first one and, under cgroup v1,
// thaws them all for that: the others would run until the kernel ends them with their PID namespace.
func (r *Runc) killFrozen(ctx context.Context, id string) (bool, error) {
	state, err := r.state(ctx, id)
	if err != nil || snapshot.Status(state.Status) != snapshot.StatusPaused {
		return false, err
	}
	pids, err := memory.Processes(proc, state.PID)
	for _, pid := range pids {
		if fault := syscall.Kill(pid, syscall.SIGKILL); fault != nil && !errors.Is(fault, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("process %d: %w", pid, fault))
		}
	}
	return true, err
}
