package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Holds are the files that tell lifeboat-runtime to hold signals back from a container (package handover), and this
// agent after a restart which containers it had begun to evacuate.
type Holds struct {
	// Dir is handover.HoldDir as this process sees it.
	Dir string
}

// Set starts to hold.
func (h Holds) Set(id string) error {
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder of holds: %w", err)
	}
	f, err := os.OpenFile(h.path(id), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("hold signals of container %s: %w", id, err)
	}
	return f.Close()
}

// Clear ends to hold and returns the signals that came meanwhile, each once, in their order. The wrapper appends under the
// same lock and only while the file has its name, so none is missed.
func (h Holds) Clear(id string) ([]syscall.Signal, error) {
	f, err := os.Open(h.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("end hold of container %s: %w", id, err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock hold of container %s: %w", id, err)
	}
	if err := os.Remove(h.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("end hold of container %s: %w", id, err)
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read held signals of container %s: %w", id, err)
	}
	var signals []syscall.Signal
	for _, field := range strings.Fields(string(content)) {
		number, err := strconv.Atoi(field)
		if err != nil {
			return signals, fmt.Errorf("read held signals of container %s: %q is no number", id, field)
		}
		if s := syscall.Signal(number); !slices.Contains(signals, s) {
			signals = append(signals, s)
		}
	}
	return signals, nil
}

// Any tells whether signals have come for the container since Set.
func (h Holds) Any(id string) (bool, error) {
	info, err := os.Stat(h.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read held signals of container %s: %w", id, err)
	}
	return info.Size() > 0, nil
}

// pendingSignals tells whether signals wait for a process that cannot take them now. Source: proc_pid_status(5).
func pendingSignals(proc string, pid int) (bool, error) {
	status, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "status"))
	if err != nil {
		return false, fmt.Errorf("read pending signals of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(status)) {
		name, mask, _ := strings.Cut(line, ":")
		if (name == "SigPnd" || name == "ShdPnd") && strings.Trim(mask, "0 \t\n") != "" {
			return true, nil
		}
	}
	return false, nil
}

// Held tells whether the container is on hold.
func (h Holds) Held(id string) (bool, error) {
	_, err := os.Stat(h.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for hold of container %s: %w", id, err)
	}
	return true, nil
}

// List returns the ids of the containers on hold.
func (h Holds) List() ([]string, error) {
	entries, err := os.ReadDir(h.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list holds: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

func (h Holds) path(name string) string { return filepath.Join(h.Dir, filepath.Base(name)) }
