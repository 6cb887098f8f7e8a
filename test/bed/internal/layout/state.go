package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Process names a process for good: a pid may be used again, a pid with its start time is not.
type Process struct {
	PID int `json:"pid"`
	// Started is the process's start in clock ticks after boot (proc_pid_stat(5), field 22).
	Started uint64 `json:"started"`
}

// FindProcess reads the process that has the pid now.
func FindProcess(pid int) (Process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	started, err := parseStart(string(stat))
	if err != nil {
		return Process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return Process{PID: pid, Started: started}, nil
}

// parseStart takes the start time from a stat line. The command name in it may hold spaces and brackets.
func parseStart(stat string) (uint64, error) {
	_, rest, ok := cutLast(stat, ")")
	fields := strings.Fields(rest)
	const start = 22 - 3 // fields count from 1, and two of them stand before rest
	if !ok || len(fields) <= start {
		return 0, errors.New("stat line is too short")
	}
	return strconv.ParseUint(fields[start], 10, 64)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Alive reports whether this very process still exists. A zombie counts as gone.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return false
	}
	started, err := parseStart(string(stat))
	_, rest, _ := cutLast(string(stat), ")")
	return err == nil && started == p.Started && !strings.HasPrefix(strings.TrimSpace(rest), "Z")
}

// State is the content of the state file.
type State struct {
	Suffix     string  `json:"suffix"`
	Supervisor Process `json:"supervisor"`
	// Ready is set once Up has returned; until then the bed is being made.
	Ready bool `json:"ready"`
	// Root is the Debian root that holds kubectl; Containerd the version asked for, empty for Debian's.
	Root       string    `json:"root"`
	Containerd string    `json:"containerd,omitempty"`
	Since      time.Time `json:"since"`
	// Ports on 127.0.0.1 of the machine's root network namespace.
	APIPort      int `json:"apiPort"`
	BucketPort   int `json:"bucketPort"`
	RegistryPort int `json:"registryPort"`
}

// ErrNoState says that the folder holds no bed.
var ErrNoState = errors.New("no bed here")

// ReadState reads a bed's state file. A missing file is ErrNoState.
func ReadState(d Dir) (State, error) {
	var s State
	err := ReadJSON(d.State(), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%w: %s", ErrNoState, d)
	}
	return s, err
}

// ReadJSON reads one JSON value from a file.
func ReadJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// WriteJSON writes one JSON value to a file, readable by its owner alone: by a temporary name, then rename.
func WriteJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(append(b, '\n'))
	if err := errors.Join(err, tmp.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return os.Rename(tmp.Name(), path)
}
