package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

const namespace = "default"

// testContext bounds one test.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// job is a counter pod under test.
type job struct {
	t    *testing.T
	w    *world
	name string
}

// shared is the world of the bed that all tests but those of another containerd share.
func shared() *world { return &world{bed: cluster, kube: kube, image: counterImage} }

// counterPod is a protected pod that prefers node.
func counterPod(name, node, image string, args ...string) *corev1.Pod {
	no, yes, id := false, true, int64(65534)
	second := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{v1alpha1.LabelProtect: "true"}},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &second,
			Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
					Weight: 100,
					Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
						{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
					}},
				}},
			}},
			SecurityContext: &corev1.PodSecurityContext{
				RunAsUser: &id, RunAsGroup: &id, FSGroup: &id, RunAsNonRoot: &yes,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "counter", Image: image, Args: args,
				VolumeMounts:    []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
}

// start creates the pod and waits until it runs on the node that it prefers and has made some steps; where it is
// labelled, until its Checkpoint says Protectable.
func (w *world) start(ctx context.Context, t *testing.T, pod *corev1.Pod) *job {
	t.Helper()
	j := &job{t: t, w: w, name: pod.Name}
	t.Cleanup(func() { j.remove(context.WithoutCancel(ctx)) })
	_, err := w.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	if preferred := pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) == 1 {
		require.Equal(t, preferred[0].Preference.MatchExpressions[0].Values[0], j.waitRunning(ctx).Spec.NodeName)
	}
	j.waitStep(ctx, 3)
	if pod.Labels[v1alpha1.LabelProtect] == "true" {
		j.wait(ctx, "protectable", func(c *v1alpha1.Checkpoint) bool { return c.Status.IsTrue(v1alpha1.ConditionProtectable) })
	}
	return j
}

// remove deletes the job and what protects it, again and again: a pod that is deleted in the middle of a hand-over has a
// replacement created in its place.
func (j *job) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	require.NoError(j.t, deploy.Until(ctx, "end of "+j.name, func(ctx context.Context) (bool, string, error) {
		kinds := "checkpoint/" + j.name + " pod/" + j.name
		out, err := j.w.kube.Kubectl(ctx, nil, append([]string{"-n", namespace, "delete", "--ignore-not-found", "--grace-period=0", "--force", "--wait=false"},
			strings.Fields(kinds)...)...)
		if err != nil {
			return false, "", err
		}
		return out == "", out, nil
	}))
}

func (j *job) waitRunning(ctx context.Context) *corev1.Pod {
	j.t.Helper()
	pod, err := j.w.kube.WaitPod(ctx, namespace, j.name, "running", func(p *corev1.Pod) (bool, error) {
		return p.DeletionTimestamp == nil && deploy.PodReady(p), nil
	})
	require.NoError(j.t, err)
	return pod
}

// waitOn waits until the pod runs on that node.
func (j *job) waitOn(ctx context.Context, node string) *corev1.Pod {
	j.t.Helper()
	pod, err := j.w.kube.WaitPod(ctx, namespace, j.name, "running on "+node, func(p *corev1.Pod) (bool, error) {
		return p.Spec.NodeName == node && p.DeletionTimestamp == nil && deploy.PodReady(p), nil
	})
	require.NoError(j.t, err)
	return pod
}

func (j *job) wait(ctx context.Context, what string, ok func(*v1alpha1.Checkpoint) bool) *v1alpha1.Checkpoint {
	j.t.Helper()
	c, err := j.w.kube.WaitCheckpoint(ctx, namespace, j.name, what, ok)
	require.NoError(j.t, err)
	return c
}

// waitReleased waits until the source is gone: its kubelet has said so, or on a busy machine was not waited for.
func (j *job) waitReleased(ctx context.Context) *v1alpha1.Checkpoint {
	j.t.Helper()
	return j.wait(ctx, "released", func(c *v1alpha1.Checkpoint) bool { return c.Status.IsTrue(v1alpha1.ConditionReleased) })
}

// waitCondition waits for a condition of that status and reason.
func (j *job) waitCondition(ctx context.Context, kind string, status metav1.ConditionStatus, reason string) *v1alpha1.Checkpoint {
	j.t.Helper()
	return j.wait(ctx, kind+"="+string(status)+", "+reason, func(c *v1alpha1.Checkpoint) bool {
		got := c.Status.Condition(kind)
		return got != nil && got.Status == status && got.Reason == reason
	})
}

// waitJudged waits until the agent has said how well the pod is protected.
func (j *job) waitJudged(ctx context.Context) *v1alpha1.Checkpoint {
	j.t.Helper()
	return j.wait(ctx, "status.protection", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.Protection != nil && c.Status.Pod != nil && c.Status.Protection.PodUID == c.Status.Pod.UID
	})
}

// step is one line of the counter.
type step struct {
	n     int
	token string
}

func parseStep(line string) (step, error) {
	var s step
	// A followed log has a time stamp before each line.
	_, after, ok := strings.Cut(line, "n=")
	if _, err := fmt.Sscanf(after, "%d token=%s", &s.n, &s.token); err != nil || !ok {
		return step{}, fmt.Errorf("parse step %q: %w", line, err)
	}
	return s, nil
}

func (j *job) parse(text string) []step {
	j.t.Helper()
	var steps []step
	for line := range strings.Lines(text) {
		s, err := parseStep(line)
		require.NoError(j.t, err)
		steps = append(steps, s)
	}
	return steps
}

// logs returns the steps that `kubectl logs` shows.
func (j *job) logs(ctx context.Context) []step {
	j.t.Helper()
	j.waitStep(ctx, 1) // a pod may run for a while before it says anything
	out, err := j.w.kube.Kubectl(ctx, nil, "-n", namespace, "logs", j.name)
	require.NoError(j.t, err)
	return j.parse(out)
}

// waitStep waits until the log shows step n.
func (j *job) waitStep(ctx context.Context, n int) {
	j.t.Helper()
	err := deploy.Until(ctx, "step "+strconv.Itoa(n), func(ctx context.Context) (bool, string, error) {
		out, err := j.w.kube.Kubectl(ctx, nil, "-n", namespace, "logs", "--tail=1", j.name)
		if err != nil || out == "" {
			return false, "no log yet", nil
		}
		last, err := parseStep(out)
		return last.n >= n, out, err
	})
	require.NoError(j.t, err)
}

// requireContinuous checks that the pod's files hold every step from 1 on, each once and all of one process, and that
// its log begins after the steps of the pods before it; it returns the token and the last step.
func (j *job) requireContinuous(ctx context.Context, node string, wantFirst int) step {
	j.t.Helper()
	j.waitStep(ctx, 1)
	logged := j.logs(ctx)
	if wantFirst > 0 {
		require.Equal(j.t, wantFirst, logged[0].n, "the log of the restored pod begins with the very next step")
	}
	token := logged[0].token
	for i, s := range logged {
		require.Equal(j.t, step{logged[0].n + i, token}, s)
	}
	for _, file := range []string{"/data/steps.log", "/tmp/steps.log"} {
		steps := j.parse(j.read(ctx, node, file))
		require.GreaterOrEqual(j.t, len(steps), logged[0].n)
		for i, s := range steps {
			require.Equal(j.t, step{i + 1, token}, s, file)
		}
	}
	return logged[len(logged)-1]
}

// read returns a file of the running container. The image has no shell, so it is read through the node's /proc.
func (j *job) read(ctx context.Context, node, file string) string {
	j.t.Helper()
	out, err := j.w.node(j.t, node).Exec(ctx, "bash", "-c", `cat /proc/`+j.pid(ctx, node)+`/root`+file)
	require.NoError(j.t, err)
	return string(out)
}

// container is the newest container of the pod as runc on the node lists it.
func (j *job) container(ctx context.Context, node, field string) string {
	j.t.Helper()
	const root = "/run/containerd/runc/k8s.io"
	// Where there is no container at all, runc lists null.
	query := `[.[]?|select(.annotations["io.kubernetes.cri.container-type"]=="container" and .annotations["io.kubernetes.cri.sandbox-name"]=="` +
		j.name + `" and .status!="stopped")][0].` + field
	out, err := j.w.node(j.t, node).Exec(ctx, "bash", "-c", "runc --root "+root+" list -f json | jq -r '"+query+"'")
	require.NoError(j.t, err)
	return strings.TrimSpace(string(out))
}

func (j *job) pid(ctx context.Context, node string) string { return j.container(ctx, node, "pid") }

func (w *world) node(t *testing.T, name string) *bed.Node {
	t.Helper()
	n, err := w.bed.Node(name)
	require.NoError(t, err)
	return n
}

// interrupt sends the notice that AWS sends and takes it back when the test ends.
func (w *world) interrupt(ctx context.Context, t *testing.T, node string, in time.Duration) {
	t.Helper()
	n := w.node(t, node)
	require.NoError(t, n.Notice(ctx, "terminate", time.Now().Add(in).UTC().Truncate(time.Second)))
	t.Cleanup(func() { w.calm(context.WithoutCancel(ctx), t, node) })
}

// calm takes the notice back and waits until the node takes pods again.
func (w *world) calm(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	require.NoError(t, w.node(t, node).ClearNotice(ctx))
	require.NoError(t, deploy.Until(ctx, "node "+node+" without taint", func(ctx context.Context) (bool, string, error) {
		n, err := w.kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		for _, taint := range n.Spec.Taints {
			if taint.Key == v1alpha1.TaintEvacuating {
				return false, "tainted", nil
			}
		}
		return true, "", nil
	}))
}

// restart kills a node as a power cut does and brings it back without a notice.
func (w *world) restart(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	n := w.node(t, node)
	require.NoError(t, n.Kill(ctx))
	require.NoError(t, n.Start(ctx))
	require.NoError(t, w.kube.WaitRuntime(ctx, node))
	w.calm(ctx, t, node)
}

// waitEvent waits for an Event of that reason on the pod and returns its message.
func (j *job) waitEvent(ctx context.Context, reason string) string {
	j.t.Helper()
	var message string
	err := deploy.Until(ctx, "event "+reason, func(ctx context.Context) (bool, string, error) {
		selector := "involvedObject.kind=Pod,involvedObject.name=" + j.name
		list, err := j.w.kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			return false, "", err
		}
		var seen []string
		for _, e := range list.Items {
			if e.Reason == reason {
				message = e.Message
			}
			seen = append(seen, e.Reason)
		}
		return message != "", strings.Join(seen, ", "), nil
	})
	require.NoError(j.t, err)
	return message
}

// agentPod is the agent of a node.
func (w *world) agentPod(ctx context.Context, node string) (*corev1.Pod, error) {
	list, err := w.kube.CoreV1().Pods(deploy.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if strings.HasPrefix(list.Items[i].Name, "lifeboat-agent") {
			return &list.Items[i], nil
		}
	}
	return nil, errors.New("no agent on node " + node)
}

// killAgent ends the agent's process on a node with SIGKILL.
func (w *world) killAgent(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	_, err := w.node(t, node).Exec(ctx, "pkill", "-KILL", "-f", "^lifeboat-agent run")
	require.NoError(t, err)
}
