// Package criu freezes and dumps containers through the host's OCI runtime (runc) and CRIU.
//
// Every call runs in the namespaces of the host's pid 1, by nsenter, so that paths, mounts and cgroups are the host's; the
// call for a lazy dump has a network of its own.
// Invariants: a container that was paused before a dump is paused after it, whether the dump succeeded or not, or the
// error says otherwise (ErrNotFrozen); a dump that outlives its context is killed with its children, but not before
// CRIU has left the tasks (settle): those that have its code in them would not outlive it.
package criu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

const (
	// waitDelay is how long a killed call may take to give up its pipes.
	waitDelay = 5 * time.Second
	logTail   = 12
	// pauseTries is how often runc is asked to freeze a container; each takes some tenths of a second.
	pauseTries = 10
)

// Runc calls one runc binary of the host.
type Runc struct {
	// Binary is the runtime's path on the host.
	Binary string
	// Root is the runtime's state folder, /run/containerd/runc/k8s.io under containerd.
	Root string
	// CRIUDir is the host folder that holds our criu binary; it goes first in PATH.
	CRIUDir string
	// ConfigFile is the host path of a file that holds Config.
	ConfigFile string
	// HostRoot is where this process sees the host's root, /proc/1/root in the agent's pod.
	HostRoot string
	// Filters leave pages out of lazy dumps that their sinks have, those of the Scanner; nil: none.
	Filters *memory.Filters

	// looked are the containers of which no earlier life of this agent is dumping any more.
	looked sync.Map
	// lacks are flags that the runtime does not know, see Choose.
	lacks []string
}

// listed is what `runc list -f json` says of a container.
type listed struct {
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations"`
}

// Containers returns the Kubernetes containers (not the sandboxes) that the runtime knows.
func (r *Runc) Containers(ctx context.Context) ([]snapshot.Container, error) {
	out, err := r.run(ctx, "list", "--format", "json")
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var all []listed
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("list containers: decode answer of %s: %w", r.Binary, err)
	}
	var containers []snapshot.Container
	for _, c := range all {
		if c.Annotations == nil { // crun's list has none
			state, err := r.state(ctx, c.ID)
			if err != nil && !errors.Is(err, snapshot.ErrGone) {
				return nil, err
			}
			c.Annotations = state.Annotations
		}
		if c.Annotations["io.kubernetes.cri.container-type"] != "container" {
			continue
		}
		containers = append(containers, snapshot.Container{
			ID: c.ID, PID: c.PID, Status: snapshot.Status(c.Status), Bundle: c.Bundle,
			Namespace: c.Annotations["io.kubernetes.cri.sandbox-namespace"],
			Pod:       c.Annotations["io.kubernetes.cri.sandbox-name"],
			PodUID:    c.Annotations["io.kubernetes.cri.sandbox-uid"],
			Name:      c.Annotations["io.kubernetes.cri.container-name"],
		})
	}
	return containers, nil
}

// Status implements snapshot.Runtime.
func (r *Runc) Status(ctx context.Context, id string) (snapshot.Status, error) {
	state, err := r.state(ctx, id)
	if errors.Is(err, snapshot.ErrGone) {
		return snapshot.StatusStopped, nil
	}
	return snapshot.Status(state.Status), err
}

// state asks the runtime; ErrGone where it knows no such container.
func (r *Runc) state(ctx context.Context, id string) (listed, error) {
	out, err := r.run(ctx, "state", id)
	if err != nil {
		if strings.Contains(err.Error(), "does not exist") {
			err = snapshot.ErrGone
		}
		return listed{}, fmt.Errorf("ask state of container %s: %w", id, err)
	}
	var state listed
	if err := json.Unmarshal(out, &state); err != nil {
		return listed{}, fmt.Errorf("ask state of container %s: decode answer of %s: %w", id, r.Binary, err)
	}
	return state, nil
}

// freeze freezes the container. Under cgroup v1 runc gives up, and thaws, where tasks of a busy node do not come to a
// stop within a moment, so it is asked again.
func (r *Runc) freeze(ctx context.Context, id string) error {
	for try := 1; ; try++ {
		err := r.turn(ctx, "pause", id, snapshot.StatusPaused)
		if err == nil || try == pauseTries || ctx.Err() != nil || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
	}
}

// Resume implements snapshot.Runtime. No container stays frozen for a link that cannot be removed: the note of it stays, and
// the next dump tries again and says why.
func (r *Runc) Resume(ctx context.Context, id string) error {
	_ = r.dropLinks(ctx, id)
	return r.turn(ctx, "resume", id, snapshot.StatusRunning)
}

// Signal implements snapshot.Runtime. It goes to the runtime itself, past lifeboat-runtime and its holds. A frozen container
// that is killed runs none of its code any more.
func (r *Runc) Signal(ctx context.Context, id string, signal syscall.Signal) error {
	killed := false
	if signal == syscall.SIGKILL {
		var err error
		if killed, err = r.killFrozen(ctx, id); err != nil {
			return fmt.Errorf("kill container %s: %w", id, err)
		}
	}
	if _, err := r.run(ctx, "kill", id, strconv.Itoa(int(signal))); err != nil {
		if killed && (strings.Contains(err.Error(), "not running") || errors.Is(r.orGone(ctx, id, err), snapshot.ErrGone)) {
			return nil // under cgroup v2 nothing is left for the runtime to do
		}
		return fmt.Errorf("send signal %d to container %s: %w", signal, id, r.orGone(ctx, id, err))
	}
	return nil
}

// turn calls verb unless the container already has the wanted status.
func (r *Runc) turn(ctx context.Context, verb, id string, wanted snapshot.Status) error {
	if err := r.endOrphan(ctx, id); err != nil {
		return err
	}
	status, err := r.Status(ctx, id)
	if err != nil {
		return err
	}
	switch status {
	case wanted:
		return nil
	case snapshot.StatusStopped:
		return fmt.Errorf("%s container %s: %w", verb, id, snapshot.ErrGone)
	}
	if _, err := r.run(ctx, verb, id); err != nil {
		return fmt.Errorf("%s container %s: %w", verb, id, r.orGone(ctx, id, err))
	}
	return nil
}

// orGone is ErrGone where the container has ended meanwhile, and err otherwise.
func (r *Runc) orGone(ctx context.Context, id string, err error) error {
	if status, fault := r.Status(ctx, id); fault == nil && status == snapshot.StatusStopped {
		return snapshot.ErrGone
	}
	return err
}

// Dump takes a full dump into dir/images, CRIU's logs into dir/work.
func (r *Runc) Dump(ctx context.Context, id, dir string) (snapshot.Dump, error) {
	r.Filters.Forget(id) // they would not know which pages it has
	state, err := r.prepare(ctx, id)
	if err != nil {
		return snapshot.Dump{}, err
	}
	images, work, err := r.clearDump(dir)
	if err != nil {
		return snapshot.Dump{}, err
	}
	args := append([]string{"checkpoint", "--image-path", images, "--work-path", work}, r.dumpFlags()...)
	err = r.checkpoint(ctx, id, state.PID, r.seen(work), append(args, id))
	if err != nil {
		return snapshot.Dump{}, fmt.Errorf("dump container %s: %w%s%s", id, err, tail(filepath.Join(r.seen(work), "dump.log")),
			obstaclesOf(state.PID))
	}
	if err := errors.Join(r.stillFrozen(ctx, id), r.mend(r.seen(images), state)); err != nil {
		return snapshot.Dump{}, err
	}
	dump := snapshot.Dump{Images: r.seen(images)}
	counted, err := decode(filepath.Join(r.seen(work), crit.StatsDump), &stats.StatsEntry{})
	if err != nil {
		return dump, fmt.Errorf("read CRIU's statistics of container %s: %w", id, err)
	}
	if entry, ok := counted[0].Message.(*stats.StatsEntry); ok {
		dump.RSSBytes = int64(entry.GetDump().GetPagesWritten()) * int64(os.Getpagesize())
	}
	dump.Memory, err = memoryOf(dump.Images)
	return dump, err
}

// prepare looks at a container before its dump: ErrGone where it has ended, ErrRefused where a dump would lose something.
func (r *Runc) prepare(ctx context.Context, id string) (listed, error) {
	state, err := r.state(ctx, id)
	if err == nil {
		err = errors.Join(r.dropLinks(ctx, id), refuse(state.PID), r.noteLinks(id, state.PID))
	}
	if err != nil {
		return listed{}, fmt.Errorf("dump container %s: %w", id, err)
	}
	return state, nil
}

// mend makes good what CRIU's images lack.
func (r *Runc) mend(images string, state listed) error {
	if err := errors.Join(mendTimers(images), restoreLinks(images, state.PID)); err != nil {
		return fmt.Errorf("dump container %s: %w", state.ID, err)
	}
	return nil
}

// clearDump makes the empty folders of a dump below dir.
func (r *Runc) clearDump(dir string) (images, work string, _ error) {
	images, work = filepath.Join(dir, "images"), filepath.Join(dir, "work")
	for _, d := range []string{images, work} {
		seen := r.seen(d)
		if err := os.RemoveAll(seen); err != nil {
			return "", "", fmt.Errorf("clear %s: %w", d, err)
		}
		if err := os.MkdirAll(seen, 0o700); err != nil {
			return "", "", fmt.Errorf("make %s: %w", d, err)
		}
	}
	return images, work, nil
}

// stillFrozen holds that a dump has left the container frozen.
func (r *Runc) stillFrozen(ctx context.Context, id string) error {
	status, err := r.Status(ctx, id)
	if err != nil {
		return err
	}
	if status != snapshot.StatusPaused {
		return fmt.Errorf("dump container %s: %w: it is %s", id, snapshot.ErrNotFrozen, status)
	}
	return nil
}

// seen is a host path as this process sees it.
func (r *Runc) seen(hostPath string) string { return filepath.Join(r.HostRoot, hostPath) }

// OnHost runs a program in the namespaces of the host's pid 1. Its own words are part of the error.
func (r *Runc) OnHost(ctx context.Context, argv ...string) error {
	_, err := r.onHost(ctx, argv...)
	return err
}

// run calls the runtime and returns its standard output.
func (r *Runc) run(ctx context.Context, args ...string) ([]byte, error) {
	return r.onHost(ctx, r.argv(args)...)
}

// argv is a call of the runtime.
func (r *Runc) argv(args []string) []string {
	return append([]string{
		"env", "PATH=" + r.CRIUDir + ":" + hostPath, "CRIU_CONFIG_FILE=" + r.ConfigFile, r.Binary, "--root", r.Root,
	}, args...)
}

const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hostCommand is a program in the namespaces of the host's pid 1, all of them or without the network.
func (r *Runc) hostCommand(ctx context.Context, network bool, argv ...string) *exec.Cmd {
	args := []string{"--target", "1", "--mount", "--uts", "--ipc", "--cgroup"}
	if network {
		args = append(args, "--net")
	}
	args = append(args, "--", "/usr/bin/env", "PATH="+hostPath)
	args = append(args, argv...)
	program := "nsenter"
	if slices.Contains(argv, verbDump) {
		program, args = "sh", append([]string{"-c", apart, r.seen("/sys/fs/cgroup"), program}, args...)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	// The whole group is killed with the call, for runc leaves its criu behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = waitDelay
	return cmd
}

func (r *Runc) onHost(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := r.hostCommand(ctx, true, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return nil, err
	}
	return stdout.Bytes(), nil
}

// tail returns the errors in a CRIU log, or its last lines, for an error message; empty where there is no log.
func tail(path string) string {
	log, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		return fmt.Sprintf("; CRIU's log cannot be read: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	var faults []string
	for _, line := range lines {
		if strings.Contains(line, "Error (") {
			faults = append(faults, line)
		}
	}
	if len(faults) == 0 {
		faults = lines
	}
	if len(faults) > logTail {
		faults = faults[len(faults)-logTail:]
	}
	return "; CRIU says: " + strings.Join(faults, " | ")
}
