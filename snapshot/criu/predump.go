package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	gocriu "github.com/checkpoint-restore/go-criu/v7"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// PreDumpCommand as its first argument has a program call PreDump with the second one. Every program that runs rounds of an
// Incremental must know it, for it is called again in the host's namespaces: go-criu knows neither those nor contexts, so
// what it starts is ended with a process of its own.
const PreDumpCommand = "criu-pre-dump"

const (
	preDumpLog = "pre-dump.log"
	// warnings is CRIU's log level for a round, of which nobody reads more.
	warnings = 2
	// tracedEvery is how often it is looked whether CRIU has left the tasks.
	tracedEvery = time.Millisecond
)

// preDumpOrder is what PreDump is told.
type preDumpOrder struct {
	PID          int
	Images, Work string
	// Parent is the folder of the round before, relative to Images; empty for all memory.
	Parent string
}

// PreDump has CRIU, the one in PATH, write the memory of a process and its children that was written to since the round
// before, as Incremental has ordered. They stand still for less than that takes, and run on.
func PreDump(order string) error {
	var o preDumpOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		return fmt.Errorf("pre-dump: decode order: %w", err)
	}
	images, err := os.Open(o.Images)
	if err != nil {
		return fmt.Errorf("pre-dump: %w", err)
	}
	defer images.Close()
	work, err := os.Open(o.Work)
	if err != nil {
		return fmt.Errorf("pre-dump: %w", err)
	}
	defer work.Close()
	options := &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(int32(images.Fd())), WorkDirFd: proto.Int32(int32(work.Fd())), Pid: proto.Int32(int32(o.PID)),
		TrackMem: proto.Bool(true), LogLevel: proto.Int32(warnings), LogFile: proto.String(preDumpLog),
	}
	if o.Parent != "" {
		options.ParentImg = proto.String(o.Parent)
	}
	if cgroup := freezerOf(o.PID); cgroup != "" {
		options.FreezeCgroup = proto.String(cgroup)
	}
	// Without Prepare, PreDump would take it for an error of its own that CRIU misses further orders at the end.
	c := gocriu.MakeCriu()
	if err := c.Prepare(); err != nil {
		return fmt.Errorf("pre-dump: start criu: %w", err)
	}
	err = c.PreDump(options, nil)
	ended := c.Cleanup()
	if err != nil {
		return errors.Join(fmt.Errorf("pre-dump: %w", err), ended)
	}
	return nil
}

// freezerOf is the cgroup by which CRIU may stop a process and its children at once, empty under cgroup v1, where it stops
// them one by one: its freezer does not get along with tasks that are stopped already.
func freezerOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("%s/%d/cgroup", proc, pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		path, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		folder := filepath.Join("/sys/fs/cgroup", path)
		if _, err := os.Stat(filepath.Join(folder, "cgroup.freeze")); unified && err == nil {
			return folder
		}
	}
	return ""
}

// preDump has PreDump called on the host, and returns what that took of the processor.
func (r *Runc) preDump(ctx context.Context, o preDumpOrder) (time.Duration, error) {
	order, err := json.Marshal(o)
	if err != nil {
		return 0, fmt.Errorf("pre-dump: %w", err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("pre-dump: find own program: %w", err)
	}
	defer self.Close()
	const first = 3 // of ExtraFiles
	c, err := begin(r.hostCommand(context.WithoutCancel(ctx), true, "env", "PATH="+r.CRIUDir+":"+hostPath,
		"CRIU_CONFIG_FILE="+r.ConfigFile, "/proc/self/fd/"+strconv.Itoa(first), PreDumpCommand, string(order)), self)
	if err != nil {
		return 0, err
	}
	err = c.finish(ctx, o.PID, nil)
	if err != nil {
		err = fmt.Errorf("%w%s", err, tail(filepath.Join(r.seen(o.Work), preDumpLog)))
	}
	return c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime(), err
}

// finish waits for the end of the call. It ends the call with ctx, but not while CRIU may have its code in the tasks, which could
// not go on with that; then it waits on, for settle at most. halted may be nil.
func (c *call) finish(ctx context.Context, init int, halted func() bool) error {
	select {
	case <-c.exited:
		return c.err
	case <-ctx.Done():
	}
	ticker, settled := time.NewTicker(tracedEvery), time.NewTimer(settle)
	defer ticker.Stop()
	defer settled.Stop()
	for waiting := true; waiting && (halted == nil || !halted()) && c.traces(init); {
		select {
		case <-c.exited:
			waiting = false
		case <-settled.C:
			waiting = false
		case <-ticker.C:
		}
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // where it has ended just now, all is well
	<-c.exited
	return errors.Join(context.Cause(ctx), c.err)
}

// traces says whether a process of the call traces one of init's tree.
func (c *call) traces(init int) bool {
	pids, err := memory.Processes(proc, init)
	if err != nil {
		return false // it has ended
	}
	for _, pid := range pids {
		if tracer := tracerOf(pid); tracer > 0 {
			if group, err := syscall.Getpgid(tracer); err == nil && group == c.cmd.Process.Pid {
				return true
			}
		}
	}
	return false
}
