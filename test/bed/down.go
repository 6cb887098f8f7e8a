package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/cgroup"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

const downTimeout = 30 * time.Second

// Down ends the bed and removes everything of it: processes, namespaces, mounts, interfaces, cgroups, state folder. It
// also removes what is left of a bed that was killed. A folder without a bed is no error.
func Down(ctx context.Context, dir string) error {
	real, err := realPath(dir)
	if err != nil {
		return err
	}
	d := layout.Dir(real)
	if err := d.Validate(); err != nil {
		return err
	}
	if err := endSupervisor(ctx, d); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	lock, err := waitLock(ctx, lockPath(d), func() {})
	if err != nil {
		return fmt.Errorf("take down %s: another process is bringing it up: %w", d, err)
	}
	defer lock.Close()
	if err := removeLeftovers(ctx, d); err != nil {
		return err
	}
	return os.Remove(lockPath(d)) // while we hold it: see tryLock
}

// endSupervisor ends the supervisor that the state folder names, and with it the bed, and returns when all of its
// processes are gone.
func endSupervisor(ctx context.Context, d layout.Dir) error {
	state, err := layout.ReadState(d)
	if errors.Is(err, layout.ErrNoState) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for first := true; !state.Supervisor.Gone(); first = false {
		if first {
			_ = syscall.Kill(state.Supervisor.PID, syscall.SIGKILL)
		}
		// A frozen container cannot die, and pid 1 waits for it.
		if err := killCgroups(d); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end supervisor %d: %w", state.Supervisor.PID, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

func killCgroups(d layout.Dir) error {
	var faults []error
	for _, n := range layout.Nodes() {
		faults = append(faults, cgroup.Kill(layout.CgroupName(layout.Suffix(string(d)), n.Name)))
	}
	return errors.Join(faults...)
}

// removeLeftovers removes what a dead bed leaves. The caller holds the lock.
func removeLeftovers(ctx context.Context, d layout.Dir) error {
	if err := endSupervisor(ctx, d); err != nil {
		return err
	}
	if err := removeCgroups(ctx, d); err != nil {
		return err
	}
	if err := isOurs(d); err != nil {
		return err
	}
	if err := os.RemoveAll(string(d)); err != nil {
		return fmt.Errorf("remove state folder: %w", err)
	}
	return nil
}

func removeCgroups(ctx context.Context, d layout.Dir) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	var faults []error
	for _, n := range layout.Nodes() {
		faults = append(faults, cgroup.Remove(ctx, layout.CgroupName(layout.Suffix(string(d)), n.Name)))
	}
	return errors.Join(faults...)
}

// isOurs keeps a mistyped folder from being removed: a state folder is missing, empty or marked.
func isOurs(d layout.Dir) error {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at state folder: %w", err)
	}
	if _, err := os.Stat(d.Marker()); err != nil {
		return fmt.Errorf("state folder %s holds files that are not a bed's: name another one", d)
	}
	return nil
}
