// Package pidone is what a pid 1 needs: it starts children, reaps them and every orphan, and keeps services running.
// In a process that uses a Reaper, os/exec must not be used: the reaper takes the exit status of every child.
package pidone

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// Spec describes a process to start.
type Spec struct {
	// Args are the program (searched in $PATH) and its arguments.
	Args []string
	// Env is added to the environment of the calling process.
	Env []string
	Dir string
	// Stdin and Output may be nil; Output takes standard output and standard error.
	Stdin  *os.File
	Output *os.File
	// Files become descriptors 3, 4, and so on.
	Files []*os.File
	Sys   *syscall.SysProcAttr
}

// Child is a started process.
type Child struct {
	PID    int
	done   chan struct{}
	status syscall.WaitStatus
}

// Done is closed when the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err is nil for exit status 0. Call it after Done.
func (c *Child) Err() error {
	switch {
	case c.status.Signaled():
		return fmt.Errorf("ended by signal %s", c.status.Signal())
	case c.status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", c.status.ExitStatus())
	}
	return nil
}

// Signal sends a signal; one to a process that has ended does nothing.
func (c *Child) Signal(sig syscall.Signal) {
	select {
	case <-c.done:
	default:
		_ = syscall.Kill(c.PID, sig)
	}
}

// Reaper starts processes and reaps them.
type Reaper struct {
	mu       sync.Mutex
	children map[int]*Child
}

// NewReaper makes a reaper. Nothing is reaped before Run.
func NewReaper() *Reaper { return &Reaper{children: map[int]*Child{}} }

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGCHLD)
	defer signal.Stop(sigs)
	for {
		r.reap()
		select {
		case <-ctx.Done():
			return
		case <-sigs:
		}
	}
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		if c := r.children[pid]; c != nil {
			c.status = status
			delete(r.children, pid)
			close(c.done)
		}
	}
}

// Start starts a process.
func (r *Reaper) Start(s Spec) (*Child, error) {
	path, err := exec.LookPath(s.Args[0])
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Args[0], err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Args[0], err)
	}
	defer null.Close()
	in, out := s.Stdin, s.Output
	if in == nil {
		in = null
	}
	if out == nil {
		out = null
	}
	fds := []uintptr{in.Fd(), out.Fd(), out.Fd()}
	for _, f := range s.Files {
		fds = append(fds, f.Fd())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, s.Args, &syscall.ProcAttr{
		Dir: s.Dir, Env: append(os.Environ(), s.Env...), Files: fds, Sys: s.Sys})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	c := &Child{PID: pid, done: make(chan struct{})}
	r.children[pid] = c
	return c, nil
}

// Command runs a short command to its end. Its output is part of the error.
func (r *Reaper) Command(args ...string) error {
	rd, wr, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", args[0], err)
	}
	defer rd.Close()
	c, err := r.Start(Spec{Args: args, Output: wr})
	wr.Close()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	_, _ = io.Copy(&out, rd)
	<-c.done
	if err := c.Err(); err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}
