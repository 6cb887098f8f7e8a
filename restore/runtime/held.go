package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// leaveStopped is the line of CRIU's configuration by which it sends SIGSTOP to every task before it lets go of it: none
// comes to run an instruction of its program.
const leaveStopped = "leave-stopped\n"

// pauseTries is how often the runtime is asked to freeze. Under cgroup v1 it gives up where tasks of a busy node do not come
// to a stop within a moment.
const pauseTries = 10

// held says that the container is to stand still until the agent thaws it.
func (r restore) held() bool { return r.reply.Action == handover.ActionRestoreHeld }

// criuConfig is the path of CRIU's configuration for this restore, empty for none.
func (r restore) criuConfig() (string, error) {
	if !r.held() {
		return r.reply.CRIUConfig, nil
	}
	var lines []byte
	if r.reply.CRIUConfig != "" {
		var err error
		if lines, err = os.ReadFile(r.reply.CRIUConfig); err != nil {
			return "", fmt.Errorf("read CRIU's configuration: %w", err)
		}
	}
	path := filepath.Join(r.reply.WorkPath, "criu.conf")
	if err := os.WriteFile(path, append(lines, "\n"+leaveStopped...), 0o600); err != nil {
		return "", fmt.Errorf("write CRIU's configuration: %w", err)
	}
	return path, nil
}

// hold freezes what CRIU has left stopped, and continues it in there: a thaw is then all that it lacks to run.
func (r restore) hold(ctx context.Context) error {
	if err := r.pause(ctx); err != nil {
		return fmt.Errorf("freeze restored container %s: %w", r.id, err)
	}
	var pids []int
	if err := r.options.ask(&pids, r.call, "ps", "--format", "json", r.id); err != nil {
		return fmt.Errorf("list processes of restored container %s: %w", r.id, err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			return fmt.Errorf("continue process %d of frozen container %s: %w", pid, r.id, err)
		}
	}
	return nil
}

func (r restore) pause(ctx context.Context) error {
	for try := 1; ; try++ {
		output, err := exec.CommandContext(ctx, r.options.Runtime, "--root", r.call.stateRoot(), "pause", r.id).CombinedOutput()
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(output)))
		if try == pauseTries || ctx.Err() != nil || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
	}
}

// markHeld makes the file that says that the container only wants thawing. From here on the agent may thaw it.
func (r restore) markHeld() error {
	dir := filepath.Join(r.options.HeldDir, filepath.Base(r.config.Annotations[annotationPodUID]))
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, r.id), nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("mark %s as held: %w", r.id, err)
	}
	return nil
}

// heldFile is the file of a held container, empty for any other.
func (o Options) heldFile(id string) string {
	found, err := filepath.Glob(filepath.Join(o.HeldDir, "*", id))
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0]
}

func (o Options) dropHeld(id string) {
	if path := o.heldFile(id); path != "" {
		_ = os.Remove(path)
		_ = os.Remove(filepath.Dir(path)) // with the last one of its pod
	}
}

// holdsAny says whether a container of the pod stands restored and frozen: no other one of it is created without the
// agent's word.
func (o Options) holdsAny(podUID string) bool {
	entries, err := os.ReadDir(filepath.Join(o.HeldDir, filepath.Base(podUID)))
	return podUID != "" && !errors.Is(err, os.ErrNotExist) && (err != nil || len(entries) > 0)
}
