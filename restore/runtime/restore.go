package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// deleteTimeout bounds the removal of what a failed restore has left, in the time that create no longer has.
const deleteTimeout = 10 * time.Second

// restore is one create that becomes a `runc restore`.
type restore struct {
	options Options
	agent   *agentClient
	call    Invocation
	flags   Flags
	id      string
	bundle  string
	config  bundleConfig
	reply   handover.PrepareReply
}

// run restores the container and tells the agent how it went. On error nothing of the container runs; again says that
// the agent knows of the failure, nothing is left of the attempt, and another one may end otherwise.
func (r restore) run(ctx context.Context) (again bool, err error) {
	result := handover.ResultRequest{ContainerID: r.id}
	again, failure := r.attempt(ctx)
	if failure != nil {
		left := r.remove(context.WithoutCancel(ctx))
		again = again && left == nil
		failure = errors.Join(failure, left)
		result.Error = failure.Error()
	}
	posting, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.options.Times.Result)
	defer cancel()
	if err := r.agent.result(posting, result); err != nil {
		report(r.call, r.options.Stderr, "warning", "lifeboat-runtime: "+err.Error())
		again = false
	}
	return again && ctx.Err() == nil, failure
}

// attempt restores the container once. On error, again says that it is `runc restore` that failed: before it nothing was
// tried, and what failed will fail again; after it the process has run.
func (r restore) attempt(ctx context.Context) (again bool, err error) {
	if r.flags.Value("pidfd-socket") != "" {
		return false, errors.New("restore: runc restore knows no --pidfd-socket")
	}
	if err := r.options.reserveMarker(r.id); err != nil {
		return false, err
	}
	defer r.options.dropReservedMarker(r.id)
	uts := r.config.utsPath()
	var sandbox names
	if uts != "" {
		var err error
		if sandbox, err = readNames(uts); err != nil {
			return false, fmt.Errorf("read the sandbox's hostname: %w", err)
		}
	}
	failure := r.runc(ctx)
	if failure == nil && r.held() {
		failure = r.hold(ctx)
	}
	if uts != "" {
		// After a failure as well: CRIU may have come far enough to rename the sandbox. And where the process runs, a wrong
		// name is no reason to end it and let it do its last steps twice.
		if err := writeNames(uts, sandbox); err != nil {
			report(r.call, r.options.Stderr, "warning", "lifeboat-runtime: set the sandbox's hostname again: "+err.Error())
		}
	}
	if failure != nil {
		// The console socket takes one terminal, and the failed restore may have sent its own.
		return r.flags.Value("console-socket") == "", failure
	}
	if err := r.options.keepMarker(r.id); err != nil || !r.held() {
		return false, err
	}
	return false, r.markHeld()
}

// runc runs `runc restore`. Stdin, stdout and stderr are the container's: runc hands them to CRIU in place of those of
// the dump, so that nothing may come between, and what went wrong is read from runc's log.
func (r restore) runc(ctx context.Context) error {
	log, globals := r.call.Log, r.call.Globals
	if log == "" || r.call.LogFormat != "json" {
		log = filepath.Join(r.reply.WorkPath, "runc.log")
		globals = append(globals[:len(globals):len(globals)], "--log", log, "--log-format", "json")
	}
	var offset int64
	if info, err := os.Stat(log); err == nil {
		offset = info.Size()
	}
	config, err := r.criuConfig()
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, r.options.Runtime, r.arguments(globals)...)
	command.Env = r.environment(config)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	// The death signal comes when the thread that started runc ends, so that thread has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err = command.Run(); err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("out of time: %w", ctx.Err())
	}
	message := lastError(log, offset)
	if lines := LogTail(filepath.Join(r.reply.WorkPath, "restore.log")); lines != "" {
		message += "\nCRIU's log (" + filepath.Join(r.reply.WorkPath, "restore.log") + "):\n" + lines
	}
	return fmt.Errorf("restore %s from %s: %w: %s", r.id, r.reply.ImagePath, err, message)
}

// arguments are those of `runc restore`: what create was given and restore knows as well, and the image. The flags for
// file locks and the cgroup have no other way to CRIU: what runc sends it wins over CRIU's configuration file.
func (r restore) arguments(globals []string) []string {
	args := append(globals[:len(globals):len(globals)], "restore", "--detach", "--no-subreaper", "--file-locks",
		"--bundle", r.bundle, "--image-path", r.reply.ImagePath, "--work-path", r.reply.WorkPath)
	for _, name := range []string{"pid-file", "console-socket"} {
		if value := r.flags.Value(name); value != "" {
			args = append(args, "--"+name, value)
		}
	}
	if r.flags.Bool("no-pivot") {
		args = append(args, "--no-pivot")
	}
	return append(args, r.id)
}

// environment lets runc find our CRIU, and CRIU the options that runc does not know.
func (r restore) environment(config string) []string {
	env := make([]string, 0, len(os.Environ())+2)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "PATH=") && !strings.HasPrefix(entry, "CRIU_CONFIG_FILE=") {
			env = append(env, entry)
		}
	}
	env = append(env, "PATH="+r.options.ToolDir+":"+os.Getenv("PATH"))
	if config != "" {
		env = append(env, "CRIU_CONFIG_FILE="+config)
	}
	return env
}

// remove ends whatever a failed restore has left.
func (r restore) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	r.call.detachRoot(r.id)
	if r.held() {
		r.options.killFrozen(r.call, r.id)
	}
	command := exec.CommandContext(ctx, r.options.Runtime, "--root", r.call.stateRoot(), "delete", "--force", r.id)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("delete what is left of %s: %w: %s", r.id, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// stateRoot is the folder of the runtime's state: what --root says, or runc's default.
func (i Invocation) stateRoot() string {
	if i.Root != "" {
		return i.Root
	}
	return "/run/runc"
}

// detachRoot takes away the bind mount of the container's root that a killed `runc restore` leaves in its state folder.
// `runc delete` would first remove the container's files through it and then fail on the mount.
func (i Invocation) detachRoot(id string) {
	_ = syscall.Unmount(filepath.Join(i.stateRoot(), id, "criu-root"), syscall.MNT_DETACH|umountNoFollow)
}

// umountNoFollow is UMOUNT_NOFOLLOW, which package syscall does not name.
const umountNoFollow = 8
