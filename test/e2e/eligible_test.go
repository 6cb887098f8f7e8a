package e2e

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// TestWhatCannotBeDumpedIsToldUntilItIsMended has a job that holds an MPTCP socket and an EFD_SEMAPHORE eventfd until its
// container is started anew.
func TestWhatCannotBeDumpedIsToldUntilItIsMended(t *testing.T) {
	ctx, w := testContext(t), shared()
	pod := counterPod("stuck", "a", w.image, "-stuck")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Annotations = map[string]string{v1alpha1.AnnotationInterval: "5", v1alpha1.AnnotationRecoveryPoint: "30s"}
	j := &job{t: t, w: w, name: pod.Name}
	t.Cleanup(func() { j.remove(context.WithoutCancel(ctx)) })
	_, err := w.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "a", j.waitRunning(ctx).Spec.NodeName)

	for _, kind := range []string{v1alpha1.ConditionDumpable, v1alpha1.ConditionProtectable} {
		message := j.waitCondition(ctx, kind, metav1.ConditionFalse, v1alpha1.ReasonMPTCP).Status.Condition(kind).Message
		require.Contains(t, message, "MPTCP: multipath TCP sockets in counter")
		require.Contains(t, message, "GODEBUG=multipathtcp=0")
		require.Contains(t, message, "SemaphoreEventfd: eventfd with EFD_SEMAPHORE in counter")
	}
	require.Contains(t, j.waitEvent(ctx, v1alpha1.ReasonMPTCP), "GODEBUG=multipathtcp=0")
	require.Contains(t, j.waitEvent(ctx, v1alpha1.ReasonSemaphoreEventfd), "EFD_SEMAPHORE")
	require.Contains(t, j.waitEvent(ctx, v1alpha1.ReasonSettingInvalid), v1alpha1.AnnotationInterval)
	c := j.waitCondition(ctx, v1alpha1.ConditionCurrent, metav1.ConditionFalse, v1alpha1.ReasonMPTCP)
	require.Equal(t, "Unprotected", c.Status.Protection.Level)
	table, err := w.kube.Kubectl(ctx, nil, "-n", namespace, "get", "checkpoints", j.name)
	require.NoError(t, err)
	require.Regexp(t, `False +MPTCP +Unprotected +MPTCP`, table)
	command := newCommand(ctx, t, w)
	code, out := command.run(ctx, t, "doctor", "pod", j.name, "-n", namespace, "--kubeconfig", w.bed.Kubeconfig)
	require.Equal(t, 3, code, out)
	require.Contains(t, out, "EFD_SEMAPHORE")
	require.Contains(t, out, "write a number and a unit")

	_, err = w.node(t, "a").Exec(ctx, "bash", "-c", "touch /proc/"+j.pid(ctx, "a")+"/root/data/mended && kill -KILL "+j.pid(ctx, "a"))
	require.NoError(t, err)
	j.waitCondition(ctx, v1alpha1.ConditionDumpable, metav1.ConditionTrue, v1alpha1.ReasonNothingFound)
	j.waitCondition(ctx, v1alpha1.ConditionProtectable, metav1.ConditionTrue, v1alpha1.ReasonProtected)
	require.Contains(t, j.waitEvent(ctx, "Mended"), "MPTCP, SemaphoreEventfd")
	j.wait(ctx, "another verdict", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.Condition(v1alpha1.ConditionCurrent).Reason != v1alpha1.ReasonMPTCP
	})
	code, out = command.run(ctx, t, "doctor", "pod", j.name, "-n", namespace, "--kubeconfig", w.bed.Kubeconfig)
	require.Zero(t, code, out)
}
