package e2e

import (
	"context"
	"testing"

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
	j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
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
}
