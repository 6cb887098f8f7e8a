package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

// node is a fake of what stands around an Evacuator: runtime, files and journal in one, so that their calls are in one
// order.
type node struct {
	t   *testing.T
	dir string

	mu       sync.Mutex
	calls    []string
	status   Status
	signals  []syscall.Signal
	targets  []Target
	dumpErrs []error
	// finalErrs are answers of Final; landed says that the call was written down before the error.
	finalErrs  []error
	failedErrs []error
	final      *Committed
	failed     string
	onDump     func()
	leaving    atomic.Bool
	// memory is what the next dump holds beside pages-1.img, by task.
	memory map[string][]byte
}

func (n *node) log(call string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, call)
}

func (n *node) Status(context.Context, string) (Status, error) { return n.status, nil }

func (n *node) Pause(context.Context, string) error {
	n.log("pause")
	n.status = StatusPaused
	return nil
}

func (n *node) Resume(context.Context, string) error {
	n.log("resume")
	n.status = StatusRunning
	return nil
}

func (n *node) Signal(_ context.Context, _ string, s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.signals = append(n.signals, s)
	return nil
}

func (n *node) Dump(_ context.Context, _, dir string, _ Sink) (Dump, error) {
	n.log("dump")
	require.Equal(n.t, StatusPaused, n.status, "dumped while it ran")
	if n.onDump != nil {
		n.onDump()
	}
	if len(n.dumpErrs) > 0 {
		err := n.dumpErrs[0]
		n.dumpErrs = n.dumpErrs[1:]
		return Dump{}, err
	}
	images := filepath.Join(n.dir, dir, "images")
	require.NoError(n.t, os.MkdirAll(images, 0o700))
	require.NoError(n.t, os.WriteFile(filepath.Join(images, "pages-1.img"), bytes.Repeat([]byte("page"), 1024), 0o600))
	dump := Dump{Images: images, RSSBytes: 4096}
	for i, task := range slices.Sorted(maps.Keys(n.memory)) {
		m := Memory{Image: fmt.Sprintf("pages-%d.img", i+2), Task: task, Runs: runsOf(n.memory[task])}
		require.NoError(n.t, os.WriteFile(filepath.Join(images, m.Image), n.memory[task], 0o600))
		dump.Memory = append(dump.Memory, m)
	}
	return dump, nil
}

// runsOf lays the pages out in two runs with a hole between them.
func runsOf(pages []byte) []store.Run {
	half := int64(len(pages)) / store.BlockSize / 2
	return []store.Run{{Address: 0x10000, Pages: half}, {Address: 1 << 40, Pages: int64(len(pages))/store.BlockSize - half}}
}

func (n *node) Preload(context.Context, Target, float64, FileWriter) (FilePass, error) {
	return FilePass{}, nil
}

func (n *node) Add(ctx context.Context, _ Target, w FileWriter) (FilePass, error) {
	n.log("files")
	entry := store.Entry{Path: "layers/main/tmp/state", Type: store.TypeRegular, Mode: 0o644, Size: 5, ModTime: time.Unix(0, 0)}
	return FilePass{Bytes: entry.Size}, w.Add(ctx, entry, strings.NewReader("state"))
}

func (n *node) Targets(context.Context) ([]Target, error) {
	targets := append([]Target(nil), n.targets...)
	for i := range targets {
		targets[i].Final = n.final != nil
	}
	return targets, nil
}

func (n *node) Begun(context.Context, Target, Moments) error { n.log("begun"); return nil }

func (n *node) Final(_ context.Context, _ Target, g Committed, _ Moments) error {
	n.log("final")
	require.Equal(n.t, StatusPaused, n.status, "recorded as final while it ran")
	if len(n.finalErrs) > 0 {
		err := n.finalErrs[0]
		n.finalErrs = n.finalErrs[1:]
		return err
	}
	n.final = &g
	return nil
}

func (n *node) Leaving(context.Context, Target) (bool, error) { return n.leaving.Load(), nil }

func (n *node) Failed(_ context.Context, _ Target, reason, _ string) error {
	n.log("failed")
	if len(n.failedErrs) > 0 {
		err := n.failedErrs[0]
		n.failedErrs = n.failedErrs[1:]
		return err
	}
	n.failed = reason
	return nil
}

// flaky is a bucket that may be down, or lose the answers to puts.
type flaky struct {
	store.Bucket
	down     func() bool
	loseHead bool
	// stall has reading of such a key hang until its context ends.
	stall func(key string) bool
}

var errDown = errors.New("connection refused")

func (f *flaky) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if f.down != nil && f.down() {
		return store.Info{}, errDown
	}
	info, err := f.Bucket.Put(ctx, key, body, cond)
	if f.loseHead && strings.HasSuffix(key, "HEAD") {
		return store.Info{}, errDown
	}
	return info, err
}

func (f *flaky) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if f.stall != nil && f.stall(key) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if f.down != nil && f.down() {
		return nil, errDown
	}
	return f.Bucket.Get(ctx, key, offset, length)
}

func (f *flaky) Stat(ctx context.Context, key string) (store.Info, error) {
	if f.down != nil && f.down() {
		return store.Info{}, errDown
	}
	return f.Bucket.Stat(ctx, key)
}

const window = 2 * time.Minute

type scene struct {
	*node
	bucket    *flaky
	evacuator *Evacuator
	target    Target
}

func newScene(t *testing.T) *scene {
	t.Helper()
	dir := t.TempDir()
	s := &scene{node: &node{t: t, dir: dir, status: StatusRunning}, bucket: &flaky{Bucket: mem.New()}}
	s.target = Target{
		Namespace: "default", Pod: "trainer", PodUID: "pod-1",
		Containers: []Container{{ID: "c1", Namespace: "default", Pod: "trainer", PodUID: "pod-1", Name: "main"}},
		Checkpoint: "trainer", CheckpointUID: "uid-1",
	}
	s.targets = []Target{s.target}
	s.evacuator = New(Options{
		Runtime: s.node, Files: s.node, Journal: s.node, Store: store.New(s.bucket, store.Keyring{{1}}),
		Holds: Holds{Dir: filepath.Join(dir, "hold")}, Cluster: "test", NodeName: "a", WorkDir: "/dump", HostRoot: dir,
		Proc: filepath.Join(dir, "proc"), Margin: 5 * time.Second, Log: zerolog.Nop(),
	})
	s.pending(t, "0000000000000000")
	return s
}

func (s *scene) held(t *testing.T) bool {
	t.Helper()
	ids, err := s.evacuator.options.Holds.List()
	require.NoError(t, err)
	return len(ids) > 0
}

// hold has the wrapper hold signals back.
func (s *scene) hold(t *testing.T, lines string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.evacuator.options.Holds.Dir, "c1"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(lines)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// pending sets the signals that wait for the target's process.
func (s *scene) pending(t *testing.T, mask string) {
	t.Helper()
	proc := filepath.Join(s.dir, "proc", "0")
	require.NoError(t, os.MkdirAll(proc, 0o755))
	status := "Name:\tjob\nSigPnd:\t0000000000000000\nShdPnd:\t" + mask + "\nSigBlk:\t0000000000004000\n"
	require.NoError(t, os.WriteFile(filepath.Join(proc, "status"), []byte(status), 0o644))
}

func notice(in time.Duration) watcher.Notice {
	return watcher.Notice{Source: "aws", Action: watcher.ActionTerminate, Heard: time.Now(), Deadline: time.Now().Add(in)}
}

// hear puts n before the evacuator without running its loop.
func (s *scene) hear(n watcher.Notice) { s.evacuator.Heard(n) }

func (s *scene) round(t *testing.T) { require.NoError(t, s.evacuator.round(t.Context())) }

func TestEvacuation(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(*scene)
		calls  string
		status Status
		held   bool
		failed string
	}{
		{
			name: "all well", calls: "begun pause dump files final", status: StatusPaused, held: true,
		},
		{
			name:  "first dump fails",
			set:   func(s *scene) { s.dumpErrs = []error{errors.New("criu died")} },
			calls: "begun pause dump pause dump files final", status: StatusPaused, held: true,
		},
		{
			name:  "every dump fails",
			set:   func(s *scene) { s.dumpErrs = []error{errors.New("io_uring"), errors.New("io_uring")} },
			calls: "begun pause dump pause dump resume failed", status: StatusRunning, failed: v1alpha1.ReasonDumpFailed,
		},
		{
			name: "bucket down for a while",
			set: func(s *scene) {
				up := time.Now().Add(20 * time.Second)
				s.bucket.down = func() bool { return time.Now().Before(up) }
			},
			calls: "begun pause dump files final", status: StatusPaused, held: true,
		},
		{
			name:  "bucket down to the end",
			set:   func(s *scene) { s.bucket.down = func() bool { return true } },
			calls: "begun pause dump resume failed", status: StatusRunning, failed: v1alpha1.ReasonBucketFailed,
		},
		{
			name:  "answers of the API server lost",
			set:   func(s *scene) { s.finalErrs = []error{errDown, errDown} },
			calls: "begun pause dump files final final final", status: StatusPaused, held: true,
		},
		{
			name:  "checkpoint gone when it is durable: frozen, for the record may have been there before",
			set:   func(s *scene) { s.finalErrs = []error{errDown, ErrUnprotected} },
			calls: "begun pause dump files final final", status: StatusPaused, held: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t)
				defer s.evacuator.ending.Wait()
				if c.set != nil {
					c.set(s)
				}
				s.hear(notice(window))
				err := s.evacuator.round(t.Context())
				if !errors.Is(err, ErrUnprotected) {
					require.NoError(t, err)
				}
				require.Equal(t, c.calls, strings.Join(s.calls, " "))
				require.Equal(t, c.status, s.status)
				require.Equal(t, c.held, s.held(t))
				require.Equal(t, c.failed, s.failed)
				if s.final != nil || s.failed != "" {
					_, err = os.Stat(filepath.Join(s.dir, "dump", "c1"))
					require.ErrorIs(t, err, os.ErrNotExist, "memory of the target left on the disk")
				}
			})
		})
	}
}

func TestSourceIsKilledOnceTheKubeletStopsIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		signal func(t *testing.T, s *scene)
	}{
		{"signal held by the wrapper", func(t *testing.T, s *scene) { s.hold(t, "15\n") }},
		{"signal pending in the frozen process", func(t *testing.T, s *scene) { s.pending(t, "0000000000004000") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t)
				defer s.evacuator.ending.Wait()
				s.hear(notice(window))
				s.round(t)
				s.leaving.Store(true)
				<-time.After(time.Second)
				synctest.Wait()
				require.Empty(t, s.signals, "a kubelet that has not heard of the deletion would start it again")
				c.signal(t, s)
				<-time.After(time.Second)
				synctest.Wait()
				require.Equal(t, []syscall.Signal{syscall.SIGKILL}, s.signals)
				require.Equal(t, StatusPaused, s.status, "it was never thawed")
			})
		})
	}
}

func TestSourceThatNeverRestartsIsKilledOnceItsPodLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		s.targets[0].Containers[0].NeverRestarts = true
		s.hear(notice(window))
		s.round(t)
		<-time.After(time.Second)
		synctest.Wait()
		require.Empty(t, s.signals, "the controller has not released it")
		s.leaving.Store(true)
		<-time.After(time.Second)
		synctest.Wait()
		require.Equal(t, []syscall.Signal{syscall.SIGKILL}, s.signals)
	})
}

func TestLostAnswerToHeadCountsAsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		s.bucket.loseHead = true
		s.hear(notice(30 * time.Second))
		s.round(t)
		require.NotNil(t, s.final)
		require.Equal(t, StatusPaused, s.status)
		require.Empty(t, s.failed)
	})
}

// While the API server is down the kubelet may kill the frozen container and make it anew: not before the record is known.
func TestNothingStartsWhileAGenerationIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		s.finalErrs = []error{errDown, errDown, errDown}
		s.hear(notice(time.Minute))
		go s.round(t)
		pass(2 * recordEvery)
		require.True(t, s.evacuator.Finishing(s.targets[0].PodUID))
		pass(5 * recordEvery)
		require.NotNil(t, s.final)
		require.False(t, s.evacuator.Finishing(s.targets[0].PodUID))
	})
}

func TestThawDeliversHeldSignals(t *testing.T) {
	s := newScene(t)
	s.dumpErrs = []error{errors.New("no"), errors.New("no")}
	s.onDump = func() { s.hold(t, "15\n") }
	s.hear(notice(time.Minute))
	s.round(t)
	require.Equal(t, []syscall.Signal{syscall.SIGTERM}, s.signals)
	require.Equal(t, StatusRunning, s.status)
}

func TestFailureUnderTheNoticeBeforeIsNoneUnderTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		s.dumpErrs = []error{errors.New("no"), errors.New("no")}
		s.onDump = func() { s.hear(notice(3 * time.Minute)) }
		s.hear(notice(time.Minute))
		s.round(t)
		require.NotEmpty(t, s.failed)
		s.onDump = nil
		s.round(t)
		require.NotNil(t, s.final)
	})
}

func TestFailedTargetIsTriedOncePerNotice(t *testing.T) {
	s := newScene(t)
	s.dumpErrs = []error{errors.New("no"), errors.New("no")}
	s.hear(notice(time.Minute))
	s.round(t)
	before := len(s.calls)
	s.round(t)
	require.Len(t, s.calls, before)
	s.hear(notice(3 * time.Minute))
	s.round(t)
	require.NotNil(t, s.final)
}

// The API server is down when a target is thawed: its Checkpoint hears of it later.
func TestFailureIsToldUntilItIsRecorded(t *testing.T) {
	s := newScene(t)
	s.dumpErrs = []error{errors.New("no"), errors.New("no")}
	s.failedErrs = []error{errDown, errDown}
	s.hear(notice(time.Minute))
	require.ErrorIs(t, s.evacuator.round(t.Context()), errDown)
	require.Equal(t, StatusRunning, s.status)
	require.ErrorIs(t, s.evacuator.round(t.Context()), errDown)
	require.Empty(t, s.failed)
	s.round(t)
	require.Equal(t, v1alpha1.ReasonDumpFailed, s.failed)
	before := len(s.calls)
	s.round(t)
	require.Len(t, s.calls, before)
}

func TestFailureOfAnEarlierLifeCounts(t *testing.T) {
	s := newScene(t)
	n := notice(time.Minute)
	s.targets[0].Failed, s.targets[0].Deadline = true, n.Deadline
	s.hear(n)
	s.round(t)
	require.Empty(t, s.calls)
	s.hear(notice(3 * time.Minute))
	s.round(t)
	require.NotNil(t, s.final)
}

func TestHibernationEvacuatesNobody(t *testing.T) {
	s := newScene(t)
	n := notice(time.Minute)
	n.Action = watcher.ActionHibernate
	s.hear(n)
	s.round(t)
	require.Empty(t, s.calls)
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.evacuator.Run(ctx) }()
		s.hear(notice(time.Minute))
		synctest.Wait()
		require.NotNil(t, s.final)
		cancel()
		require.NoError(t, <-done)
	})
}
