package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints/checkpointstest"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

const volumeLogs = "/var/lib/kubelet/pods/new/volumes/kubernetes.io~empty-dir/logs"

// group is a node on which a pod of an init container, a native sidecar and two ordinary containers is created, that goes on
// from a generation. What the runtime is asked to do is in calls.
type group struct {
	*Preparer
	server *checkpointstest.Server
	pod    *corev1.Pod
	host   string
	calls  []string
	frozen map[string]bool
	// plain are live containers that were started from the beginning, with their names.
	plain map[string]string
	// ownSHM is a container in which the volume is mounted at /dev/shm.
	ownSHM string
	// fails are calls that fail once.
	fails map[string]bool
}

func newGroup(t *testing.T, change ...func(*corev1.Pod)) *group {
	t.Helper()
	pod := ofJob("new")
	always := corev1.ContainerRestartPolicyAlways
	pod.Spec.InitContainers = []corev1.Container{{Name: "setup"}, {Name: "proxy", RestartPolicy: &always}}
	pod.Spec.Containers = []corev1.Container{{Name: "main"}, {Name: "writer"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "logs", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	for _, f := range change {
		f(pod)
	}
	status := finalOf("old")
	status.Generation.Containers = []string{"main", "proxy", "writer"}
	paths := []string{"images/main/pages-1.img", "layers/main/a", "shm/s", "volumes/logs/log"}
	if len(pod.Spec.Containers) == 1 {
		status.Generation.Containers = nil
	} else {
		paths = append(paths, "images/proxy/pages-1.img", "images/writer/pages-1.img", "layers/writer/b")
	}
	server := checkpointstest.New(t, pointOf(t, "old", status))
	bucket := store.New(mem.New(), store.Keyring{{1}})
	folder := store.Target{Cluster: "c", Namespace: "ns", Name: "old", UID: "ckpt-old"}
	w, err := bucket.Begin(t.Context(), folder, store.Meta{Number: 1, Created: time.Now()}, store.WriteOptions{})
	require.NoError(t, err)
	for _, path := range paths {
		e := entry(store.TypeRegular, path)
		e.Size = int64(len(path))
		require.NoError(t, w.Add(t.Context(), e, strings.NewReader(path)))
	}
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	g := &group{server: server, pod: pod, host: t.TempDir(), frozen: map[string]bool{}, plain: map[string]string{}, fails: map[string]bool{}}
	for _, d := range []string{volumeLogs, "/shm"} {
		require.NoError(t, os.MkdirAll(filepath.Join(g.host, d), 0o755))
	}
	call := func(verb string) func(context.Context, string) error {
		return func(_ context.Context, id string) error {
			name := verb + " " + id
			if g.fails[name] {
				delete(g.fails, name)
				return errors.New("the agent ends here")
			}
			g.calls = append(g.calls, name)
			delete(g.frozen, id)
			return os.RemoveAll(g.heldFile(id))
		}
	}
	g.Preparer = New(Options{
		NodeName: "b", Cluster: "c", Checkpoints: server.Client, Client: fake.NewClientset(pod), HostRoot: g.host, WorkDir: "/restore",
		Store: bucket, Events: record.NewFakeRecorder(100), Log: zerolog.Nop(), Thaw: call("thaw"), Kill: call("kill"),
		Running: func(_ context.Context, id string) (bool, error) { return g.frozen[id], nil },
		Live: func(context.Context, string) (map[string]string, error) {
			live := maps.Clone(g.plain)
			for id := range g.frozen {
				live[id], _, _ = strings.Cut(id, "-")
			}
			return live, nil
		},
	})
	return g
}

func (g *group) heldFile(id string) string {
	return filepath.Join(g.host, handover.HeldDir, string(g.pod.UID), id)
}

// create asks for the number-th container of that name in a sandbox.
func (g *group) create(t *testing.T, sandbox, container string, number int) (handover.PrepareReply, error) {
	t.Helper()
	id := fmt.Sprintf("%s-%d", container, number)
	bundle := filepath.Join(g.host, "bundles", id)
	require.NoError(t, os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755))
	config := `{"mounts": [{"destination": "/dev/shm", "source": "/shm"}]}`
	switch {
	case container == g.ownSHM:
		config = `{"mounts": [{"destination": "/dev/shm", "source": "` + volumeLogs + `"}]}`
	case container != "proxy":
		config = `{"mounts": [{"destination": "/logs", "source": "` + volumeLogs + `"}, {"destination": "/dev/shm", "source": "/shm"}]}`
	}
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600))
	return g.step(t.Context(), handover.PrepareRequest{
		ContainerID: id, Bundle: filepath.Join("/bundles", id), Namespace: "ns", Pod: "new", PodUID: "new", Container: container, SandboxID: sandbox,
	})
}

// restore creates a container, and lets the wrapper restore it. agent: the result reaches the agent.
func (g *group) restore(t *testing.T, sandbox, container string, number int, agent bool) {
	t.Helper()
	reply, err := g.create(t, sandbox, container, number)
	require.NoError(t, err)
	require.Equal(t, handover.ActionRestoreHeld, reply.Action)
	id := fmt.Sprintf("%s-%d", container, number)
	require.NoError(t, os.MkdirAll(filepath.Dir(g.heldFile(id)), 0o700))
	require.NoError(t, os.WriteFile(g.heldFile(id), nil, 0o600))
	g.frozen[id] = true
	if agent {
		require.NoError(t, g.Result(t.Context(), handover.ResultRequest{ContainerID: id}))
	}
}

// fail creates a container whose restore fails.
func (g *group) fail(t *testing.T, sandbox, container string, number int) {
	t.Helper()
	_, err := g.create(t, sandbox, container, number)
	require.NoError(t, err)
	require.NoError(t, g.Result(t.Context(), handover.ResultRequest{ContainerID: fmt.Sprintf("%s-%d", container, number), Error: "criu failed"}))
}

func (g *group) status() *v1alpha1.CheckpointStatus { return &g.server.Get("ns", "old").Status }

func (g *group) reason() string { return g.status().Condition(v1alpha1.ConditionRestored).Reason }

func (g *group) requirePlain(t *testing.T, sandbox, container string, number int) {
	t.Helper()
	reply, err := g.create(t, sandbox, container, number)
	require.NoError(t, err)
	require.Equal(t, handover.ActionCreate, reply.Action)
}

func never(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever }

func TestNoneRunsBeforeTheLastIsRestored(t *testing.T) {
	g := newGroup(t)
	g.requirePlain(t, "s", "setup", 1)
	require.Nil(t, g.status().Claim, "an init container claims nothing")
	log := filepath.Join(g.host, volumeLogs, "log")
	require.NoError(t, os.WriteFile(log, []byte("of setup"), 0o600))
	g.restore(t, "s", "proxy", 1, true)
	require.FileExists(t, log)
	g.restore(t, "s", "main", 1, true)
	content, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, "volumes/logs/log", string(content), "files come before the first container that sees them")
	require.NoError(t, os.WriteFile(log, []byte("not to be replaced once more"), 0o600))
	require.NoError(t, g.Sweep(t.Context()))
	require.Empty(t, g.calls, "nothing runs yet")
	require.Equal(t, v1alpha1.ReasonRestoreImpending, g.reason())
	g.restore(t, "s", "writer", 1, true)
	require.Equal(t, []string{"thaw main-1", "thaw proxy-1", "thaw writer-1"}, g.calls)
	require.Equal(t, v1alpha1.ReasonRestored, g.reason())
	require.EqualValues(t, 1, g.status().Claim.Attempts, "attempts are the pod's")
	content, err = os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, "not to be replaced once more", string(content))
	require.FileExists(t, filepath.Join(g.host, "bundles/writer-1/rootfs/b"))
	require.NoFileExists(t, filepath.Join(g.host, "bundles/writer-1/rootfs/a"))
	require.NoDirExists(t, g.folder("new"), "images of a target stay on no disk")
	g.requirePlain(t, "s", "main", 2) // it has crashed
}

func TestTheAgentIsAwayWhenTheLastIsRestored(t *testing.T) {
	g := newGroup(t)
	g.restore(t, "s", "proxy", 1, true)
	g.restore(t, "s", "main", 1, false)
	g.restore(t, "s", "writer", 1, false)
	require.Empty(t, g.calls)
	g.fails["thaw proxy-1"] = true
	require.Error(t, g.Sweep(t.Context()))
	require.ErrorIs(t, g.beginAnew(t.Context(), "new", false), errReleased, "some run: nothing is ended any more")
	require.NoError(t, g.Sweep(t.Context()))
	require.Subset(t, g.calls, []string{"thaw main-1", "thaw proxy-1", "thaw writer-1"})
	require.Equal(t, v1alpha1.ReasonRestored, g.reason())
}

func TestOneCannotBeRestored(t *testing.T) {
	for _, c := range []struct {
		name  string
		pod   []func(*corev1.Pod)
		calls []string
		then  func(t *testing.T, g *group)
	}{
		{"the pod begins anew, and starts clean", nil, []string{"kill main-1", "kill proxy-1", "kill s"}, func(t *testing.T, g *group) {
			_, err := g.create(t, "s", "main", 2)
			require.ErrorIs(t, err, errOver, "nothing more in this sandbox")
			require.NoFileExists(t, filepath.Join(g.host, volumeLogs, "log"), "init containers write into empty volumes")
			g.requirePlain(t, "s2", "setup", 2)
			made := filepath.Join(g.host, volumeLogs, "made")
			require.NoError(t, os.WriteFile(made, nil, 0o600))
			g.requirePlain(t, "s2", "proxy", 2)
			require.Equal(t, v1alpha1.ReasonStartedClean, g.reason())
			g.requirePlain(t, "s2", "main", 3)
			require.FileExists(t, made)
		}},
		{"it must not start clean", []func(*corev1.Pod){func(pod *corev1.Pod) {
			pod.Annotations = map[string]string{v1alpha1.AnnotationOnRestoreFailure: "fail"}
		}}, []string{"kill main-1", "kill proxy-1"}, func(t *testing.T, g *group) {
			_, err := g.create(t, "s", "main", 2)
			require.ErrorContains(t, err, "forbids a clean start")
		}},
		{"it must not restart: it leaves", []func(*corev1.Pod){never}, []string{"kill main-1", "kill proxy-1"}, func(t *testing.T, g *group) {
			require.Equal(t, v1alpha1.ReasonNotRestartable, g.reason())
			require.Contains(t, g.status().Condition(v1alpha1.ConditionRestored).Message, "criu failed")
			_, err := g.create(t, "s", "proxy", 2)
			require.ErrorIs(t, err, errLeaves)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGroup(t, c.pod...)
			g.restore(t, "s", "proxy", 1, true)
			g.restore(t, "s", "main", 1, true)
			g.fail(t, "s", "writer", 1)
			require.Empty(t, g.calls, "the second attempt needs the others")
			g.fail(t, "s", "writer", 2)
			require.EqualValues(t, 2, g.status().Claim.Attempts)
			_, err := g.create(t, "s", "writer", 3)
			require.Error(t, err)
			require.Equal(t, c.calls, g.calls, "none has run")
			c.then(t, g)
			require.NoError(t, g.Sweep(t.Context()))
			require.Empty(t, g.frozen)
			for _, call := range g.calls {
				require.NotContains(t, call, "thaw")
			}
		})
	}
}

func TestTheAgentEndsWhileItEndsWhatWasRestored(t *testing.T) {
	g := newGroup(t)
	g.restore(t, "s", "proxy", 1, true)
	g.restore(t, "s", "main", 1, true)
	g.fails["kill proxy-1"] = true
	require.Error(t, g.beginAnew(t.Context(), "new", false))
	g.restoreRefused(t)
	require.Subset(t, g.calls, []string{"kill main-1", "kill proxy-1", "kill s"})
	require.Equal(t, "kill s", g.calls[len(g.calls)-1], "the sandbox is the last")
}

// What Sweep has read of a pod is over by the time that it comes to that pod: a create was quicker, and a new restore is under way.
func TestSweepGoesByWhatIsTrueNow(t *testing.T) {
	g := newGroup(t)
	g.restore(t, "s", "proxy", 1, true)
	g.restore(t, "s", "main", 1, true)
	g.fails["kill main-1"] = true
	require.Error(t, g.beginAnew(t.Context(), "new", false), "the agent ends here, and is back")
	require.NoError(t, os.MkdirAll(g.folder("before"), 0o700))
	require.NoError(t, g.save(&restoration{Task: task{PrepareRequest: handover.PrepareRequest{PodUID: "before"}}, Ending: true, Doomed: []string{"other"}}))
	kill := g.options.Kill
	g.options.Kill = func(ctx context.Context, id string) error {
		if id == "other" { // before this pod comes "new", which Sweep comes to later
			g.restore(t, "s2", "proxy", 2, true)
			g.restore(t, "s2", "main", 2, true)
		}
		return kill(ctx, id)
	}
	require.NoError(t, g.Sweep(t.Context()))
	require.FileExists(t, filepath.Join(g.host, volumeLogs, "log"), "of the restore that is under way")
	require.DirExists(t, filepath.Join(g.folder("new"), imagesName, "writer"))
	g.restore(t, "s2", "writer", 2, true)
	require.Equal(t, v1alpha1.ReasonRestored, g.reason())
}

func TestTurns(t *testing.T) {
	var all turns
	leave, err := all.enter(t.Context(), "a")
	require.NoError(t, err)
	other, err := all.enter(t.Context(), "b")
	require.NoError(t, err, "pods do not wait for each other")
	other()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = all.enter(ended, "a")
	require.ErrorIs(t, err, context.Canceled)
	leave()
	leave, err = all.enter(t.Context(), "a")
	require.NoError(t, err)
	leave()
	require.Empty(t, all.pods)
}

// restoreRefused holds that the last container is not restored any more.
func (g *group) restoreRefused(t *testing.T) {
	t.Helper()
	_, err := g.create(t, "s", "writer", 1)
	require.ErrorIs(t, err, errOver)
}

func TestAContainerThatEndsBeforeItIsThawed(t *testing.T) {
	t.Run("it is restored once more, and that is an attempt", func(t *testing.T) {
		g := newGroup(t)
		g.restore(t, "s", "proxy", 1, true)
		g.restore(t, "s", "main", 1, true)
		delete(g.frozen, "proxy-1") // a probe failed
		g.restore(t, "s", "writer", 1, true)
		require.Empty(t, g.calls, "not all are there")
		g.restore(t, "s", "proxy", 2, true)
		require.Equal(t, []string{"kill proxy-1", "thaw main-1", "thaw proxy-2", "thaw writer-1"}, g.calls)
		require.EqualValues(t, 2, g.status().Claim.Attempts)
	})
	t.Run("it ends twice: the pod starts clean", func(t *testing.T) {
		g := newGroup(t)
		g.restore(t, "s", "main", 1, true)
		for number := range 2 {
			g.restore(t, "s", "proxy", number, true)
			delete(g.frozen, fmt.Sprintf("proxy-%d", number))
		}
		_, err := g.create(t, "s", "proxy", 3)
		require.ErrorContains(t, err, "has to begin anew")
		require.Equal(t, v1alpha1.ReasonRestoreFailed, g.reason(), "the next sandbox has no record of the attempts")
		g.requirePlain(t, "s2", "proxy", 4)
	})
	t.Run("it is not started again: the pod leaves", func(t *testing.T) {
		g := newGroup(t, never)
		g.restore(t, "s", "proxy", 1, true)
		g.restore(t, "s", "main", 1, true)
		delete(g.frozen, "main-1")
		require.NoError(t, g.Sweep(t.Context()))
		require.Empty(t, g.calls, "the wrapper may be at it")
		long(t, g.Preparer, "new")
		require.NoError(t, g.Sweep(t.Context()))
		require.Equal(t, []string{"kill main-1", "kill proxy-1"}, g.calls)
		require.Equal(t, v1alpha1.ReasonNotRestartable, g.reason())
	})
	t.Run("the sandbox ended: all are restored in the next", func(t *testing.T) {
		g := newGroup(t)
		g.restore(t, "s", "proxy", 1, true)
		g.restore(t, "s", "main", 1, true)
		g.requirePlain(t, "s2", "setup", 2)
		require.Equal(t, []string{"kill main-1", "kill proxy-1"}, g.calls)
		for _, name := range []string{"proxy", "main", "writer"} {
			g.restore(t, "s2", name, 2, true)
		}
		require.Equal(t, []string{"thaw main-2", "thaw proxy-2", "thaw writer-2"}, g.calls[2:])
	})
}

// What is held is ended before anything says that another generation is being restored: it would be forgotten by an agent that ends
// in between.
func TestWhatIsHeldIsEndedBeforeThePodFallsBack(t *testing.T) {
	g := newGroup(t)
	g.server.Edit("ns", "old", func(c *v1alpha1.Checkpoint) {
		c.Status.Safety = &v1alpha1.GenerationReference{PodUID: "old", Containers: c.Status.Generation.Containers}
	})
	g.restore(t, "s", "proxy", 1, true)
	g.restore(t, "s", "main", 1, true)
	g.fail(t, "s", "writer", 1)
	g.fail(t, "s", "writer", 2)
	g.fails["kill main-1"] = true
	_, err := g.create(t, "s", "writer", 3)
	require.ErrorContains(t, err, "the agent ends here")
	require.Nil(t, g.status().Claim.Fallback)
	require.NoError(t, g.Sweep(t.Context()))
	require.Empty(t, g.frozen)
	_, err = g.create(t, "s2", "proxy", 2)
	require.Error(t, err, "there is no such generation in the bucket")
	require.NotNil(t, g.status().Claim.Fallback, "in the next sandbox")
}

func TestARestoreOfAnotherGenerationForgetsNothingThatIsHeld(t *testing.T) {
	g := newGroup(t)
	g.restore(t, "s", "proxy", 1, true)
	r, err := g.load("new")
	require.NoError(t, err)
	_, err = g.begin(r.Task, &v1alpha1.GenerationReference{Number: 7}, r.Containers)
	require.ErrorContains(t, err, "have not been ended")
	after, err := g.load("new")
	require.NoError(t, err)
	require.Equal(t, r, after)
}

func TestAMomentThatCannotBeRecordedIsNoFailure(t *testing.T) {
	g := newGroup(t)
	g.server.Before = func() {
		if g.status().Claim != nil {
			g.server.Edit("ns", "old", func(*v1alpha1.Checkpoint) {}) // the update conflicts
		}
	}
	g.restore(t, "s", "proxy", 1, true)
	require.Nil(t, g.status().Timeline.Fetched)
	require.EqualValues(t, 1, g.status().Claim.Attempts)
	require.DirExists(t, filepath.Join(g.folder("new"), imagesName, "proxy"))
}

func TestAVolumeInThePlaceOfSHM(t *testing.T) {
	g := newGroup(t)
	g.ownSHM = "main"
	g.restore(t, "s", "main", 1, true)
	require.NoFileExists(t, filepath.Join(g.host, "shm/s"))
	require.NoFileExists(t, filepath.Join(g.host, volumeLogs, "s"))
	require.FileExists(t, filepath.Join(g.host, volumeLogs, "log"))
	g.restore(t, "s", "proxy", 1, true)
	require.FileExists(t, filepath.Join(g.host, "shm/s"))
	g.restore(t, "s", "writer", 1, true)
	require.Equal(t, v1alpha1.ReasonRestored, g.reason())
	require.FileExists(t, filepath.Join(g.host, volumeLogs, "log"))
}

func TestTheGenerationIsOfAnotherPod(t *testing.T) {
	g := newGroup(t, func(pod *corev1.Pod) {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "exporter"})
	})
	_, err := g.create(t, "s", "proxy", 1)
	require.ErrorIs(t, err, errContainers)
	require.ErrorContains(t, err, "generation 1 holds main, proxy, writer, and this pod has exporter, main, proxy, writer")
	require.Equal(t, v1alpha1.ReasonContainersChanged, g.reason())
	for _, name := range []string{"proxy", "main", "writer", "exporter"} {
		g.requirePlain(t, "s", name, 1)
	}
	require.Equal(t, v1alpha1.ReasonStartedClean, g.reason())
	require.Empty(t, g.calls)
}

func TestAPodThatCannotBeWhole(t *testing.T) {
	g := newGroup(t, never)
	g.miss(handover.PrepareRequest{PodUID: "new", Container: "main"})
	_, err := g.create(t, "s", "writer", 1)
	require.ErrorIs(t, err, errIncomplete)
	require.Nil(t, g.status().Claim, "another pod may claim it")
}

// What was ended is gone before the pod begins anew: it would be taken for one that started from the beginning, and may still write.
func TestThePodBeginsAnewOnceWhatWasRestoredIsGone(t *testing.T) {
	g := newGroup(t)
	g.restore(t, "s", "proxy", 1, true)
	g.restore(t, "s", "main", 1, true)
	kill := g.options.Kill
	g.options.Kill = func(context.Context, string) error { return nil }
	require.ErrorIs(t, g.beginAnew(t.Context(), "new", false), errEnding)
	require.FileExists(t, filepath.Join(g.host, volumeLogs, "log"))
	g.options.Kill = kill
	require.NoError(t, g.Sweep(t.Context()))
	require.NoFileExists(t, filepath.Join(g.host, volumeLogs, "log"))
}

// What init containers wrote is gone with the files of the generation: they have to run once more before a clean start.
func TestOneContainerStartsCleanAfterItsInitContainers(t *testing.T) {
	g := newGroup(t, func(pod *corev1.Pod) {
		pod.Spec.InitContainers, pod.Spec.Containers = pod.Spec.InitContainers[:1], pod.Spec.Containers[:1]
	})
	g.requirePlain(t, "s", "setup", 1)
	g.fail(t, "s", "main", 1)
	g.fail(t, "s", "main", 2)
	_, err := g.create(t, "s", "main", 3)
	require.ErrorContains(t, err, "has to begin anew")
	require.Equal(t, []string{"kill s"}, g.calls)
	g.requirePlain(t, "s2", "setup", 2)
	made := filepath.Join(g.host, volumeLogs, "made")
	require.NoError(t, os.WriteFile(made, nil, 0o600))
	g.requirePlain(t, "s2", "main", 4)
	require.FileExists(t, made)
	require.Equal(t, v1alpha1.ReasonStartedClean, g.reason())
}
