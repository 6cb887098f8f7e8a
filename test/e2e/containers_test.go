package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// severalPod is a counter beside another one and a native sidecar, after an init container, with a volume that all of them
// mount and one of each.
func severalPod(name, image string) *corev1.Pod {
	pod := counterPod(name, "a", image)
	counter := pod.Spec.Containers[0]
	volume := func(name string) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
	like := func(name string, args ...string) corev1.Container {
		volume(name)
		c := *counter.DeepCopy()
		c.Name, c.Args = name, args
		c.VolumeMounts = []corev1.VolumeMount{{Name: name, MountPath: "/data"}, {Name: "shared", MountPath: "/shared"}}
		return c
	}
	volume("shared")
	pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "shared", MountPath: "/shared"})
	pod.Spec.Containers = append(pod.Spec.Containers, like("other"))
	sidecar := like("sidecar")
	sidecar.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	pod.Spec.InitContainers = []corev1.Container{like("init", "-steps", "2"), sidecar}
	pod.Annotations = map[string]string{"kubectl.kubernetes.io/default-container": counter.Name}
	return pod
}

func (j *job) logsOf(ctx context.Context, container string) []step {
	j.t.Helper()
	out, err := j.w.kube.Kubectl(ctx, nil, "-n", namespace, "logs", j.name, "-c", container)
	require.NoError(j.t, err)
	return j.parse(out)
}

// All containers of a pod go on as the processes that they were, and the init container runs again.
func TestPodOfSeveralContainers(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := w.start(ctx, t, severalPod("several", w.image))
	names := []string{"counter", "other", "sidecar"}
	before := map[string]step{}
	for _, name := range names {
		steps := j.logsOf(ctx, name)
		require.NotEmpty(t, steps, name)
		before[name] = steps[len(steps)-1]
	}
	w.interrupt(ctx, t, "a", window)
	c := j.wait(ctx, "final generation", func(c *v1alpha1.Checkpoint) bool { return c.Status.Generation != nil && c.Status.Generation.Final })
	require.Equal(t, names, c.Status.Generation.Containers)
	j.waitOn(ctx, "b")
	c = j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
	j.waitStep(ctx, before["counter"].n+20)
	for _, name := range names {
		steps := j.logsOf(ctx, name)
		require.NotEmpty(t, steps, name)
		require.Equal(t, before[name].token, steps[0].token, "%s is another process", name)
		require.Greater(t, steps[0].n, before[name].n)
		for i, s := range steps {
			require.Equal(t, step{steps[0].n + i, before[name].token}, s, name)
		}
	}
	require.Len(t, j.logsOf(ctx, "init"), 2)
	fetched := c.Status.Timeline.Fetched.Time // what the last one needed, so before it was restored
	for _, name := range names {
		require.True(t, j.firstSaid(ctx, name).After(fetched), "%s ran before the last one was restored", name)
	}
}

// firstSaid is when a container of the pod that is there wrote its first line.
func (j *job) firstSaid(ctx context.Context, container string) time.Time {
	j.t.Helper()
	out, err := j.w.kube.Kubectl(ctx, nil, "-n", namespace, "logs", "--timestamps", j.name, "-c", container)
	require.NoError(j.t, err)
	stamp, _, _ := strings.Cut(out, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	require.NoError(j.t, err)
	return at
}

// unlucky is the container that CRIU does not restore on a node with bad luck.
const unlucky = "unlucky"

func (w *world) badLuck(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	const dir = "/opt/lifeboat/bin/"
	run := func(ctx context.Context, script string) {
		out, err := w.node(t, node).Exec(ctx, "bash", "-euc", "cd "+dir+"; "+script)
		require.NoError(t, err, out)
	}
	t.Cleanup(func() { run(context.WithoutCancel(ctx), "mv criu.real criu") })
	run(ctx, `ln criu criu.real
cat > criu.unlucky <<'END'
#!/bin/sh
case "$CRIU_CONFIG_FILE" in */work/`+unlucky+`/*) exit 1 ;; esac
exec `+dir+`criu.real "$@"
END
chmod 755 criu.unlucky; mv criu.unlucky criu`)
}

// The last container cannot be restored: those before it end without having run, and the pod begins anew as a whole, with its init
// container: in place, or where it must not restart, as another pod.
func TestOneOfSeveralCannotBeRestored(t *testing.T) {
	w := shared()
	ctx := testContext(t)
	policies := []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever}
	jobs := make([]*job, len(policies))
	tokens := make([]map[string]string, len(policies))
	names := []string{"counter", "sidecar", unlucky}
	for i, policy := range policies {
		pod := severalPod("unlucky-"+strings.ToLower(string(policy)), w.image)
		pod.Spec.RestartPolicy, pod.Spec.Containers[1].Name = policy, unlucky
		jobs[i], tokens[i] = w.start(ctx, t, pod), map[string]string{}
		for _, name := range names {
			tokens[i][name] = jobs[i].logsOf(ctx, name)[0].token
		}
	}
	w.badLuck(ctx, t, "b")
	w.interrupt(ctx, t, "a", window)
	for i, policy := range policies {
		j := jobs[i]
		pod, err := w.kube.WaitPod(ctx, namespace, j.name, "begun anew on b", func(p *corev1.Pod) (bool, error) {
			running := 0
			for _, s := range p.Status.ContainerStatuses {
				if s.State.Running != nil && (policy == corev1.RestartPolicyNever || s.RestartCount > 0) {
					running++
				}
			}
			_, continues := p.Annotations[v1alpha1.AnnotationRestoreFrom]
			return p.Spec.NodeName == "b" && running == 2 && continues == (policy == corev1.RestartPolicyAlways), nil
		})
		require.NoError(t, err)
		require.Nil(t, pod.DeletionTimestamp)
		j.waitStep(ctx, 3)
		for _, name := range names {
			steps := j.logsOf(ctx, name)
			require.Equal(t, 1, steps[0].n, "%s begins", name)
			require.NotEqual(t, tokens[i][name], steps[0].token)
		}
		if policy == corev1.RestartPolicyNever {
			j.waitEvent(ctx, "Leaves")
			continue
		}
		j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonStartedClean)
		for _, name := range []string{"counter", "sidecar"} {
			out, err := w.kube.Kubectl(ctx, nil, "-n", namespace, "logs", "--previous", j.name, "-c", name)
			require.NoError(t, err)
			require.NotContains(t, out, tokens[i][name], "%s was restored and ended before it ran", name)
		}
	}
}
