package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
	"github.com/lifeboat-dev/lifeboat/test/e2e/lease"
)

// recoveryPoint has few safety dumps come after the first one, which comes at once: a node takes one at a time.
const recoveryPoint = "1m"

// unwarned has the workload's pods take safety dumps soon, and go on from them.
func (l *workload) unwarned(recover string) {
	l.annotations = map[string]string{v1alpha1.AnnotationRecoveryPoint: recoveryPoint, v1alpha1.AnnotationRecover: recover}
	l.leases.Recovers = true
}

// barePod is a pod that nobody but Lifeboat makes anew.
func barePod(ctx context.Context, l *workload) {
	l.t.Helper()
	t := l.template(corev1.RestartPolicyNever)
	pod := &corev1.Pod{ObjectMeta: l.meta(), Spec: t.Spec}
	pod.Labels, pod.Annotations = t.Labels, t.Annotations
	_, err := l.w.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(l.t, err)
}

// unwarnedCases are those of ownerCases, and bare pods. anew ones may not go back to a safety generation.
func unwarnedCases() (all []ownerCase, anew map[string]bool) {
	nothing := func(context.Context, *workload) {}
	return append(ownerCases(),
		ownerCase{"bare", 1, barePod, nothing},
		ownerCase{"anew-bare", 1, barePod, nothing},
		ownerCase{"anew-deployment", 1, func(ctx context.Context, l *workload) {
			_, err := l.w.kube.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: l.meta(), Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To(int32(1)), Selector: l.selector(), Template: l.template(corev1.RestartPolicyAlways),
			}}, metav1.CreateOptions{})
			require.NoError(l.t, err)
		}, nothing},
	), map[string]bool{"anew-bare": true, "anew-deployment": true}
}

// safe waits until each pod has a safety generation and some steps after it.
func (l *workload) safe(ctx context.Context, n int) {
	l.t.Helper()
	l.checkpoints(ctx, n, "safe", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.Safety != nil && c.Status.Pod != nil && c.Status.Safety.PodUID == c.Status.Pod.UID
	})
}

// resumed waits until all processes have gone on from their safety generations in other places: each has done some steps a second
// time, and more since.
func (l *workload) resumed(ctx context.Context, before map[string]lease.Process) {
	l.t.Helper()
	l.steps(ctx, "the same processes in other places", func(p map[string]lease.Process) bool {
		for token, was := range before {
			is := p[token]
			if len(is.Places) != len(was.Places)+1 || len(is.Recoveries) > 0 && is.Last < is.Recoveries[0].To+5 || len(is.Recoveries) == 0 && is.Last < was.Last+5 {
				return false
			}
		}
		return true
	})
	l.checkpoints(ctx, len(before), "borne on b", func(c *v1alpha1.Checkpoint) bool {
		e := c.Status.Condition(v1alpha1.ConditionEvacuated)
		return c.Status.Pod.NodeName == "b" && c.Status.IsTrue(v1alpha1.ConditionRestored) && c.Status.Pod.UID == c.Status.Claim.PodUID &&
			e != nil && e.Reason == v1alpha1.ReasonNodeLost && !c.Status.Generation.Final
	})
	require.Len(l.t, l.leases.Processes(), len(before), "no process began anew")
	for token, is := range l.leases.Processes() {
		require.LessOrEqual(l.t, len(is.Recoveries), 1, "process %s goes back once", token)
		for _, r := range is.Recoveries {
			l.t.Logf("process %s has done %d steps again", token, r.From-r.To+1)
		}
	}
	require.Empty(l.t, l.leases.Faults())
}

// begunAnew waits until other processes do the work of those before.
func (l *workload) begunAnew(ctx context.Context, before map[string]lease.Process) {
	l.t.Helper()
	l.steps(ctx, "new processes", func(p map[string]lease.Process) bool {
		made := 0
		for token, process := range p {
			if _, old := before[token]; !old && process.Last > 3 {
				made++
			}
		}
		return made == len(before)
	})
	for token, is := range l.leases.Processes() {
		require.Len(l.t, is.Places, 1, token)
		require.Empty(l.t, is.Recoveries, token)
	}
	l.checkpoints(ctx, len(before), "protected on b", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.Pod != nil && c.Status.Pod.NodeName == "b" && c.Status.IsTrue(v1alpha1.ConditionProtectable) && c.Status.Generation == nil
	})
}

// forget deletes the Node object. When the test ends, the node is there again as a new one.
func (w *world) forget(ctx context.Context, t *testing.T, node string, back func(context.Context) error) {
	t.Helper()
	require.NoError(t, w.kube.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		require.NoError(t, back(ctx))
		require.NoError(t, deploy.Until(ctx, "node "+node, func(ctx context.Context) (bool, string, error) {
			_, err := w.kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return false, "not there", nil
			}
			return err == nil, "", err
		}))
		require.NoError(t, w.kube.WaitRuntime(ctx, node))
	})
}

// TestOwnersWithoutNotice has pods of all kinds of owners on one node that dies, and whose object the cloud deletes.
func TestOwnersWithoutNotice(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute) // a Job's controller waits for 40 s before it replaces three
	t.Cleanup(cancel)
	w := shared()
	cases, anew := unwarnedCases()
	workloads, before := make([]*workload, len(cases)), make([]map[string]lease.Process, len(cases))
	for i, c := range cases {
		workloads[i] = newWorkload(ctx, t, w, c.name)
		recover := "latest"
		if anew[c.name] {
			recover = "final-only"
		}
		workloads[i].unwarned(recover)
		c.make(ctx, workloads[i])
	}
	for i, c := range cases {
		workloads[i].begin(ctx, c.pods)
		if !anew[c.name] {
			workloads[i].safe(ctx, c.pods)
		}
	}
	node := w.node(t, "a")
	require.NoError(t, node.Kill(ctx))
	began := time.Now()
	for i := range cases {
		before[i] = workloads[i].leases.Processes()
	}
	w.forget(ctx, t, "a", node.Start)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := workloads[i]
			defer func(outer *testing.T) { l.t = outer }(l.t)
			l.t = t
			if anew[c.name] {
				l.begunAnew(ctx, before[i])
				return
			}
			l.resumed(ctx, before[i])
			t.Logf("%d processes have gone on, %.1f s after the node's death", c.pods, time.Since(began).Seconds())
			c.satisfied(ctx, l)
		})
	}
}

// TestANodeThatIsGivenUpWhileItLives: somebody deletes the object of a node that runs. Its agent stops what goes on elsewhere
// before that does.
func TestANodeThatIsGivenUpWhileItLives(t *testing.T) {
	ctx, w := testContext(t), shared()
	l := newWorkload(ctx, t, w, "given-up")
	l.unwarned("latest")
	barePod(ctx, l)
	l.begin(ctx, 1)
	l.safe(ctx, 1)
	before := l.leases.Processes()
	w.forget(ctx, t, "a", func(ctx context.Context) error {
		_, err := w.node(t, "a").Exec(ctx, "systemctl", "restart", "kubelet")
		return err
	})
	l.resumed(ctx, before)
	_, err := w.kube.Kubectl(ctx, nil, "-n", namespace, "patch", "checkpoint", l.name, "--subresource=status", "--type=merge",
		"-p", `{"status":{"generation":{"number":99,"final":true}}}`)
	require.ErrorContains(t, err, "comes too late", "whoever writes it")
	require.NoError(t, deploy.Until(ctx, "end of the source", func(ctx context.Context) (bool, string, error) {
		out, err := w.node(t, "a").Exec(ctx, "bash", "-c", "pgrep -a counter || true")
		return len(out) == 0, fmt.Sprint(string(out)), err
	}))
	require.Empty(t, l.leases.Faults())
}
