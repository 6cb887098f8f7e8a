package e2e

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const window = 2 * time.Minute

func TestThereAndBack(t *testing.T) {
	thereAndBack(t, shared())
}

// thereAndBack has a job interrupted on node a, where the node dies, and again on node b.
func thereAndBack(t *testing.T, w *world) {
	ctx := testContext(t)
	j := w.start(ctx, t, counterPod("there-and-back", "a", w.image))
	j.waitOn(ctx, "a")
	before := j.logs(ctx)

	w.interrupt(ctx, t, "a", window)
	j.waitOn(ctx, "b")
	c := j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
	require.EqualValues(t, 1, c.Status.Epoch)
	there := c.Status.Generation
	j.waitStep(ctx, 1)
	first := j.logs(ctx)[0].n
	j.waitStep(ctx, first+5)
	last := j.requireContinuous(ctx, "b", 0)
	require.Equal(t, before[0].token, last.token)

	w.restart(ctx, t, "a")
	w.interrupt(ctx, t, "b", window)
	j.waitOn(ctx, "a")
	c = j.wait(ctx, "second generation restored", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.Generation.Number > there.Number && c.Status.Epoch == 2 && c.Status.IsTrue(v1alpha1.ConditionRestored)
	})
	require.EqualValues(t, 1, c.Status.Generation.Epoch)
	back := c.Status.Generation
	t.Logf("generation %d: %d of %d bytes in the window; generation %d: %d bytes, %d in the window", there.Number,
		there.WindowBytes, there.RSSBytes, back.Number, back.StoredBytes, back.WindowBytes)
	require.Less(t, back.StoredBytes, back.RSSBytes/8, "a later generation stores what changed since the one before")
	j.waitStep(ctx, 1)
	second := j.logs(ctx)[0].n
	j.waitStep(ctx, second+5)
	require.Equal(t, before[0].token, j.requireContinuous(ctx, "a", 0).token)

	_, err := w.kube.Kubectl(ctx, nil, "-n", namespace, "exec", j.name, "--", "/counter", "-h")
	require.NoError(t, err, "kubectl exec works on the restored pod")
}

func TestTheVeryNextStepAndTheExitCode(t *testing.T) {
	ctx, w := testContext(t), shared()
	const most = 600 // a minute: it must still count when it comes back
	job := counterPod("next-step", "a", w.image, "-steps", strconv.Itoa(most))
	addProbes(&job.Spec.Containers[0])
	j := w.start(ctx, t, job)
	follow := make(chan step, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- w.kube.FollowLogs(ctx, namespace, j.name, func(line string) error {
			s, err := parseStep(line)
			follow <- s
			return err
		})
	}()
	w.interrupt(ctx, t, "a", window)
	// Not later: a probe of a container that is just ending fails.
	require.Empty(t, j.unhealthy(ctx, j.waitOn(ctx, "b").UID), "probes are answered by the process that came back, the one at the start at once")
	<-ended
	close(follow)
	var last step
	for s := range follow {
		last = s
	}
	j.requireContinuous(ctx, "b", last.n+1)
	pod, err := w.kube.WaitPod(ctx, namespace, j.name, "succeeded", func(p *corev1.Pod) (bool, error) {
		return p.Status.Phase == corev1.PodSucceeded, nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 0, pod.Status.ContainerStatuses[0].State.Terminated.ExitCode)
	require.EqualValues(t, 0, pod.Status.ContainerStatuses[0].RestartCount)
	steps := j.logs(ctx)
	require.Equal(t, most, steps[len(steps)-1].n)
}

// addProbes asks the counter itself. The probe at the start takes two seconds to pass, in a process that begins.
func addProbes(c *corev1.Container) {
	probe := func(step string, failures int32) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/counter", "-alive", step}}},
			PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: failures,
		}
	}
	c.StartupProbe, c.ReadinessProbe, c.LivenessProbe = probe("20", 60), probe("1", 3), probe("1", 30)
}

// unhealthy are the messages of probes of that pod that were answered, and failed.
func (j *job) unhealthy(ctx context.Context, pod types.UID) []string {
	j.t.Helper()
	list, err := j.w.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Unhealthy,involvedObject.uid=" + string(pod)})
	require.NoError(j.t, err)
	var messages []string
	for _, e := range list.Items {
		if strings.Contains(e.Message, "probe failed") {
			messages = append(messages, e.Message)
		}
	}
	return messages
}

func TestPodWithoutLabelIsLeftAlone(t *testing.T) {
	ctx, w := testContext(t), shared()
	pod := counterPod("unlabelled", "a", w.image)
	pod.Labels = nil
	plain := w.start(ctx, t, pod)
	j := w.start(ctx, t, counterPod("labelled", "a", w.image))
	w.interrupt(ctx, t, "a", window)
	j.waitOn(ctx, "b")
	now := plain.logs(ctx)
	plain.waitStep(ctx, now[len(now)-1].n+5)
	require.Equal(t, "a", plain.waitRunning(ctx).Spec.NodeName)
	_, err := w.kube.Checkpoint(ctx, namespace, "unlabelled")
	require.Error(t, err)
}

func TestPodThatCannotBeProtectedIsToldWhy(t *testing.T) {
	ctx, w := testContext(t), shared()
	pod := counterPod("host-pid", "a", w.image)
	pod.Spec.HostPID = true
	j := &job{t: t, w: w, name: pod.Name}
	t.Cleanup(func() { j.remove(context.WithoutCancel(ctx)) })
	_, err := w.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	c := j.waitCondition(ctx, v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonHostPID)
	require.Contains(t, c.Status.Condition(v1alpha1.ConditionProtectable).Message, "hostPID")
	require.Contains(t, j.waitEvent(ctx, v1alpha1.ReasonHostPID), "hostPID")

	w.interrupt(ctx, t, "a", window)
	j.waitRunning(ctx)
	j.waitStep(ctx, 20)
}

func TestTermDuringTheHandOverIsNotCarriedAlong(t *testing.T) {
	ctx, w := testContext(t), shared()
	pod := counterPod("drained", "a", w.image, "-mib", "256")
	// The wrapper holds signals back; without a webhook the first pod of a job has it only where it asks for it.
	class := v1alpha1.RuntimeClassName
	pod.Spec.RuntimeClassName = &class
	j := w.start(ctx, t, pod)
	w.interrupt(ctx, t, "a", window)
	j.wait(ctx, "evacuation begun", func(c *v1alpha1.Checkpoint) bool { return c.Status.Condition(v1alpha1.ConditionEvacuated) != nil })
	grace := int64(30)
	require.NoError(t, w.kube.CoreV1().Pods(namespace).Delete(ctx, j.name, metav1.DeleteOptions{GracePeriodSeconds: &grace}))
	j.waitOn(ctx, "b")
	j.waitStep(ctx, 1)
	first := j.logs(ctx)[0].n
	require.Greater(t, first, 1)
	j.waitStep(ctx, first+10)
}
