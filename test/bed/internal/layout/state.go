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

// exiting is PF_EXITING of the kernel's include/linux/sched.h.
const exiting = 0x4

// stat is what we read of /proc/PID/stat.
type stat struct {
	state   byte
	flags   uint64
	started uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	s, err := parseStat(string(b))
	if err != nil {
		return stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return s, nil
}

// parseStat takes a stat line apart. The command name in it may hold spaces and brackets.
func parseStat(line string) (stat, error) {
	fields := strings.Fields(line[strings.LastIndex(line, ")")+1:])
	// proc_pid_stat(5) counts from 1: ours begin with its field 3, the state; flags is its 9, starttime its 22.
	const state, flags, start = 0, 6, 19
	if len(fields) <= start {
		return stat{}, errors.New("stat line is too short")
	}
	f, flagsErr := strconv.ParseUint(fields[flags], 10, 64)
	t, startErr := strconv.ParseUint(fields[start], 10, 64)
	return stat{state: fields[state][0], flags: f, started: t}, errors.Join(flagsErr, startErr)
}

// FindProcess reads the process that has the pid now.
func FindProcess(pid int) (Process, error) {
	s, err := readStat(pid)
	return Process{PID: pid, Started: s.started}, err
}

// Alive reports whether this very process still runs: one that is dying does not.
func (p Process) Alive() bool {
	s, err := readStat(p.PID)
	return err == nil && s.started == p.Started && s.state != 'Z' && s.flags&exiting == 0
}

// Gone reports whether nothing is left of the process. A pid 1 is dying for as long as its pid namespace has processes,
// and its first thread may be a zombie meanwhile.
func (p Process) Gone() bool {
	s, err := readStat(p.PID)
	if err != nil || s.started != p.Started {
		return true
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID))
	return s.state == 'Z' && (err != nil || len(threads) <= 1)
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
