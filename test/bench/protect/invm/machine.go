package main

import (
	"context"
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

	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
)

const (
	containerID = "job"
	configFile  = "/run/criu.conf"
	runcRoot    = "/run/runc"
)

// machine is the VM, on which runc runs one container at a time.
type machine struct{ network string }

func (m *machine) newRunc() *criu.Runc {
	return &criu.Runc{Binary: "/usr/sbin/runc", Root: runcRoot, CRIUDir: "/usr/sbin", ConfigFile: configFile, HostRoot: "/"}
}

func newMachine() (*machine, error) {
	if err := os.WriteFile(configFile, []byte(criu.Config), 0o600); err != nil {
		return nil, fmt.Errorf("write CRIU's configuration: %w", err)
	}
	// A lazy dump wants a container with a network of its own, as every pod has.
	sandbox := exec.Command("unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 100000")
	output, err := sandbox.StdoutPipe()
	if err == nil {
		err = sandbox.Start()
	}
	if err == nil {
		_, err = output.Read(make([]byte, 1))
	}
	if err != nil {
		return nil, fmt.Errorf("make a network: %w", err)
	}
	return &machine{network: fmt.Sprintf("/proc/%d/ns/net", sandbox.Process.Pid)}, nil
}

// job is the container while it runs.
type job struct {
	pid int
	out string // the file in which it says what it does
}

// start runs the container until it has filled its memory.
func (m *machine) start(ctx context.Context, mib int) (*job, error) {
	bundle, err := m.layOut(mib)
	if err != nil {
		return nil, err
	}
	if err := m.call(ctx, "run", "--detach", "--bundle", bundle, containerID); err != nil {
		return nil, err
	}
	state, err := exec.CommandContext(ctx, "runc", "--root", runcRoot, "state", containerID).Output()
	if err != nil {
		return nil, fmt.Errorf("ask for the container: %w", err)
	}
	var answer struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(state, &answer); err != nil {
		return nil, fmt.Errorf("read runc's state: %w", err)
	}
	j := &job{pid: answer.PID, out: filepath.Join(bundle, "root/out")}
	return j, j.said(ctx, "filled")
}

// layOut writes a bundle of this very program.
func (m *machine) layOut(mib int) (string, error) {
	bundle, err := os.MkdirTemp("/run", "bundle-")
	if err != nil {
		return "", fmt.Errorf("make bundle: %w", err)
	}
	type object = map[string]any
	config, err := json.Marshal(object{
		"ociVersion": "1.0.2", "root": object{"path": "root"},
		"process": object{"args": []string{"/program", holdVerb, "-mib", strconv.Itoa(mib), "-out", "/out"}, "cwd": "/", "user": object{"uid": 0, "gid": 0}},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
		},
		"linux": object{
			"namespaces": []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network", "path": m.network}},
		},
	})
	program, fault := os.ReadFile("/proc/self/exe")
	err = errors.Join(err, fault, os.Mkdir(filepath.Join(bundle, "root"), 0o755),
		os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600),
		os.WriteFile(filepath.Join(bundle, "root/program"), program, 0o755))
	if err != nil {
		return "", fmt.Errorf("lay out bundle: %w", err)
	}
	return bundle, nil
}

// call calls runc, with /dev/null as the container's input and output.
func (m *machine) call(ctx context.Context, args ...string) error {
	log := filepath.Join("/run", "runc.log")
	cmd := exec.CommandContext(ctx, "runc", append([]string{"--root", runcRoot, "--log", log}, args...)...)
	cmd.Env = append(os.Environ(), "CRIU_CONFIG_FILE="+configFile)
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log) // for the message
		return fmt.Errorf("runc %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}

// end kills the container, frozen or not, and forgets it.
func (m *machine) end(ctx context.Context) error {
	return m.call(ctx, "delete", "--force", containerID)
}

// lookEvery is how often a job's file is looked at.
const lookEvery = 20 * time.Millisecond

// said waits until the last line begins so.
func (j *job) said(ctx context.Context, word string) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(j.out)
		lines := strings.Split(string(text), "\n")
		if err == nil && len(lines) > 1 && strings.HasPrefix(lines[len(lines)-2], word) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the job to say %q: it said %q: %w", word, text, ctx.Err())
		}
	}
}

// change has the job change pages, which it does once.
func (j *job) change(ctx context.Context, c change.Change) error {
	if err := syscall.Kill(j.pid, c.Signal); err != nil {
		return fmt.Errorf("tell the job to change: %w", err)
	}
	return j.said(ctx, "changed")
}
