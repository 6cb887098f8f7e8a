package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// dryRun has the API server admit the pod and returns what it would have stored.
func (w *world) dryRun(ctx context.Context, t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	out, err := w.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	require.NoError(t, err)
	return out
}

// patientWebhook has the API server wait longer for the webhook than the manifests say: on a busy machine it may be late, and
// the pod is then admitted as it is.
func (w *world) patientWebhook(ctx context.Context, t *testing.T) {
	t.Helper()
	const name, longest = "lifeboat", int32(30) // more is refused
	webhooks := w.kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	config, err := webhooks.Get(ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	wait := func(ctx context.Context, seconds int32) {
		patch := fmt.Appendf(nil, `[{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": %d}]`, seconds)
		_, err := webhooks.Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{})
		require.NoError(t, err)
	}
	wait(ctx, longest)
	t.Cleanup(func() { wait(context.WithoutCancel(ctx), *config.Webhooks[0].TimeoutSeconds) })
}

func classOf(pod *corev1.Pod) string {
	if pod.Spec.RuntimeClassName == nil {
		return ""
	}
	return *pod.Spec.RuntimeClassName
}

func TestLabelledPodsGetTheRuntimeClass(t *testing.T) {
	ctx, w := testContext(t), shared()
	w.patientWebhook(ctx, t)
	pod := counterPod("admitted", "a", w.image)
	pod.Annotations = map[string]string{v1alpha1.AnnotationRestoreFrom: "other/1", "team": "a"}
	got := w.dryRun(ctx, t, pod)
	require.Equal(t, v1alpha1.RuntimeClassName, classOf(got))
	require.Equal(t, "true", got.Spec.NodeSelector[v1alpha1.LabelRuntimeReady], "the RuntimeClass's own selector came along")
	require.Equal(t, map[string]string{"team": "a"}, got.Annotations, "a user's internal annotation is stripped")

	pod.Labels = nil
	require.Empty(t, classOf(w.dryRun(ctx, t, pod)))
	pod.Labels = map[string]string{v1alpha1.LabelProtect: "true"}
	pod.Namespace = deploy.Namespace
	own, err := w.kube.CoreV1().Pods(deploy.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	require.NoError(t, err)
	require.Empty(t, classOf(own), "Lifeboat's namespace is left alone")
}

// failedOpen reads how often the API server went on without the webhook's answer.
func (w *world) failedOpen(ctx context.Context, t *testing.T) string {
	t.Helper()
	out, err := w.kube.Kubectl(ctx, nil, "get", "--raw", "/metrics")
	require.NoError(t, err)
	var lines []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "apiserver_admission_webhook_fail_open_count{") && strings.Contains(line, "pods.lifeboat.dev") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// The authority is lost while pods are created all the time: each of them is admitted, and each replica serves with a
// certificate of the new authority in the end.
func TestCertificatesRotateWhilePodsAreCreated(t *testing.T) {
	ctx, w := testContext(t), shared()
	w.patientWebhook(ctx, t)
	require.NoError(t, deploy.Until(ctx, "webhook", func(ctx context.Context) (bool, string, error) {
		class := classOf(w.dryRun(ctx, t, counterPod("stream", "a", w.image)))
		return class != "", class, nil
	}))
	secrets := w.kube.CoreV1().Secrets(deploy.Namespace)
	old, err := secrets.Get(ctx, "lifeboat-webhook", metav1.GetOptions{})
	require.NoError(t, err)
	failed := w.failedOpen(ctx, t)
	begun := metav1.Now()
	require.NoError(t, secrets.Delete(ctx, old.Name, metav1.DeleteOptions{}))

	created := 0
	for rotated := 0; rotated < 2; rotated = w.newCertificates(ctx, t, begun) {
		until := time.Now().Add(2 * time.Second)
		for time.Now().Before(until) {
			require.Equal(t, v1alpha1.RuntimeClassName, classOf(w.dryRun(ctx, t, counterPod("stream", "a", w.image))), "pod %d", created)
			created++
		}
	}
	for range 50 {
		require.Equal(t, v1alpha1.RuntimeClassName, classOf(w.dryRun(ctx, t, counterPod("stream", "a", w.image))))
	}
	require.Equal(t, failed, w.failedOpen(ctx, t), "no call failed")
	t.Logf("%d pods admitted in %s", created, time.Since(begun.Time).Round(time.Second))
	made, err := secrets.Get(ctx, old.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.NotEqual(t, old.Data, made.Data)
	config, err := w.kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "lifeboat", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, made.Data["ca.crt"], config.Webhooks[0].ClientConfig.CABundle)
	require.Contains(t, string(config.Webhooks[0].ClientConfig.CABundle), string(old.Data["ca.crt"]), "the one before is trusted for a while")
}

// newCertificates counts replicas that have made a certificate since then.
func (w *world) newCertificates(ctx context.Context, t *testing.T, since metav1.Time) int {
	t.Helper()
	count := 0
	for _, pod := range w.controllers(ctx, t) {
		text, err := w.kube.CoreV1().Pods(deploy.Namespace).GetLogs(pod, &corev1.PodLogOptions{SinceTime: &since}).DoRaw(ctx)
		require.NoError(t, err)
		if strings.Contains(string(text), "serving certificate made") {
			count++
		}
	}
	return count
}

func (w *world) controllers(ctx context.Context, t *testing.T) []string {
	t.Helper()
	list, err := w.kube.CoreV1().Pods(deploy.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=lifeboat-controller"})
	require.NoError(t, err)
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

func TestWithoutTheWebhookPodsAreCreatedAsTheyAre(t *testing.T) {
	ctx, w := testContext(t), shared()
	w.scaleControllers(t, 0)
	t.Cleanup(func() { w.scaleControllers(t, 2) })
	begin := time.Now()
	require.Empty(t, classOf(w.dryRun(ctx, t, counterPod("unseen", "a", w.image))))
	t.Logf("created in %s", time.Since(begin).Round(time.Millisecond))
	w.scaleControllers(t, 2)
	require.NoError(t, deploy.Until(ctx, "webhook back", func(ctx context.Context) (bool, string, error) {
		return classOf(w.dryRun(ctx, t, counterPod("unseen", "a", w.image))) != "", "", nil
	}))
}

// Node b is said to have an older kernel: what was taken on node a waits, with words for why, until it has a new one.
func TestAReplacementWaitsForANodeThatFits(t *testing.T) {
	ctx, w := testContext(t), shared()
	label := func(ctx context.Context, value string) {
		_, err := w.kube.Kubectl(ctx, nil, "label", "node", "b", "--overwrite", v1alpha1.LabelKernel+"="+value)
		require.NoError(t, err)
	}
	b, err := w.kube.CoreV1().Nodes().Get(ctx, "b", metav1.GetOptions{})
	require.NoError(t, err)
	for _, name := range []string{v1alpha1.LabelCPULevel, v1alpha1.LabelCPUFeatures, v1alpha1.LabelKernel, v1alpha1.LabelCRIU} {
		require.NotEmpty(t, b.Labels[name], name)
	}
	t.Logf("node b offers level %s, features %s, kernel %s, CRIU %s", b.Labels[v1alpha1.LabelCPULevel],
		b.Labels[v1alpha1.LabelCPUFeatures], b.Labels[v1alpha1.LabelKernel], b.Labels[v1alpha1.LabelCRIU])

	j := w.start(ctx, t, counterPod("fits", "a", w.image))
	t.Cleanup(func() { label(context.WithoutCancel(ctx), b.Labels[v1alpha1.LabelKernel]) })
	label(ctx, "41900")
	w.interrupt(ctx, t, "a", window)
	pod, err := w.kube.WaitPod(ctx, namespace, j.name, "sent after the generation", func(p *corev1.Pod) (bool, error) {
		return p.Annotations[v1alpha1.AnnotationRestoreFrom] == "fits/1", nil
	})
	require.NoError(t, err)
	var why string
	require.NoError(t, deploy.Until(ctx, "event NoNodeFits", func(ctx context.Context) (bool, string, error) {
		list, err := w.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=NoNodeFits,involvedObject.uid=" + string(pod.UID)})
		if err != nil || len(list.Items) == 0 {
			return false, "", err
		}
		why = list.Items[0].Message
		return true, "", nil
	}))
	require.Regexp(t, `no node can restore generation 1, taken on node a: a: .*, b: lacks kernel [\d.]+ or newer, not 4.19`, why)
	pod, err = w.kube.CoreV1().Pods(namespace).Get(ctx, j.name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Empty(t, pod.Spec.NodeName)

	label(ctx, b.Labels[v1alpha1.LabelKernel])
	j.waitOn(ctx, "b")
	j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
}

// The tag has moved while the job ran, as far as the Checkpoint knows: its memory is not put beside other files.
func TestAGenerationIsNotRestoredIntoAnotherImage(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := w.start(ctx, t, counterPod("retagged", "a", w.image))
	token := j.logs(ctx)[0].token
	w.cordon(ctx, t, "b", true)
	w.interrupt(ctx, t, "a", window)
	c := j.wait(ctx, "stored", func(c *v1alpha1.Checkpoint) bool { return c.Status.WaitingGeneration() != nil })
	require.Contains(t, c.Status.Generation.Requirements["image/counter"], "sha256:")
	other := `{"status":{"generation":{"requirements":{"image/counter":"localhost:5000/counter@sha256:0123"}}}}`
	_, err := w.kube.Kubectl(ctx, nil, "-n", namespace, "patch", "checkpoint", j.name, "--subresource=status", "--type=merge", "-p", other)
	require.NoError(t, err)
	w.cordon(ctx, t, "b", false)
	j.waitOn(ctx, "b")
	require.Contains(t, j.waitEvent(ctx, v1alpha1.ReasonStartedClean), "the container's image is another one")
	j.waitStep(ctx, 3)
	require.NotEqual(t, token, j.logs(ctx)[0].token)
}
