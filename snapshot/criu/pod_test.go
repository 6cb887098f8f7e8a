package criu

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/files"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/dir"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

const (
	pairVolume = "/run/pod/volumes/kubernetes.io~empty-dir/shared"
	pairSHM    = "/run/pod/shm"
)

// pairs are two containers of one pod, and the Journal of it.
type pairs struct {
	node   *node
	target snapshot.Target

	leaving atomic.Bool
	mu      sync.Mutex
	final   *snapshot.Committed
	failed  string
}

// newPairs starts the containers, each on an overlay of its own, with a volume and /dev/shm that they share.
func newPairs(t *testing.T) *pairs {
	t.Helper()
	p := &pairs{node: newNode(t), target: snapshot.Target{Namespace: "n", Pod: "pair", PodUID: "u", Checkpoint: "t", CheckpointUID: "u"}}
	for _, d := range []string{pairVolume, pairSHM} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	for _, name := range []string{"main", "side"} {
		p.node.start(t, name)
		state, err := p.node.runc.state(t.Context(), name)
		require.NoError(t, err)
		p.target.Containers = append(p.target.Containers, snapshot.Container{
			ID: name, PID: state.PID, Status: snapshot.StatusRunning, Bundle: "/run/bundles/" + name, Name: name, NeverRestarts: true,
		})
	}
	p.requireRun(t)
	return p
}

func (n *node) start(t *testing.T, name string) {
	t.Helper()
	bundle, root := n.container(t, name, "pair "+name, n.network)
	for _, d := range []string{"/run/up/" + name, "/run/work/" + name, bundle + "/rootfs"} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	require.NoError(t, unix.Mount("overlay", bundle+"/rootfs", "overlay", 0, "lowerdir="+root+",upperdir=/run/up/"+name+",workdir=/run/work/"+name))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(bundle+"/rootfs", unix.MNT_DETACH)) })
	file := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(raw, &config))
	config["root"] = map[string]any{"path": "rootfs"}
	for at, from := range map[string]string{pairFolder: pairVolume, "/dev/shm": pairSHM} {
		config["mounts"] = append(config["mounts"].([]any), map[string]any{
			"destination": at, "type": "bind", "source": from, "options": []string{"rbind", "rw"},
		})
	}
	raw, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	n.runOCI(t, "run", "--detach", "--bundle", bundle, name)
}

func (p *pairs) counts(t *testing.T) (main, side int) {
	t.Helper()
	for _, name := range []string{"main", "side"} {
		bad, err := os.ReadFile(filepath.Join(pairVolume, "bad-"+name))
		require.ErrorIs(t, err, os.ErrNotExist, "%s: %s", name, bad)
	}
	return countIn(pairVolume + "/main"), countIn(pairVolume + "/side")
}

// requireRun holds that both containers go on from where they stood.
func (p *pairs) requireRun(t *testing.T) {
	t.Helper()
	main, side := p.counts(t)
	require.Eventually(t, func() bool {
		nowMain, nowSide := p.counts(t)
		return nowMain > main+20 && nowSide > side+20
	}, time.Minute, 5*time.Millisecond, "it does not go on from %d, %d", main, side)
}

// evacuate has the node leave, with dumps by that Runtime, and waits for what comes of it. end waits for the agent.
func (p *pairs) evacuate(t *testing.T, runtime snapshot.Runtime, s *store.Store) (end func()) {
	t.Helper()
	e := snapshot.New(snapshot.Options{
		Runtime: runtime, Files: files.Source{Reader: files.New("/")}, Journal: p, Board: p, Store: s, Scanner: memory.Scanner{Proc: proc},
		Holds: snapshot.Holds{Dir: "/run/hold"}, Cluster: "c", NodeName: "a", WorkDir: "/run/dump", HostRoot: "/", Proc: proc,
		Margin: 5 * time.Second, Window: 2 * time.Minute, Cores: 2, Policy: snapshot.DefaultPolicy(), Log: zerolog.New(os.Stderr),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	e.Heard(watcher.Notice{Source: "test", Action: watcher.ActionTerminate, Heard: time.Now(), Deadline: time.Now().Add(2 * time.Minute)})
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.final != nil || p.failed != ""
	}, 2*time.Minute, 10*time.Millisecond)
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

func (p *pairs) Targets(context.Context) ([]snapshot.Target, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.target
	t.Final = p.final != nil
	return []snapshot.Target{t}, nil
}

func (p *pairs) Begun(context.Context, snapshot.Target, snapshot.Moments) error { return nil }

func (p *pairs) Final(_ context.Context, _ snapshot.Target, g snapshot.Committed, _ snapshot.Moments) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.final = &g
	return nil
}

func (p *pairs) Leaving(context.Context, snapshot.Target) (bool, error) { return p.leaving.Load(), nil }

func (p *pairs) Failed(_ context.Context, _ snapshot.Target, reason, message string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = reason + ": " + message
	return nil
}

func (p *pairs) Safety(context.Context, snapshot.Target, snapshot.Committed, time.Time) error {
	return nil
}

func (p *pairs) Judged(context.Context, snapshot.Target, snapshot.Verdict, snapshot.Prediction) error {
	return nil
}

// failing is a Runtime that cannot dump one container, after it has dumped it.
type failing struct {
	Engine
	id string
}

var errThis = errors.New("not this one")

func (f failing) Dump(ctx context.Context, id, dir string, sink snapshot.Sink) (snapshot.Dump, error) {
	dump, err := f.Engine.Dump(ctx, id, dir, sink)
	if err == nil && id == f.id {
		err = errThis
	}
	return dump, err
}

func TestPodOfTwoContainersForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	p, s, ctx := newPairs(t), newStore(), t.Context()
	p.evacuate(t, failing{Engine{Runc: p.node.runc}, "side"}, s)()
	require.Contains(t, p.failed, errThis.Error())
	require.Nil(t, p.final)
	held, err := snapshot.Holds{Dir: "/run/hold"}.List()
	require.NoError(t, err)
	require.Empty(t, held)
	p.requireRun(t)

	p.failed = ""
	end := p.evacuate(t, Engine{Runc: p.node.runc}, s)
	require.Empty(t, p.failed)
	stoodMain, stoodSide := p.counts(t)
	for _, c := range p.target.Containers {
		status, err := p.node.runc.Status(ctx, c.ID)
		require.NoError(t, err)
		require.Equal(t, snapshot.StatusPaused, status)
	}
	r, err := s.Open(ctx, target, p.final.Number, 0)
	require.NoError(t, err)
	require.True(t, r.Meta().Final)
	require.Equal(t, []string{"main", "side"}, []string{r.Meta().Containers[0].Name, r.Meta().Containers[1].Name})
	fetched := t.TempDir()
	root, err := os.OpenRoot(fetched)
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, r.Fetch(dir.New(root)).Run(ctx))
	require.Equal(t, []int{stoodMain, stoodSide}, []int{countIn(fetched + "/volumes/shared/main"), countIn(fetched + "/volumes/shared/side")},
		"the files are of the freeze")
	for _, name := range []string{"main", "side"} {
		for _, file := range []string{"/layers/" + name + "/own-layer", "/shm/" + name} {
			text, err := os.ReadFile(fetched + file)
			require.NoError(t, err)
			require.Equal(t, name, string(text))
		}
	}
	t.Logf("stopped within %s of each other", p.apart(t))

	nowMain, nowSide := p.counts(t)
	require.Equal(t, []int{stoodMain, stoodSide}, []int{nowMain, nowSide}, "left frozen together")
	p.leaving.Store(true)
	end()
	for _, c := range p.target.Containers {
		status, err := p.node.runc.Status(ctx, c.ID)
		require.NoError(t, err)
		require.Equal(t, snapshot.StatusStopped, status, "killed once the pod leaves")
		p.node.runOCI(t, "delete", "--force", c.ID)
	}
	for _, c := range p.target.Containers {
		p.node.runOCI(t, "restore", "--detach", "--file-locks", "--image-path", fetched+"/images/"+c.Name, "--work-path", t.TempDir(), "--bundle", c.Bundle, c.ID)
	}
	p.requireRun(t)
}

// apart is how far the last writes of the containers lie apart.
func (p *pairs) apart(t *testing.T) time.Duration {
	t.Helper()
	main, err := os.Stat(pairVolume + "/main")
	require.NoError(t, err)
	side, err := os.Stat(pairVolume + "/side")
	require.NoError(t, err)
	return main.ModTime().Sub(side.ModTime()).Abs()
}
