package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// program is a real program of the files in programs, on Debian packages. It logs its steps as the counter does, and leaves its result, which
// depends on the number of steps alone, as the container's termination message.
type program struct {
	name    string
	command []string
	// set changes what the pod has as a hardened one.
	set func(*corev1.Pod)
}

// programs differ in users, seccomp, capabilities and volumes, too.
var programs = []program{
	{"jvm", []string{"/programs/jvm.sh"}, func(pod *corev1.Pod) {
		pod.Spec.SecurityContext = nil // root, unconfined, the capabilities that containerd gives
		pod.Spec.Containers[0].SecurityContext = nil
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("384Mi")}
	}},
	{"learn", []string{"python3", "/programs/learn.py"}, func(pod *corev1.Pod) {
		pod.Spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem = new(true)
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: "JOBLIB_TEMP_FOLDER", Value: "/dev/shm"},
			corev1.EnvVar{Name: "OMP_NUM_THREADS", Value: "2"},
			corev1.EnvVar{Name: "OMP_WAIT_POLICY", Value: "PASSIVE"})
		addMemoryVolume(pod, "/tmp")
	}},
	{"database", []string{"/programs/database.sh"}, func(*corev1.Pod) {}},
	{"pipeline", []string{"/programs/pipeline.sh"}, func(*corev1.Pod) {}},
}

func addMemoryVolume(pod *corev1.Pod, path string) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "memory",
		VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}})
	mounts := &pod.Spec.Containers[0].VolumeMounts
	*mounts = append(*mounts, corev1.VolumeMount{Name: "memory", MountPath: path})
}

// A program makes so many steps, and rests for pause after each until it is told to hurry. Until then it does not go beyond hold.
const (
	steps, hold = 300, 200
	pause       = 250 * time.Millisecond
)

// pod runs the program on node; without a pause and unprotected where it is the uninterrupted run.
func (p program) pod(node, image string, uninterrupted bool) *corev1.Pod {
	name, rest := "program-"+p.name, pause
	if uninterrupted {
		name, rest = name+"-uninterrupted", 0
	}
	pod := counterPod(name, node, image)
	container := &pod.Spec.Containers[0]
	container.Name, container.Command = "program", p.command
	container.Env = []corev1.EnvVar{{Name: "STEPS", Value: strconv.Itoa(steps)}, {Name: "HOLD", Value: strconv.Itoa(hold)},
		{Name: "PAUSE", Value: fmt.Sprint(rest.Seconds())}}
	if p.set(pod); uninterrupted {
		pod.Labels = nil
	}
	return pod
}

// TestRealPrograms moves four programs at a time, after rounds of pre-dump: they go on with the very next step, and come to
// the results of runs that nobody interrupted.
func TestRealPrograms(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // the first time, the image is built
	t.Cleanup(cancel)
	w := shared()
	image := w.buildPrograms(ctx, t)
	alone, moved := make([]*job, len(programs)), make([]*job, len(programs))
	for i, p := range programs {
		alone[i] = w.create(ctx, t, p.pod("b", image, true))
		moved[i] = w.create(ctx, t, p.pod("a", image, false))
	}
	lasts := make([]func() step, len(programs))
	for i, j := range moved {
		j.waitOn(ctx, "a")
		lasts[i] = j.follow(ctx)
	}
	for i, j := range moved {
		// By then, as a rule, several rounds and a safety dump are behind it; for certain one round is.
		j.waitStep(ctx, hold/2)
		c := j.wait(ctx, "copied once", func(c *v1alpha1.Checkpoint) bool {
			current := c.Status.Condition(v1alpha1.ConditionCurrent)
			return current != nil && current.Reason != v1alpha1.ReasonFirstRound
		})
		require.True(t, c.Status.IsTrue(v1alpha1.ConditionProtectable), c.Status.Condition(v1alpha1.ConditionProtectable))
		t.Logf("%s: %s left to upload, safety dump: %t", programs[i].name, c.Status.Protection.Dirty.String(), c.Status.Safety != nil)
	}
	results := make([]string, len(programs))
	for i, j := range alone {
		results[i] = j.result(ctx)
	}

	w.interrupt(ctx, t, "a", window)
	for i, j := range moved {
		j.waitOn(ctx, "b")
		c := j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
		last := lasts[i]()
		g, times := c.Status.Generation, c.Status.Timeline
		t.Logf("%s: %d of %d MiB in the window, frozen to resumed %s, at step %d of %d", programs[i].name, g.WindowBytes>>20,
			g.RSSBytes>>20, times.Resumed.Sub(times.Frozen.Time), last.n, steps)
		_, err := w.kube.Kubectl(ctx, nil, "-n", namespace, "exec", j.name, "--", "touch", "/data/hurry")
		require.NoError(t, err)
	}
	for i, j := range moved {
		require.Equal(t, results[i], j.result(ctx), programs[i].name)
		last, logged := lasts[i](), j.logs(ctx)
		for k, s := range logged {
			require.Equal(t, step{last.n + 1 + k, last.token}, s, programs[i].name)
		}
		require.Equal(t, steps, logged[len(logged)-1].n, programs[i].name)
	}
}

// buildPrograms makes the image of the programs.
func (w *world) buildPrograms(ctx context.Context, t *testing.T) string {
	t.Helper()
	root, err := deploy.Checkout()
	require.NoError(t, err)
	rootfs, err := bed.DebianRootfs(ctx, os.Stderr, "default-jre-headless", "postgresql", "python3-sklearn")
	require.NoError(t, err)
	files := map[string]string{}
	for _, name := range []string{"Churn.java", "jvm.sh", "learn.py", "database.sh", "pipeline.sh", "steps.sh"} {
		files["/programs/"+name] = filepath.Join(root, "test", "e2e", "programs", name)
	}
	image, err := w.bed.FilesImage(ctx, "programs", rootfs, files, v1.Config{})
	require.NoError(t, err)
	return image
}

// create creates a pod and waits for nothing.
func (w *world) create(ctx context.Context, t *testing.T, pod *corev1.Pod) *job {
	t.Helper()
	j := &job{t: t, w: w, name: pod.Name}
	t.Cleanup(func() { j.remove(context.WithoutCancel(ctx)) })
	_, err := w.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	return j
}

// follow follows the pod's log from its beginning. What it returns waits for the log's end and returns the last step.
func (j *job) follow(ctx context.Context) (last func() step) {
	var at step
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = j.w.kube.FollowLogs(ctx, namespace, j.name, func(line string) error {
			now, err := parseStep(line)
			if err == nil {
				at = now
			}
			return nil // the kubelet's own words, as when the container goes
		})
	})
	return func() step { wg.Wait(); return at }
}

// result waits for the pod's good end and returns its termination message.
func (j *job) result(ctx context.Context) string {
	j.t.Helper()
	pod, err := j.w.kube.WaitPod(ctx, namespace, j.name, "succeeded", func(p *corev1.Pod) (bool, error) {
		if p.Status.Phase == corev1.PodFailed {
			out, _ := j.w.kube.Kubectl(ctx, nil, "-n", namespace, "logs", "--tail=20", j.name)
			return false, fmt.Errorf("it failed: %s", out)
		}
		return p.Status.Phase == corev1.PodSucceeded, nil
	})
	require.NoError(j.t, err)
	status := pod.Status.ContainerStatuses[0]
	require.Zero(j.t, status.RestartCount)
	message := strings.TrimSpace(status.State.Terminated.Message)
	require.Regexp(j.t, "^[0-9a-f]{64}$", message)
	return message
}
