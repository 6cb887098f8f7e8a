// Package kube tells snapshot which pods of this node are targets, and writes what snapshot did on the pods'
// Checkpoints. All it writes is the status of Checkpoints whose pod runs on this node, this node's own taint and labels, and
// Events.
package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// Lister lists the containers that the OCI runtime of this node knows.
type Lister interface {
	Containers(ctx context.Context) ([]snapshot.Container, error)
}

// Journal implements snapshot.Journal and snapshot.Board on the API server.
type Journal struct {
	Node        Node
	Tainter     *Tainter
	Checkpoints *checkpoints.Client
	Runtime     Lister
	Events      record.EventRecorder
	// Requirements are what a generation taken on this node requires of another one.
	Requirements map[string]string

	own own
}

// Targets implements snapshot.Journal: the labelled pods of this node whose Checkpoint says Protectable.
func (j *Journal) Targets(ctx context.Context) ([]snapshot.Target, error) {
	pods, err := j.Node.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		LabelSelector: v1alpha1.LabelProtect + "=true",
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", j.Node.Name).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("list protected pods of node %s: %w", j.Node.Name, err)
	}
	containers, err := j.Runtime.Containers(ctx)
	if err != nil {
		return nil, err
	}
	j.own.keep(pods.Items)
	var targets []snapshot.Target
	for i := range pods.Items {
		t, err := j.ofPod(ctx, &pods.Items[i], containers)
		if err != nil {
			return nil, err
		}
		if len(t.Containers) > 0 {
			targets = append(targets, t)
		}
	}
	return targets, nil
}

// ofPod is the target that a pod is, without containers where it bears no Checkpoint, is not protectable, does not run, or is being
// restored: its containers may stand frozen for each other.
func (j *Journal) ofPod(ctx context.Context, pod *corev1.Pod, containers []snapshot.Container) (snapshot.Target, error) {
	checkpoint, err := j.own.of(ctx, j.Checkpoints, pod)
	if checkpoint == nil {
		return snapshot.Target{}, err
	}
	status := &checkpoint.Status
	superseded := status.Lost(pod.UID)
	if !superseded && (status.Pod == nil || status.Pod.UID != pod.UID || !protectable(status) || status.Restoring(pod.UID)) {
		return snapshot.Target{}, nil
	}
	t := snapshot.Target{
		Namespace: pod.Namespace, Pod: pod.Name, PodUID: string(pod.UID),
		Checkpoint: checkpoint.Name, CheckpointUID: string(checkpoint.UID), Epoch: status.Epoch, Damaged: damaged(status),
		Final: isFinal(status, pod.UID), Superseded: superseded, Settings: settingsOf(pod), Obstacles: obstaclesOf(status),
		Unjudged: status.Protection == nil || status.Protection.PodUID != pod.UID,
	}
	t.Containers, t.Missing = containersOf(pod, containers)
	t.PodIPs, t.KeepsIPs = addressesOf(pod, status)
	// Patterns that are none are an obstacle of their own, under which the pod is no target for long.
	t.LeaveOut, _ = exclude.Parse(pod.Annotations[v1alpha1.AnnotationExclude])
	if pod.Spec.Priority != nil {
		t.Priority = *pod.Spec.Priority
	}
	if l := status.Timeline; l != nil && l.PodUID == pod.UID && l.Deadline != nil {
		t.Deadline = l.Deadline.Time
		evacuated := status.Condition(v1alpha1.ConditionEvacuated)
		t.Failed = evacuated != nil && evacuated.Status == metav1.ConditionFalse
	}
	return t, nil
}

// damaged tells whether the claimed generation could not be restored: the pod goes on from an older one, or from its beginning.
func damaged(status *v1alpha1.CheckpointStatus) bool {
	restored := status.Condition(v1alpha1.ConditionRestored)
	return status.Claim != nil && (status.Claim.Fallback != nil || restored != nil && restored.Reason == v1alpha1.ReasonStartedClean)
}

// settingsOf is what the owner asks for, as far as it is understood; the controller tells of the rest.
func settingsOf(pod *corev1.Pod) snapshot.TargetSettings {
	asked, _ := settings.Parse(pod.Annotations)
	out := snapshot.TargetSettings{
		RecoveryPoint: asked.RecoveryPoint, Interval: asked.Interval, MaxFreeze: asked.MaxFreeze, MaxCPU: asked.MaxCPU, FinalOnly: asked.FinalOnly,
	}
	for _, c := range obstacle.Containers(&pod.Spec) {
		if bears := maxFreeze(c); bears > 0 && (out.MaxFreeze == 0 || bears < out.MaxFreeze) {
			out.MaxFreeze = bears
		}
	}
	return out
}

// maxFreeze is how long a container may stand still before its liveness probe has failed too often; 0 without one.
func maxFreeze(c *corev1.Container) time.Duration {
	p := c.LivenessProbe
	if p == nil {
		return 0
	}
	seconds := (max(p.FailureThreshold, 1)-1)*max(p.PeriodSeconds, 1) + max(p.TimeoutSeconds, 1)
	return time.Duration(seconds) * time.Second
}

// protectable also holds for a pod whose protection the controller has not judged anew since the node came under notice,
// and for one that nothing but what was found here stands in the way of: that is looked at again, and tried at a notice.
func protectable(status *v1alpha1.CheckpointStatus) bool {
	c := status.Condition(v1alpha1.ConditionProtectable)
	return c != nil && (c.Status == metav1.ConditionTrue || v1alpha1.FoundOnNode(c.Reason))
}

func isFinal(status *v1alpha1.CheckpointStatus, pod types.UID) bool {
	g := status.Generation
	return g != nil && g.Final && g.PodUID == pod
}

// Begun implements snapshot.Journal.
func (j *Journal) Begun(ctx context.Context, t snapshot.Target, m snapshot.Moments) error {
	return j.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		c.Status.Timeline = timeline(t, m)
		setEvacuated(c, metav1.ConditionUnknown, v1alpha1.ReasonEvacuating,
			fmt.Sprintf("node %s goes at %s", j.Node.Name, m.Deadline.UTC().Format(time.RFC3339)))
		return nil
	})
}

// Final implements snapshot.Journal. It may be called again for the same generation, also after others have gone on from
// what the first call wrote.
func (j *Journal) Final(ctx context.Context, t snapshot.Target, g snapshot.Committed, m snapshot.Moments) error {
	if m.Durable.IsZero() {
		m.Durable = time.Now()
	}
	// Who is created in the pod's place must not come back here.
	if err := j.Tainter.Ensure(ctx); err != nil {
		return err
	}
	message := fmt.Sprintf("generation %d, %d bytes; the source stays frozen", g.Number, g.StoredBytes)
	_, err := j.Checkpoints.UpdateStatus(ctx, t.Namespace, t.Checkpoint, func(c *v1alpha1.Checkpoint) error {
		old := c.Status.Generation
		if old != nil && old.Number == g.Number && old.Epoch == g.Epoch && string(old.PodUID) == t.PodUID {
			return nil
		}
		if err := mayWrite(c, t); err != nil {
			return err
		}
		if l := c.Status.Timeline; l != nil && string(l.PodUID) == t.PodUID && m.Frozen.IsZero() {
			// The commit is of an earlier life of the agent: what that recorded of its moments is better than nothing.
			l.Durable = micro(m.Durable)
		} else {
			c.Status.Timeline = timeline(t, m)
		}
		c.Status.Generation = &v1alpha1.GenerationReference{
			Number: g.Number, Epoch: g.Epoch, PodUID: types.UID(t.PodUID), NodeName: j.Node.Name, Final: true,
			StoredBytes: g.StoredBytes, RSSBytes: g.RSSBytes, WindowBytes: g.WindowBytes, Time: metav1.NewMicroTime(m.Durable),
			Requirements: j.requirements(t), Containers: t.Names(), PodIPs: t.PodIPs,
		}
		c.Status.SetCondition(v1alpha1.ConditionDurable, metav1.ConditionTrue, v1alpha1.ReasonCommitted, message)
		c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionTrue, v1alpha1.ReasonFinalGeneration, message)
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionUnknown, v1alpha1.ReasonWaiting,
			fmt.Sprintf("generation %d waits for the pod that continues this one", g.Number))
		return nil
	})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %w", snapshot.ErrUnprotected, err)
	}
	if err != nil {
		return err
	}
	j.event(t, corev1.EventTypeNormal, v1alpha1.ReasonFinalGeneration, "frozen and stored, to go on elsewhere: "+message)
	return nil
}

// Leaving implements snapshot.Journal.
func (j *Journal) Leaving(ctx context.Context, t snapshot.Target) (bool, error) {
	pod, err := j.Node.Client.CoreV1().Pods(t.Namespace).Get(ctx, t.Pod, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("get pod %s/%s: %w", t.Namespace, t.Pod, err)
	}
	return string(pod.UID) != t.PodUID || pod.DeletionTimestamp != nil, nil
}

// setEvacuated sets the condition to something else than it is, also where that says the same of an earlier evacuation: a write
// that fences must change the version of the object.
func setEvacuated(c *v1alpha1.Checkpoint, status metav1.ConditionStatus, reason, message string) {
	if !c.Status.SetCondition(v1alpha1.ConditionEvacuated, status, reason, message) {
		message += "; again at " + time.Now().UTC().Format(time.RFC3339Nano)
		c.Status.SetCondition(v1alpha1.ConditionEvacuated, status, reason, message)
	}
}

// Failed implements snapshot.Journal.
func (j *Journal) Failed(ctx context.Context, t snapshot.Target, reason, message string) error {
	err := j.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		if isFinal(&c.Status, types.UID(t.PodUID)) {
			return fmt.Errorf("checkpoint %s/%s names final generation %d of pod %s", t.Namespace, t.Checkpoint, c.Status.Generation.Number, t.Pod)
		}
		setEvacuated(c, metav1.ConditionFalse, reason, message)
		return nil
	})
	if err == nil {
		j.event(t, corev1.EventTypeWarning, reason, "not evacuated, the pod runs on: "+message)
	}
	if errors.Is(err, snapshot.ErrUnprotected) {
		return nil
	}
	return err
}

// Safety implements snapshot.Board. It leaves alone what says who may restore.
func (j *Journal) Safety(ctx context.Context, t snapshot.Target, g snapshot.Committed, frozen time.Time) error {
	return j.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		c.Status.Safety = &v1alpha1.GenerationReference{
			Number: g.Number, Epoch: g.Epoch, PodUID: types.UID(t.PodUID), NodeName: j.Node.Name,
			StoredBytes: g.StoredBytes, RSSBytes: g.RSSBytes, Time: metav1.NewMicroTime(frozen),
			Requirements: j.requirements(t), Containers: t.Names(), PodIPs: t.PodIPs,
		}
		return nil
	})
}

// requirements are what a generation of t requires: a node like this one, and the same images.
func (j *Journal) requirements(t snapshot.Target) map[string]string {
	out := maps.Clone(j.Requirements)
	for _, c := range t.Containers {
		if c.ImageDigest == "" {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[placement.Image+c.Name] = c.ImageDigest
	}
	return out
}

// Judged implements snapshot.Board.
func (j *Journal) Judged(ctx context.Context, t snapshot.Target, v snapshot.Verdict, p snapshot.Prediction) error {
	status := metav1.ConditionFalse
	if v.Level == snapshot.Safe {
		status = metav1.ConditionTrue
	}
	return j.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		c.Status.Protection = &v1alpha1.Protection{PodUID: types.UID(t.PodUID), Level: v.Level.String()}
		if p != (snapshot.Prediction{}) {
			c.Status.Protection.Dirty = resource.NewQuantity(readable(p.Uploaded), resource.BinarySI)
			c.Status.Protection.Window = &metav1.Duration{Duration: p.Durable.Round(100 * time.Millisecond)}
		}
		c.Status.SetCondition(v1alpha1.ConditionCurrent, status, v.Reason, v.Level.String()+": "+v.Message)
		return nil
	})
}

// readable rounds bytes up so that few digits are left.
func readable(bytes int64) int64 {
	unit := int64(1 << 10)
	if bytes > 10<<20 {
		unit = 1 << 20
	}
	return (bytes + unit - 1) / unit * unit
}

// Superseded implements snapshot.Succession.
func (j *Journal) Superseded(ctx context.Context, t snapshot.Target) (bool, error) {
	c, err := j.Checkpoints.Get(ctx, t.Namespace, t.Checkpoint)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && superseded(c, t), err
}

// superseded tells whether the pod of t was given up with its node. Another pod that bears t's Checkpoint, and whose claim this
// is, goes on in its place as well, whatever has become of it since.
func superseded(c *v1alpha1.Checkpoint, t snapshot.Target) bool {
	s := &c.Status
	return string(c.UID) == t.CheckpointUID && (s.Lost(types.UID(t.PodUID)) || s.Epoch > t.Epoch)
}

// mayWrite says whether the agent of t may write on the Checkpoint. ErrSuperseded, also where another pod bears it by now, and
// ErrUnprotected where it is of another pod for another reason.
func mayWrite(c *v1alpha1.Checkpoint, t snapshot.Target) error {
	if superseded(c, t) {
		return fmt.Errorf("%w: checkpoint %s/%s", snapshot.ErrSuperseded, t.Namespace, t.Checkpoint)
	}
	if string(c.UID) != t.CheckpointUID || c.Status.Pod == nil || string(c.Status.Pod.UID) != t.PodUID {
		return fmt.Errorf("%w: checkpoint %s/%s is of another pod", snapshot.ErrUnprotected, t.Namespace, t.Checkpoint)
	}
	return nil
}

// update changes the status of t's Checkpoint while that is of t's pod. ErrUnprotected: there is no such Checkpoint.
func (j *Journal) update(ctx context.Context, t snapshot.Target, change func(*v1alpha1.Checkpoint) error) error {
	_, err := j.Checkpoints.UpdateStatus(ctx, t.Namespace, t.Checkpoint, func(c *v1alpha1.Checkpoint) error {
		if err := mayWrite(c, t); err != nil {
			return err
		}
		return change(c)
	})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %w", snapshot.ErrUnprotected, err)
	}
	return err
}

func (j *Journal) event(t snapshot.Target, kind, reason, message string) {
	j.Events.Event(&corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: t.Namespace, Name: t.Pod, UID: types.UID(t.PodUID),
	}, kind, reason, message)
}

func timeline(t snapshot.Target, m snapshot.Moments) *v1alpha1.Timeline {
	return &v1alpha1.Timeline{
		PodUID: types.UID(t.PodUID), Notice: micro(m.Notice), Deadline: micro(m.Deadline),
		Frozen: micro(m.Frozen), Dumped: micro(m.Dumped), Durable: micro(m.Durable),
	}
}

func micro(t time.Time) *metav1.MicroTime {
	if t.IsZero() {
		return nil
	}
	out := metav1.NewMicroTime(t)
	return &out
}
