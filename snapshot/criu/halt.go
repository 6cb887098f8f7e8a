package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// What CRIU's log says when it has begun, and before it puts its code into a task. It stops all tasks between the two, for
// which it may take long: under cgroup v1 for ever where one was stopped already. Source: cr_dump_tasks and dump_one_task in
// criu/cr-dump.c.
const (
	dumpLog   = "dump.log"
	saysBegun = "Dumping processes (pid"
	saysInto  = "Dumping task (pid"
)

// checkpoint has the runtime dump the frozen container id, whose first process is init, by args, with CRIU's log in work. Where
// ctx ends it, the container is frozen again.
func (r *Runc) checkpoint(ctx context.Context, id string, init int, work string, args []string) error {
	c, err := begin(r.hostCommand(context.WithoutCancel(ctx), true, r.argv(args)...))
	if err != nil {
		return err
	}
	err = c.finish(ctx, init, func() bool { return r.halted(ctx, id, c, work) })
	if err == nil || ctx.Err() == nil {
		return err
	}
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
	defer cancel()
	if fault := r.freeze(again, id); fault != nil && !errors.Is(fault, snapshot.ErrGone) {
		err = fmt.Errorf("%w: %w: %w", err, snapshot.ErrNotFrozen, fault)
	}
	return err
}

// halted ends the call for good where that does the tasks no harm yet, by the log in work, and says whether it has. CRIU
// writes to its log before it does what it says: stopped before that, it will not have done it. The tasks are frozen first, for
// CRIU may have thawed them and hold them itself.
func (r *Runc) halted(ctx context.Context, id string, c *call, work string) bool {
	if !early(work) {
		return false
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGSTOP) // where it has ended, nothing is left to stop
	if !early(work) {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGCONT)
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
	defer cancel()
	_ = r.freeze(ctx, id) // where it fails, the caller finds it not frozen
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	<-c.exited
	return true
}

func early(work string) bool {
	log, err := os.ReadFile(filepath.Join(work, dumpLog))
	return err == nil && strings.Contains(string(log), saysBegun) && !strings.Contains(string(log), saysInto)
}
