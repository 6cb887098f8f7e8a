package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/manifests/policytest"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

func TestAgentsAreHeldToTheirNode(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Kubeconfig)
	require.NoError(t, err)
	config.QPS, config.Burst = 100, 200
	log.SetLogger(logr.Discard())
	// The controller would put right the Checkpoints that the cases make up.
	shared().scaleControllers(t, 0)
	t.Cleanup(func() { shared().scaleControllers(t, 2) })
	policytest.Run(t, config, "a", "b")
}

// scaleControllers waits until that many replicas are ready, and no other is left.
func (w *world) scaleControllers(t *testing.T, replicas int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	steps := [][]string{{"scale", "deployment/lifeboat-controller", fmt.Sprintf("--replicas=%d", replicas)}, {"rollout", "status", "deployment/lifeboat-controller"}}
	if replicas == 0 {
		steps[1] = []string{"wait", "pod", "-l", "app.kubernetes.io/name=lifeboat-controller", "--for=delete"}
	}
	for _, args := range steps {
		_, err := w.kube.Kubectl(ctx, nil, append([]string{"-n", deploy.Namespace}, args...)...)
		require.NoError(t, err)
	}
}

func TestKubectlGetCheckpoints(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := w.start(ctx, t, counterPod("columns", "a", w.image))
	j.waitJudged(ctx)
	got := j.columns(ctx)
	require.Subset(t, got, map[string]string{
		"NAME": "columns", "POD": "columns", "NODE": "a", "GEN": "", "AGE": "", "READY": "True", "REASON": v1alpha1.ReasonProtected,
	})
	require.Regexp(t, `^\d+(Ki|Mi)?$`, got["DIRTY"])
	require.Regexp(t, `^[\d.]+m?s$`, got["WINDOW"])
	require.NotEmpty(t, got["VERDICT"])
	require.Empty(t, got["RESTORED"])

	w.cordon(ctx, t, "b", true)
	w.interrupt(ctx, t, "a", window)
	j.waitReleased(ctx)
	require.Subset(t, j.columns(ctx), map[string]string{"NODE": "a", "GEN": "1", "RESTORED": v1alpha1.ReasonWaiting})
	w.cordon(ctx, t, "b", false)
	j.waitOn(ctx, "b")
	j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
	got = j.columns(ctx, "-o", "wide")
	require.Subset(t, got, map[string]string{
		"NAME": "columns", "POD": "columns", "NODE": "b", "READY": "True", "REASON": v1alpha1.ReasonProtected,
		"EVACUATED": v1alpha1.ReasonFinalGeneration, "RESTORED": v1alpha1.ReasonRestored,
	})
	require.Regexp(t, `^\d+$`, got["GEN"])
	require.Regexp(t, `^\d+(s|m)`, got["AGE"])
}

// columns is the line that `kubectl get checkpoints` prints of this job, by column.
func (j *job) columns(ctx context.Context, flags ...string) map[string]string {
	j.t.Helper()
	out, err := j.w.kube.Kubectl(ctx, nil, append([]string{"-n", namespace, "get", "checkpoints", j.name}, flags...)...)
	require.NoError(j.t, err)
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	require.Len(j.t, lines, 2)
	// A cell may be empty, so it is found by where its column begins.
	columns, head := map[string]string{}, lines[0]
	for _, name := range strings.Fields(head) {
		from := strings.Index(head, name)
		width := len(name) + len(head[from+len(name):]) - len(strings.TrimLeft(head[from+len(name):], " "))
		cell := lines[1][min(from, len(lines[1])):]
		if from+width < len(head) {
			cell = cell[:min(width, len(cell))]
		}
		columns[name] = strings.TrimSpace(cell)
	}
	return columns
}

// TestUninstallLeavesTheNodeAsItWas takes Lifeboat off the shared bed, as docs/operations.md says, and puts it on again.
func TestUninstallLeavesTheNodeAsItWas(t *testing.T) {
	ctx, w := testContext(t), shared()
	require.NotEmpty(t, pristine)
	require.NotContains(t, pristine["b"], "lifeboat", "the bed attached to had Lifeboat on it before these tests: take a new one")
	set, err := w.kube.AppsV1().DaemonSets(deploy.Namespace).Get(ctx, "lifeboat-agent", metav1.GetOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { w.reinstall(context.WithoutCancel(ctx), t, set.Spec.Template.Spec.Containers[0].Image) })

	plainPod := counterPod("plain", "b", w.image)
	plainPod.Labels = nil
	plain := w.start(ctx, t, plainPod)
	wrappedPod := counterPod("wrapped", "a", w.image)
	wrappedPod.Labels = nil
	class := v1alpha1.RuntimeClassName
	wrappedPod.Spec.RuntimeClassName = &class
	wrapped := w.start(ctx, t, wrappedPod)
	require.NotEqual(t, pristine["b"], w.onNode(ctx, t, "b"))

	require.NoError(t, deploy.Uninstall(ctx, w.bed))
	require.Equal(t, pristine["b"], w.onNode(ctx, t, "b"))
	for _, j := range []*job{plain, wrapped} {
		steps := j.logs(ctx)
		j.waitStep(ctx, steps[len(steps)-1].n+5)
		require.EqualValues(t, 0, j.waitRunning(ctx).Status.ContainerStatuses[0].RestartCount)
	}
	plain.requireContinuous(ctx, "b", 1)
	wrapped.requireContinuous(ctx, "a", 1)
	_, err = w.kube.Kubectl(ctx, nil, "get", "checkpoints", "-A")
	require.NoError(t, err, "the CRD stays")
	w.requireNoRuntime(ctx, t)

	// containerd cannot end a container without the runtime that made it, so that alone was left on node a.
	require.NoError(t, w.kube.CoreV1().Pods(namespace).Delete(ctx, wrapped.name, metav1.DeleteOptions{}))
	require.NoError(t, deploy.Until(ctx, "container of "+wrapped.name+" gone", func(ctx context.Context) (bool, string, error) {
		pid := wrapped.pid(ctx, "a")
		return pid == "null", "pid " + pid, nil
	}))
}

func (w *world) requireNoRuntime(ctx context.Context, t *testing.T) {
	t.Helper()
	nodes, err := w.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, node := range nodes.Items {
		require.NotContains(t, node.Labels, v1alpha1.LabelRuntimeReady)
	}
}

// reinstall puts Lifeboat on again and waits until both nodes are ready to restore.
func (w *world) reinstall(ctx context.Context, t *testing.T, image string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, err := deploy.Install(ctx, w.bed, deploy.Options{Image: image, Settings: deploy.Hasty})
	require.NoError(t, err)
}

func (w *world) onNode(ctx context.Context, t *testing.T, node string) string {
	t.Helper()
	text, err := traces(ctx, w.bed, node)
	require.NoError(t, err)
	return text
}

// traces is all of a node that installing changes: containerd's files, what it makes of them, and our folders.
func traces(ctx context.Context, c *bed.Cluster, name string) (string, error) {
	node, err := c.Node(name)
	if err != nil {
		return "", err
	}
	out, err := node.Exec(ctx, "bash", "-euo", "pipefail", "-c",
		"find /etc/containerd -type f -exec sha256sum {} + | sort; containerd config dump; find /opt /var/lib/lifeboat* 2>/dev/null | sort || true")
	return string(out), err
}
