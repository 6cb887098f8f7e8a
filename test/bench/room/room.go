// Package room runs programs in namespaces of their own, which end with this process whatever becomes of it: nothing
// that was started or mounted inside outlives the room, and the machine outside sees no mount and no interface of it.
package room

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spaces are the namespaces of a room beside those of mounts and processes.
type Spaces uintptr

// Network gives a room a network of its own, whose loopback is down.
const Network Spaces = unix.CLONE_NEWNET

// hold makes its mounts its own, runs the room's script and then waits until its standard input ends, as it does when
// the process that opened the room ends. It is the room's process 1, so everything inside ends with it.
const hold = "set -e; mount --make-rprivate /; eval \"$0\"; echo ready; read -r _ || :"

// Room is open until Close.
type Room struct {
	holder *exec.Cmd
	input  io.Closer
	spaces Spaces
}

// Open makes a room and runs the shell script in it; args are its "$1" and so on.
func Open(ctx context.Context, spaces Spaces, script string, args ...string) (_ *Room, err error) {
	r := &Room{holder: exec.CommandContext(ctx, "sh", append([]string{"-c", hold, script}, args...)...), spaces: spaces}
	r.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | uintptr(spaces)}
	var faults bytes.Buffer
	r.holder.Stderr = &faults
	if r.input, err = r.holder.StdinPipe(); err != nil {
		return nil, fmt.Errorf("open room: %w", err)
	}
	output, err := r.holder.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("open room: %w", err)
	}
	if err := r.holder.Start(); err != nil {
		return nil, fmt.Errorf("open room: %w", err)
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "ready\n" {
		return nil, fmt.Errorf("open room: said %q: %w: %s", line, errors.Join(err, r.Close()), strings.TrimSpace(faults.String()))
	}
	return r, nil
}

// Close ends everything in the room and waits for it.
func (r *Room) Close() error {
	err := errors.Join(r.input.Close(), ignoreDone(r.holder.Process.Kill()))
	var ended *exec.ExitError
	if fault := r.holder.Wait(); fault != nil && !errors.As(fault, &ended) {
		err = errors.Join(err, fault)
	}
	if err != nil {
		return fmt.Errorf("close room: %w", err)
	}
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// PID is the room's process 1 as this process sees it.
func (r *Room) PID() int { return r.holder.Process.Pid }

// Path is where this process sees an absolute path of the room.
func (r *Room) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(r.PID()), "root", inside)
}

// Command is one that will run in the room, with the PATH of a Debian root and nothing else of our environment. When
// ctx ends, nsenter is killed and the command itself lives on until Close.
func (r *Room) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	into := []string{"--target", strconv.Itoa(r.PID()), "--mount", "--pid"}
	if r.spaces&Network != 0 {
		into = append(into, "--net")
	}
	command := exec.CommandContext(ctx, "nsenter", append(append(into, "--", name), args...)...)
	command.WaitDelay = time.Second
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TMPDIR=/tmp"}
	return command
}

// Run runs a command in the room and returns what it wrote to standard output; an error has its standard error.
func (r *Room) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	output, err := r.Command(ctx, name, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), withStderr(err))
	}
	return output, nil
}

func withStderr(err error) error {
	var ended *exec.ExitError
	if errors.As(err, &ended) && len(ended.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(ended.Stderr))
	}
	return err
}
