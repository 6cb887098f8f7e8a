package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/snapshot/files"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/open"
	"github.com/lifeboat-dev/lifeboat/store/retry"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

// Paths and names on the machine of a test.
const (
	base          = "/run/soak"
	dumps         = base + "/dump"
	cluster       = "soak"
	namespace     = "default"
	podName       = "job"
	checkpointUID = "checkpoint-1"
)

func newRunc() *criu.Runc {
	return &criu.Runc{Binary: "/usr/sbin/runc", Root: base + "/runc", CRIUDir: "/usr/sbin", ConfigFile: base + "/criu.conf", HostRoot: "/"}
}

func openStore(ctx context.Context, patience retry.Policy) (*store.Store, error) {
	bucket, err := open.Bucket(ctx, "file://"+base+"/bucket", open.WithRetry(patience))
	if err != nil {
		return nil, err
	}
	return store.New(bucket, store.Keyring{{1}}), nil
}

// hasty copies as often as it can.
func hasty() snapshot.Policy {
	p := snapshot.DefaultPolicy()
	p.CPUShare, p.NetworkShare, p.FreezeShare, p.TargetCPU = 1, 1, 1, 1
	p.MinInterval, p.Interval, p.MaxInterval, p.RecoveryPoint = 50*time.Millisecond, 150*time.Millisecond, 400*time.Millisecond, time.Second
	return p
}

// agent is what lifeboat-agent runs to save targets. It hears of notices on its standard input: "notice" and the
// deadline, "quiet" where there is none any more.
func agent() {
	ctx, cancel := context.WithCancel(context.Background())
	runc := newRunc()
	j := newJournal(runc.Containers)
	zerolog.TimeFieldFormat = time.RFC3339Nano
	zerolog.DurationFieldUnit = time.Second
	evacuator := snapshot.New(snapshot.Options{
		Runtime: watched{criu.Engine{Runc: runc}, j}, Files: files.Source{Reader: files.New("/")}, Journal: j, Board: j,
		Store: must(openStore(ctx, retry.Default)), Patient: must(openStore(ctx, retry.Patient)),
		Holds: snapshot.Holds{Dir: handover.HoldDir}, Scanner: memory.Scanner{Proc: "/proc", HostRoot: "/"},
		Policy: hasty(), Window: 2 * time.Minute, Cores: 2, Cluster: cluster, NodeName: "a", WorkDir: dumps, HostRoot: "/",
		Proc: "/proc", Margin: time.Second, Log: zerolog.New(os.Stderr).With().Timestamp().Logger(),
	})
	lines := bufio.NewScanner(os.Stdin)
	lines.Scan() // it begins with the first word, when it is in its cgroup
	go func() {
		defer cancel()
		for ok := true; ok; ok = lines.Scan() {
			verb, deadline, _ := strings.Cut(lines.Text(), " ")
			if verb == "quiet" {
				evacuator.Quiet()
				continue
			}
			evacuator.Heard(watcher.Notice{
				Source: "soak", Action: watcher.ActionTerminate, Heard: time.Now(), Deadline: must(time.Parse(time.RFC3339Nano, deadline)),
			})
		}
	}()
	check(evacuator.Run(ctx))
}

// life is a running agent.
type life struct {
	cmd    *exec.Cmd
	stdin  *os.File
	cgroup string
}

// startAgent starts an agent, which logs to one file together with all others of the machine.
func startAgent(t *testing.T) *life {
	t.Helper()
	log, err := os.OpenFile(agentLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	l := &life{cmd: exec.Command("/test-binary"), stdin: write}
	l.cmd.Env = append(os.Environ(), roleVariable+"=agent")
	l.cmd.Stdin, l.cmd.Stdout, l.cmd.Stderr = read, log, log
	l.cgroup = filepath.Join("/sys/fs/cgroup", fmt.Sprintf("lifeboat-soak-agent-%d", time.Now().UnixNano()))
	if _, err := os.Stat("/sys/fs/cgroup/devices"); err == nil { // version 1
		l.cgroup = filepath.Join("/sys/fs/cgroup/devices", filepath.Base(l.cgroup))
	}
	require.NoError(t, os.Mkdir(l.cgroup, 0o755))
	t.Cleanup(func() { l.kill(t, 0) })
	require.NoError(t, l.cmd.Start())
	require.NoError(t, os.WriteFile(l.cgroup+"/cgroup.procs", fmt.Append(nil, l.cmd.Process.Pid), 0))
	return l
}

const agentLog = base + "/agent.log"

// hears tells the agent of a notice with that deadline, or that there is none.
func (l *life) hears(deadline time.Time) {
	if deadline.IsZero() {
		_, _ = l.stdin.WriteString("quiet\n")
		return
	}
	_, _ = fmt.Fprintf(l.stdin, "notice %s\n", deadline.Format(time.RFC3339Nano))
}

// kill ends it at once and, a moment later, what is in its cgroup: a container runtime does so with a container in the
// host's PID namespace.
func (l *life) kill(t *testing.T, later time.Duration) {
	t.Helper()
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait()
	_ = l.stdin.Close()
	pass(later)
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); pass(tick) {
		text, _ := os.ReadFile(l.cgroup + "/cgroup.procs")
		for pid := range strings.FieldsSeq(string(text)) {
			_ = syscall.Kill(must(strconv.Atoi(pid)), syscall.SIGKILL)
		}
		// Busy until the last one is gone; not there where it was killed or stopped before.
		if err = os.Remove(l.cgroup); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	require.NoError(t, err, "what the agent started does not end")
}

// stop has it end by itself.
func (l *life) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, l.stdin.Close())
	require.NoError(t, l.cmd.Wait())
	require.NoError(t, os.Remove(l.cgroup))
}

// logged counts the lines of a message in the log of all agents.
func logged(message string) int {
	text, _ := os.ReadFile(filepath.Clean(agentLog))
	return strings.Count(string(text), `"message":"`+message+`"`)
}
