package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// stopWithin is how long the agent of a node that was found to be gone has, in case it lives, to stop what it has there: from
// the promotion until its pod is removed and the generation may be claimed. Agents look every two seconds.
const stopWithin = 5 * time.Second

// lose finds out whether the bearer's node is gone for certain while nothing final is stored of the pod, and if so promotes its
// safety generation, where its owner lets it go back to that, by one write. A pod that ended, or that its user deleted, is
// not brought back; nor is one of which nobody knows how it went: it must be there, or have been there when its node fell
// silent, which must not have answered since. Where it went with its node while no controller looked, its owner knows: it makes
// another pod, or does not, and then the generation is given up (giveUp).
func (r *Reconciler) lose(ctx context.Context, o *observation) (verdict, error) {
	if !mayBeLost(&o.checkpoint.Status) {
		return goOn, nil
	}
	bearer := *o.checkpoint.Status.Pod
	node, fate, err := r.fateOf(ctx, bearer.NodeName)
	if err != nil || fate == fateAlive {
		if err == nil && o.pod != nil {
			err = r.setSilence(ctx, o, nil)
		}
		return goOn, err
	}
	// After the node: who is there now has not been ended by a kubelet of a node that was gone before.
	live, err := get(ctx, r.Live, types.NamespacedName{Namespace: o.Namespace, Name: bearer.Name}, &corev1.Pod{})
	if err != nil {
		return done, err
	}
	there := live != nil && live.UID == bearer.UID
	switch silence := o.checkpoint.Status.Silence; {
	case there && !continuable(live, StageOf(&o.checkpoint.Status)):
		return goOn, nil
	case there && fate == fateSilent:
		return goOn, r.noteSilence(ctx, o, node, live)
	case there:
		alive, err := r.lastSign(ctx, bearer.NodeName, node, silence)
		if err != nil {
			return done, err
		}
		return goOn, r.promote(ctx, o, loss{gone(bearer.NodeName, node), alive, !settings.FinalOnly(live.Annotations)})
	case node != nil && silence != nil && silence.PodUID == bearer.UID && silence.Since.Time.Equal(unreachableSince(node)):
		why := fmt.Sprintf("the pod was removed by force while node %s did not answer", bearer.NodeName)
		return goOn, r.promote(ctx, o, loss{why, silence.Alive.Time, silence.Recoverable})
	case fate == fateGone && !o.bare() && o.checkpoint.Status.Unjudged():
		alive, err := r.lastSign(ctx, bearer.NodeName, node, silence)
		if err != nil {
			return done, err
		}
		return goOn, r.promote(ctx, o, loss{gone(bearer.NodeName, node) + ", and the pod with it", alive, true})
	}
	return goOn, nil
}

// mayBeLost tells whether the loss of the bearer's node is not yet judged, and would be one.
func mayBeLost(s *v1alpha1.CheckpointStatus) bool {
	return s.Pod != nil && s.Pod.NodeName != "" && s.Open()
}

// continuable tells whether the pod, which is there, may go on elsewhere once its node is gone. Under a notice it counts for
// nothing that the pod is being deleted: that is part of the drain.
func continuable(pod *corev1.Pod, stage Stage) bool {
	if ended(pod) || leaving(pod) && stage == StageNone {
		return false
	}
	return !slices.ContainsFunc(obstacle.OfPod(pod), func(o obstacle.Obstacle) bool { return o.Reason != v1alpha1.ReasonRecoverNever })
}

// fate is what is known of a node.
type fate int

const (
	// fateAlive: its kubelet answers, or has said itself that it is not ready.
	fateAlive fate = iota
	// fateSilent: the control plane calls it unreachable. It may run on.
	fateSilent
	// fateGone: its object was deleted, or it was declared to be out of service.
	fateGone
)

// fateOf reads the node, past the cache where that does not say that it is well.
func (r *Reconciler) fateOf(ctx context.Context, name string) (*corev1.Node, fate, error) {
	node, err := r.nodeOf(ctx, name)
	if err == nil && (node == nil || readiness(node) != corev1.ConditionTrue) {
		node, err = get(ctx, r.Live, types.NamespacedName{Name: name}, &corev1.Node{})
	}
	switch {
	case err != nil:
		return nil, fateAlive, err
	case node == nil || outOfService(node) && readiness(node) != corev1.ConditionTrue:
		return node, fateGone, nil
	case readiness(node) == corev1.ConditionUnknown:
		return node, fateSilent, nil
	}
	return node, fateAlive, nil
}

// outOfService tells whether somebody has declared that the machine is shut down. Kubernetes believes it of nodes that are not
// ready, as we do.
func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func gone(name string, node *corev1.Node) string {
	if node == nil {
		return fmt.Sprintf("node %s was deleted", name)
	}
	return fmt.Sprintf("node %s is out of service", name)
}

// unreachableSince is when the node's condition Ready became what it is.
func unreachableSince(node *corev1.Node) time.Time {
	if c := readyOf(node); c != nil {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// lastSign is the last moment at which the node is known to have been alive. Its lease bears one every ten seconds. Where nothing
// is known, it is now: the figure of lost work is then too large rather than too small.
func (r *Reconciler) lastSign(ctx context.Context, name string, node *corev1.Node, silence *v1alpha1.Silence) (time.Time, error) {
	lease, err := get(ctx, r.Live, types.NamespacedName{Namespace: corev1.NamespaceNodeLease, Name: name}, &coordinationv1.Lease{})
	switch {
	case err != nil:
		return time.Time{}, err
	case lease != nil && lease.Spec.RenewTime != nil:
		return lease.Spec.RenewTime.Time, nil
	case silence != nil && silence.NodeName == name:
		return silence.Alive.Time, nil
	case node != nil && readyOf(node) != nil:
		return readyOf(node).LastHeartbeatTime.Time, nil
	}
	return r.Now(), nil
}

// noteSilence writes that the pod was there when its node had fallen silent.
func (r *Reconciler) noteSilence(ctx context.Context, o *observation, node *corev1.Node, pod *corev1.Pod) error {
	s := &o.checkpoint.Status
	now := &v1alpha1.Silence{
		PodUID: pod.UID, NodeName: node.Name, Since: metav1.NewTime(unreachableSince(node)),
		Recoverable: s.Safety != nil && s.Safety.PodUID == pod.UID && !settings.FinalOnly(pod.Annotations),
	}
	if was := s.Silence; was != nil && was.PodUID == now.PodUID && was.Since.Time.Equal(now.Since.Time) {
		now.Alive = was.Alive
	} else {
		alive, err := r.lastSign(ctx, node.Name, node, nil)
		if err != nil {
			return err
		}
		now.Alive = metav1.NewMicroTime(alive)
	}
	return r.setSilence(ctx, o, now)
}

// setSilence writes status.silence unless it is as it should be.
func (r *Reconciler) setSilence(ctx context.Context, o *observation, now *v1alpha1.Silence) error {
	return r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		if s.Silence == nil && now == nil || s.Silence != nil && now != nil && sameSilence(s.Silence, now) {
			return false
		}
		s.Silence = now
		return true
	})
}

func sameSilence(a, b *v1alpha1.Silence) bool {
	return a.PodUID == b.PodUID && a.NodeName == b.NodeName && a.Recoverable == b.Recoverable && a.Since.Time.Equal(b.Since.Time) && a.Alive.Time.Equal(b.Alive.Time)
}

// loss is what the end of a node means to one of its pods.
type loss struct {
	// why the node is gone for certain, and when it was last alive.
	why   string
	alive time.Time
	// back says that the pod may go back to a safety generation.
	back bool
}

// promote is the step that lets the pod go on elsewhere: one write, which loses against a final generation that its agent
// records in the same moment, and after which the API server refuses such a one.
func (r *Reconciler) promote(ctx context.Context, o *observation, l loss) error {
	bearer := *o.checkpoint.Status.Pod
	var from *v1alpha1.GenerationReference
	if safety := o.checkpoint.Status.Safety; l.back && safety != nil && safety.PodUID == bearer.UID {
		from = safety.DeepCopy()
	}
	text, lost := l.tell(from)
	err := r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		if s.Timeline == nil || s.Timeline.PodUID != bearer.UID {
			s.Timeline = &v1alpha1.Timeline{PodUID: bearer.UID}
		}
		now, alive := metav1.NewMicroTime(r.Now()), metav1.NewMicroTime(l.alive)
		s.Timeline.Lost, s.Timeline.Alive, s.Silence = &now, &alive, nil
		if from != nil {
			from.Final = false
			s.Generation = from
			s.SetCondition(v1alpha1.ConditionDurable, metav1.ConditionTrue, v1alpha1.ReasonCommitted, fmt.Sprintf("safety generation %d", from.Number))
			s.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionUnknown, v1alpha1.ReasonWaiting,
				fmt.Sprintf("safety generation %d waits for the pod that continues the lost one", from.Number))
		}
		s.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionFalse, v1alpha1.ReasonNodeLost, text)
		return true
	})
	if err != nil {
		return err
	}
	if from != nil {
		r.Meter.resumed(lost)
	} else {
		r.Meter.beganAnew()
	}
	log.FromContext(ctx).Info("node lost", "node", bearer.NodeName, "pod_uid", bearer.UID, "why", l.why, "resumed", from != nil, "work_lost_seconds", lost.Seconds())
	o.tell(corev1.EventTypeWarning, v1alpha1.ReasonNodeLost, "Promote", text)
	return nil
}

// tell says what the loss means, and how much work it has cost: all that the pod did from its safety generation on.
func (l loss) tell(from *v1alpha1.GenerationReference) (text string, lost time.Duration) {
	switch {
	case from != nil:
		lost = max(0, l.alive.Sub(from.Time.Time))
		return fmt.Sprintf("%s without a final generation: the pod goes on from safety generation %d; the work of %s is lost and done again "+
			"(%s to %s, the node's last sign of life)", l.why, from.Number, lost.Round(100*time.Millisecond),
			from.Time.UTC().Format(time.RFC3339), l.alive.UTC().Format(time.RFC3339)), lost
	case !l.back:
		return fmt.Sprintf("%s without a final generation, and annotation %s forbids to go back to a safety generation: the pod begins anew",
			l.why, v1alpha1.AnnotationRecover), 0
	}
	return l.why + " without a final generation, and there is no safety generation: the pod begins anew", 0
}
