package bed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// heartbeat is how often a long step says that it is still at work.
const heartbeat = 15 * time.Second

// reporter writes progress lines with the time since it was made.
type reporter struct {
	mu    sync.Mutex
	w     io.Writer
	began time.Time
}

func newReporter(w io.Writer) *reporter {
	if w == nil {
		w = io.Discard
	}
	return &reporter{w: w, began: time.Now()}
}

func (p *reporter) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, "[%6.1fs] %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

// long runs a step that may take minutes: a line at its start, one every heartbeat, one at its end.
func (p *reporter) long(what string, step func() error) error {
	began := time.Now()
	p.say("%s ...", what)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				p.say("%s: at it for %.0f s", what, time.Since(began).Seconds())
			}
		}
	})
	err := step()
	close(done)
	wg.Wait()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	p.say("%s: done in %.1f s", what, time.Since(began).Seconds())
	return nil
}

// tailLines bounds how much of a failed command's output becomes part of its error.
const tailLines = 15

// run runs a command; its last lines of output are part of the error.
func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", cmd.Args[0], err, tail(out.String()))
	}
	return nil
}

func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// command is exec.CommandContext with a folder and additions to the environment.
func command(ctx context.Context, dir string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), env...)
	return cmd
}
