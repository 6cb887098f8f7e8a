package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// validID says that an id can be the name of a marker file. runc's own rules are narrower.
func validID(id string) bool {
	return id != "" && id[0] != '.' && !strings.ContainsAny(id, "/\x00")
}

// reserveMarker makes the file that keepMarker turns into the container's marker, so that nothing but a rename is left
// to do once the container runs. It holds the process group that this process now leads, which runc and CRIU join.
func (o Options) reserveMarker(id string) error {
	if err := os.MkdirAll(o.RestoredDir, 0o700); err != nil {
		return fmt.Errorf("make the folder of restored containers: %w", err)
	}
	// This fails for the leader of a session, which leads its group already.
	_ = syscall.Setpgid(0, 0)
	if err := os.WriteFile(o.reservedMarker(id), []byte(strconv.Itoa(syscall.Getpgrp())), 0o600); err != nil {
		return fmt.Errorf("reserve the marker of %s: %w", id, err)
	}
	return nil
}

func (o Options) keepMarker(id string) error {
	if err := os.Rename(o.reservedMarker(id), o.marker(id)); err != nil {
		return fmt.Errorf("mark %s as restored: %w", id, err)
	}
	return nil
}

func (o Options) dropReservedMarker(id string) { _ = os.Remove(o.reservedMarker(id)) }

func (o Options) marker(id string) string         { return filepath.Join(o.RestoredDir, id) }
func (o Options) reservedMarker(id string) string { return filepath.Join(o.RestoredDir, "."+id) }

// start does nothing for a container that create has restored: it runs.
func (o Options) start(id string) error {
	err := os.Remove(o.marker(id))
	if errors.Is(err, os.ErrNotExist) {
		return errPassThrough
	}
	if err != nil {
		return fmt.Errorf("remove the marker of %s: %w", id, err)
	}
	return nil
}

// delete removes what the wrapper keeps of a container, and passes on. A leftover that cannot be removed does no harm:
// ids are never used twice.
func (o Options) delete(call Invocation, id string) error {
	o.awaitRestore(id)
	call.detachRoot(id)
	if o.heldFile(id) != "" {
		o.killFrozen(call, id)
	}
	_ = os.Remove(o.marker(id))
	o.dropReservedMarker(id)
	_ = os.Remove(filepath.Join(o.HoldDir, id))
	o.dropHeld(id)
	return errPassThrough
}

// awaitRestore waits for the runc and CRIU of a wrapper that was killed to give up, and ends them where they do not:
// what they still do would meddle with the removal of the container.
func (o Options) awaitRestore(id string) {
	text, err := os.ReadFile(o.reservedMarker(id))
	if err != nil {
		return
	}
	group, err := strconv.Atoi(string(text))
	if err != nil || group <= 1 || group == syscall.Getpgrp() {
		return
	}
	for waited := time.Duration(0); waited < giveUpTimeout; waited += giveUpPause {
		if syscall.Kill(-group, 0) != nil {
			return
		}
		time.Sleep(giveUpPause)
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
}

// How long CRIU gets to end what it has begun once runc is gone, and how often it is looked at.
const (
	giveUpTimeout = 3 * time.Second
	giveUpPause   = 10 * time.Millisecond
)

// kill keeps a signal to a container under evacuation, or one that waits for the others of its pod, and passes any other on.
func (o Options) kill(call Invocation, id string, flags Flags) error {
	name := "TERM"
	if len(flags.Positional) > 1 {
		name = flags.Positional[1]
	}
	signal, ok := signalNumber(name)
	path := filepath.Join(o.HoldDir, id)
	if held := o.heldFile(id); held != "" {
		path = held
	}
	if _, err := os.Stat(path); err == nil && signal == syscall.SIGKILL {
		o.killFrozen(call, id)
	}
	if !ok || signal == syscall.SIGKILL {
		return errPassThrough
	}
	held, err := hold(path, signal)
	if err != nil {
		return fmt.Errorf("hold signal %d for %s: %w", signal, id, err)
	}
	if !held {
		return errPassThrough
	}
	return nil
}

// killFrozen sends SIGKILL to the processes of a frozen container but for the first one, which is the runtime's: that kills
// it and thaws all, and the others would run for a moment, although they may go on elsewhere. Who cannot be killed here is
// left to the runtime, as is a container that runs: there is nothing to thaw.
func (o Options) killFrozen(call Invocation, id string) {
	var state struct {
		Status string `json:"status"`
		PID    int    `json:"pid"`
	}
	if o.ask(&state, call, "state", id) != nil || state.Status != "paused" {
		return
	}
	var pids []int
	if o.ask(&pids, call, "ps", "--format", "json", id) != nil {
		return
	}
	for _, pid := range pids {
		if pid != state.PID {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// ask decodes what the runtime beneath answers.
func (o Options) ask(into any, call Invocation, args ...string) error {
	answer, err := exec.Command(o.Runtime, append([]string{"--root", call.stateRoot()}, args...)...).Output()
	if err != nil {
		return fmt.Errorf("ask %s: %w", o.Runtime, err)
	}
	return json.Unmarshal(answer, into)
}

// hold appends the signal to the hold file, and says false where there is none (any more).
func hold(path string, signal syscall.Signal) (bool, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return false, fmt.Errorf("lock %s: %w", path, err)
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &stat); err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	if stat.Nlink == 0 {
		return false, nil
	}
	_, err = fmt.Fprintln(file, strconv.Itoa(int(signal)))
	return err == nil, err
}
