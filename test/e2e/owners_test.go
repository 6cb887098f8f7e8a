package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
	"github.com/lifeboat-dev/lifeboat/test/e2e/lease"
)

// workload is pods of one owner under test, each a counter that takes its steps under a lease.
type workload struct {
	t      *testing.T
	w      *world
	name   string
	leases *lease.Server
	server string
	// annotations are those of its pods.
	annotations map[string]string
}

// newWorkload serves leases outside of the cluster. When the test ends, it removes what the owner has left.
func newWorkload(ctx context.Context, t *testing.T, w *world, name string) *workload {
	t.Helper()
	l := &workload{t: t, w: w, name: name, leases: &lease.Server{}}
	listener, err := w.bed.Listen()
	require.NoError(t, err)
	l.server = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- l.leases.Serve(listener) }()
	t.Cleanup(func() {
		l.remove(context.WithoutCancel(ctx))
		require.NoError(t, listener.Close())
		require.NoError(t, <-served)
	})
	return l
}

// template is of the counter's pods, which prefer node a. Without a webhook they name the RuntimeClass themselves.
func (l *workload) template(restart corev1.RestartPolicy, args ...string) corev1.PodTemplateSpec {
	pod := counterPod(l.name, "a", l.w.image, append([]string{"-lease", l.server}, args...)...)
	pod.Spec.RestartPolicy = restart
	pod.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName)
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l.labels(), Annotations: l.annotations}, Spec: pod.Spec}
}

func (l *workload) labels() map[string]string {
	return map[string]string{v1alpha1.LabelProtect: "true", "app": l.name}
}

func (l *workload) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: l.name, Namespace: namespace}
}

func (l *workload) selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": l.name}}
}

func (l *workload) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := l.w.kube.Kubectl(ctx, nil, "-n", namespace, "delete", "--ignore-not-found", "job/"+l.name, "deployment/"+l.name, "statefulset/"+l.name)
	require.NoError(l.t, err)
	require.NoError(l.t, deploy.Until(ctx, "end of "+l.name, func(ctx context.Context) (bool, string, error) {
		these := metav1.ListOptions{LabelSelector: "app=" + l.name}
		pods, err := l.w.kube.CoreV1().Pods(namespace).List(ctx, these)
		if err != nil {
			return false, "", err
		}
		if len(pods.Items) > 0 {
			now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}
			if err := l.w.kube.CoreV1().Pods(namespace).DeleteCollection(ctx, now, these); err != nil {
				return false, "", err
			}
		}
		left, err := l.w.kube.CheckpointsOf(ctx, namespace, l.name)
		return len(pods.Items)+len(left) == 0, fmt.Sprintf("%d pods, %d Checkpoints", len(pods.Items), len(left)), err
	}))
}

// checkpoints waits until there are so many Checkpoints of the owner, each as ok wants it.
func (l *workload) checkpoints(ctx context.Context, n int, what string, ok func(*v1alpha1.Checkpoint) bool) []v1alpha1.Checkpoint {
	l.t.Helper()
	var found []v1alpha1.Checkpoint
	require.NoError(l.t, deploy.Until(ctx, fmt.Sprintf("%d Checkpoints of %s: %s", n, l.name, what), func(ctx context.Context) (bool, string, error) {
		all, err := l.w.kube.CheckpointsOf(ctx, namespace, l.name)
		found = all
		state := fmt.Sprintf("%d Checkpoints", len(all))
		good := len(all) == n
		for i := range all {
			state += fmt.Sprintf("; %s: %v %v", all[i].Name, all[i].Status.Pod, all[i].Status.Claim)
			for _, c := range all[i].Status.Conditions {
				state += fmt.Sprintf(", %s=%s (%s)", c.Type, c.Status, c.Reason)
			}
			good = good && ok(&all[i])
		}
		return good, state, err
	}))
	return found
}

// begin waits until n processes run on node a, have made some steps and are protected.
func (l *workload) begin(ctx context.Context, n int) {
	l.t.Helper()
	l.checkpoints(ctx, n, "protected on a", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.IsTrue(v1alpha1.ConditionProtectable) && c.Status.Pod.NodeName == "a"
	})
	l.steps(ctx, "some steps", func(p map[string]lease.Process) bool {
		made := len(p) == n
		for _, process := range p {
			made = made && process.Last > 3
		}
		return made
	})
}

// goneOn waits until all n processes have made some steps in another place than before, and the Checkpoints of those still at
// work say so.
func (l *workload) goneOn(ctx context.Context, before map[string]lease.Process, node string) {
	l.t.Helper()
	l.steps(ctx, "the same processes in other places", func(p map[string]lease.Process) bool {
		for token, was := range before {
			if is := p[token]; len(is.Places) != len(was.Places)+1 || is.Last < was.Last+5 {
				return false
			}
		}
		return true
	})
	l.checkpoints(ctx, len(before), "borne on "+node, func(c *v1alpha1.Checkpoint) bool {
		return c.Status.Pod.NodeName == node && c.Status.IsTrue(v1alpha1.ConditionRestored) && c.Status.Pod.UID == c.Status.Claim.PodUID
	})
	require.Len(l.t, l.leases.Processes(), len(before), "no process began anew")
	require.Empty(l.t, l.leases.Faults())
}

func (l *workload) steps(ctx context.Context, what string, ok func(map[string]lease.Process) bool) {
	l.t.Helper()
	require.NoError(l.t, deploy.Until(ctx, what, func(context.Context) (bool, string, error) {
		if faults := l.leases.Faults(); len(faults) > 0 {
			return false, "", fmt.Errorf("leases: %v", faults)
		}
		p := l.leases.Processes()
		return ok(p), fmt.Sprint(p), nil
	}))
}

// completed has the Job's processes end, waits for its end and checks that all of its pods count and none of them failed.
func (l *workload) completed(ctx context.Context, pods int) {
	l.t.Helper()
	l.leases.End()
	var job *batchv1.Job
	require.NoError(l.t, deploy.Until(ctx, "Job "+l.name, func(ctx context.Context) (bool, string, error) {
		var err error
		job, err = l.w.kube.BatchV1().Jobs(namespace).Get(ctx, l.name, metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		for _, c := range job.Status.Conditions {
			if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
				return false, "", fmt.Errorf("the Job has failed: %s", c.Message)
			}
			if c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue {
				return true, "", nil
			}
		}
		return false, fmt.Sprintf("%d active, %d succeeded, %d failed", job.Status.Active, job.Status.Succeeded, job.Status.Failed), nil
	}))
	require.EqualValues(l.t, pods, job.Status.Succeeded)
	require.EqualValues(l.t, 0, job.Status.Failed, "an interruption is no failure")
	require.Len(l.t, l.leases.Processes(), pods)
	require.Empty(l.t, l.leases.Faults())
}

// ignoresDisruptions is what docs/operations.md tells users to write.
func ignoresDisruptions() *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action:          batchv1.PodFailurePolicyActionIgnore,
		OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
	}}}
}

// ownerCase is pods of one kind of owner.
type ownerCase struct {
	name string
	pods int
	make func(context.Context, *workload)
	// satisfied checks what the owner says once its processes go on on node b.
	satisfied func(context.Context, *workload)
}

func jobCase(name string, pods int, change func(*batchv1.JobSpec), satisfied func(context.Context, *workload)) ownerCase {
	return ownerCase{name, pods, func(ctx context.Context, l *workload) {
		l.t.Helper()
		spec := batchv1.JobSpec{
			BackoffLimit: ptr.To(int32(0)), PodFailurePolicy: ignoresDisruptions(), Template: l.template(corev1.RestartPolicyNever),
			Parallelism: ptr.To(int32(pods)), Completions: ptr.To(int32(pods)),
		}
		change(&spec)
		_, err := l.w.kube.BatchV1().Jobs(namespace).Create(ctx, &batchv1.Job{ObjectMeta: l.meta(), Spec: spec}, metav1.CreateOptions{})
		require.NoError(l.t, err)
	}, func(ctx context.Context, l *workload) {
		l.t.Helper()
		satisfied(ctx, l)
		l.completed(ctx, pods)
	}}
}

func ownerCases() []ownerCase {
	nothing := func(context.Context, *workload) {}
	return []ownerCase{
		{"stateful", 2, func(ctx context.Context, l *workload) {
			_, err := l.w.kube.AppsV1().StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: l.meta(), Spec: appsv1.StatefulSetSpec{
				Replicas: ptr.To(int32(2)), Selector: l.selector(), Template: l.template(corev1.RestartPolicyAlways),
				PodManagementPolicy: appsv1.ParallelPodManagement,
			}}, metav1.CreateOptions{})
			require.NoError(l.t, err)
		}, ordinalsGoOn},
		{"deployment", 2, func(ctx context.Context, l *workload) {
			_, err := l.w.kube.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: l.meta(), Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To(int32(2)), Selector: l.selector(), Template: l.template(corev1.RestartPolicyAlways),
			}}, metav1.CreateOptions{})
			require.NoError(l.t, err)
		}, func(ctx context.Context, l *workload) {
			require.NoError(l.t, deploy.Until(ctx, "Deployment available", func(ctx context.Context) (bool, string, error) {
				d, err := l.w.kube.AppsV1().Deployments(namespace).Get(ctx, l.name, metav1.GetOptions{})
				return err == nil && d.Status.AvailableReplicas == 2 && d.Status.Replicas == 2, fmt.Sprint(d.Status), err
			}))
		}},
		jobCase("job", 1, func(*batchv1.JobSpec) {}, nothing),
		jobCase("parallel-job", 3, func(*batchv1.JobSpec) {}, nothing),
		jobCase("indexed-job", 2, func(s *batchv1.JobSpec) {
			// Each index waits for its replacement on its own.
			s.CompletionMode, s.BackoffLimit, s.BackoffLimitPerIndex = ptr.To(batchv1.IndexedCompletion), nil, ptr.To(int32(0))
		}, indexesGoOn),
		customCase(),
	}
}

// indexesGoOn checks that each index is continued by a pod of that index.
func indexesGoOn(ctx context.Context, l *workload) {
	l.t.Helper()
	for _, c := range l.checkpoints(ctx, 2, "there", func(*v1alpha1.Checkpoint) bool { return true }) {
		pod, err := l.w.kube.CoreV1().Pods(namespace).Get(ctx, c.Status.Pod.Name, metav1.GetOptions{})
		require.NoError(l.t, err)
		require.Equal(l.t, fmt.Sprint(*c.Spec.Identity.Index), pod.Labels[batchv1.JobCompletionIndexAnnotation])
	}
}

// ordinalsGoOn checks that each pod of the StatefulSet keeps its name.
func ordinalsGoOn(ctx context.Context, l *workload) {
	l.t.Helper()
	for _, c := range l.checkpoints(ctx, 2, "there", func(*v1alpha1.Checkpoint) bool { return true }) {
		require.Equal(l.t, c.Name, c.Status.Pod.Name)
	}
	require.NoError(l.t, deploy.Until(ctx, "StatefulSet ready", func(ctx context.Context) (bool, string, error) {
		set, err := l.w.kube.AppsV1().StatefulSets(namespace).Get(ctx, l.name, metav1.GetOptions{})
		return err == nil && set.Status.ReadyReplicas == 2, fmt.Sprint(set.Status), err
	}))
}

// TestOwnersWithNotice has pods of all kinds of owners on one node when its notice comes. The Job controller takes its time, so
// they are interrupted all at once.
func TestOwnersWithNotice(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a Job's controller waits for 40 s before it replaces three
	t.Cleanup(cancel)
	w, cases := shared(), ownerCases()
	workloads, before := make([]*workload, len(cases)), make([]map[string]lease.Process, len(cases))
	for i, c := range cases {
		workloads[i] = newWorkload(ctx, t, w, c.name)
		c.make(ctx, workloads[i])
	}
	for i, c := range cases {
		workloads[i].begin(ctx, c.pods)
	}
	for i := range cases {
		before[i] = workloads[i].leases.Processes()
	}
	began := time.Now()
	w.interrupt(ctx, t, "a", window)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := workloads[i]
			defer func(outer *testing.T) { l.t = outer }(l.t)
			l.t = t
			l.goneOn(ctx, before[i], "b")
			t.Logf("%d processes have gone on, %.1f s after the notice", c.pods, time.Since(began).Seconds())
			c.satisfied(ctx, l)
		})
	}
}

// TestAJobWithoutAPolicyIsToldWhatToAdd: its interruption counts as a failure, so the user hears of it before any notice.
func TestAJobWithoutAPolicyIsToldWhatToAdd(t *testing.T) {
	ctx, w := testContext(t), shared()
	l := newWorkload(ctx, t, w, "no-policy")
	_, err := w.kube.BatchV1().Jobs(namespace).Create(ctx, &batchv1.Job{ObjectMeta: l.meta(), Spec: batchv1.JobSpec{
		Template: l.template(corev1.RestartPolicyNever),
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	found := l.checkpoints(ctx, 1, "judged", func(c *v1alpha1.Checkpoint) bool { return c.Status.Condition(v1alpha1.ConditionTolerated) != nil })
	c := found[0].Status.Condition(v1alpha1.ConditionTolerated)
	require.Equal(t, metav1.ConditionFalse, c.Status)
	require.Contains(t, c.Message, "podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}")
}
