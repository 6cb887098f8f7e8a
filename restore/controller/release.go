package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const (
	// releaseGraceSeconds is the grace of the eviction: the source is frozen and cannot use any.
	releaseGraceSeconds = 1
	// forceAfter is how long the source's kubelet has to confirm the eviction. Conditions count whole seconds, so it
	// may be up to one less.
	forceAfter = 5 * time.Second
	// disruptionReason stands on the pod condition DisruptionTarget that we set ourselves.
	disruptionReason = "EvacuatedByLifeboat"
)

// release removes the source pod of a durable final generation and records when it is gone, also where the generation has
// been claimed by then. Its commit is the fence: the source is frozen and is never thawed, so even a forced removal cannot
// make the job run twice. It also removes a pod that was lost with its node, by force, for nobody confirms its end.
func (r *Reconciler) release(ctx context.Context, o *observation) (verdict, error) {
	if !outgoing(&o.checkpoint.Status) {
		if StageOf(&o.checkpoint.Status) == StageFinal {
			return done, nil // not the bearer's state: nothing to remove, nothing to replace
		}
		return goOn, nil
	}
	if o.checkpoint.Status.Released() {
		return goOn, nil
	}
	s := &o.checkpoint.Status
	gone := s.Lost(s.Pod.UID)
	if gone {
		if left := s.Timeline.Lost.Add(stopWithin).Sub(r.Now()); left > 0 {
			return lookAgain(left), nil
		}
	}
	if o.pod == nil {
		return r.released(ctx, o)
	}
	_, fate, err := r.fateOf(ctx, s.Pod.NodeName)
	if err != nil {
		return done, err
	}
	begun, forced := removal(s)
	switch {
	case mounts(o.pod) && fate != fateGone && !gone:
		return r.awaitVolumes(ctx, o, begun)
	case fate != fateAlive || gone:
		return r.remove(ctx, o, fmt.Sprintf("node %s is unreachable or gone", s.Pod.NodeName))
	case begun.IsZero():
		return r.beginEviction(ctx, o)
	case forced || r.Now().Sub(begun) >= forceAfter:
		return r.remove(ctx, o, fmt.Sprintf("node %s did not confirm the eviction within %s", s.Pod.NodeName, forceAfter))
	}
	if err := r.evict(ctx, o.pod); err != nil {
		return done, err
	}
	return lookAgain(forceAfter - r.Now().Sub(begun)), nil
}

// removal reads when the removal of the source began (zero: not yet) and whether it is being forced.
func removal(s *v1alpha1.CheckpointStatus) (begun time.Time, forced bool) {
	c := s.Condition(v1alpha1.ConditionReleased)
	if c == nil || c.Status != metav1.ConditionFalse {
		return time.Time{}, false // True here speaks of the interruption before
	}
	return c.LastTransitionTime.Time, c.Reason == v1alpha1.ReasonForcedRemoval
}

// setReleased writes the condition with the Reconciler's own clock, by which removal's beginning is judged.
func (r *Reconciler) setReleased(s *v1alpha1.CheckpointStatus, status metav1.ConditionStatus, reason, message string) bool {
	return meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReleased, Status: status, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(r.Now()),
	})
}

// beginEviction records the beginning, so that the time to force survives a crash, then evicts.
func (r *Reconciler) beginEviction(ctx context.Context, o *observation) (verdict, error) {
	err := r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		return r.setReleased(s, metav1.ConditionFalse, v1alpha1.ReasonEvicting,
			fmt.Sprintf("removing source pod %s from node %s", s.Generation.PodUID, s.Generation.NodeName))
	})
	if err != nil {
		return done, err
	}
	return lookAgain(forceAfter), r.evict(ctx, o.pod)
}

// evict asks for the removal of this very pod through the Eviction API, which marks it as disrupted. A disruption
// budget that says no is overruled: the node is going, and the frozen pod serves nobody.
func (r *Reconciler) evict(ctx context.Context, pod *corev1.Pod) error {
	if g := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp != nil && g != nil && *g <= releaseGraceSeconds {
		return nil
	}
	grace := int64(releaseGraceSeconds)
	eviction := &policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{
		GracePeriodSeconds: &grace,
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	}}
	err := r.Client.SubResource("eviction").Create(ctx, pod.DeepCopy(), eviction)
	if apierrors.IsTooManyRequests(err) {
		if err := r.disrupt(ctx, pod, pod.Status.Phase); err != nil {
			return err
		}
		return r.deletePod(ctx, pod, releaseGraceSeconds)
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// disrupt marks the pod as the Eviction API does, for its owner must not hold the deletion against it, and sets its phase.
func (r *Reconciler) disrupt(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase) error {
	after := pod.DeepCopy()
	marked := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	})
	if !marked {
		after.Status.Conditions = append(after.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: disruptionReason,
			Message: "Lifeboat: its node is going, and another pod continues it", LastTransitionTime: metav1.NewTime(r.Now()),
		})
	}
	after.Status.Phase = phase
	// Of this very pod: another one may bear its name by now.
	patch := client.StrategicMergeFrom(pod, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, after, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("mark pod %s/%s as disrupted: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// remove takes the pod object away without its kubelet's word. A Job counts on the phase to be final before it makes another
// pod, as Kubernetes' own garbage collector of pods knows, too.
func (r *Reconciler) remove(ctx context.Context, o *observation, why string) (verdict, error) {
	err := r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		return r.setReleased(s, metav1.ConditionFalse, v1alpha1.ReasonForcedRemoval,
			why+": removing the pod object, whose process never runs again")
	})
	if err != nil {
		return done, err
	}
	if err := r.disrupt(ctx, o.pod, corev1.PodFailed); err != nil {
		return done, err
	}
	return lookAgain(time.Second), r.deletePod(ctx, o.pod, 0)
}

// deletePod deletes this very pod object.
func (r *Reconciler) deletePod(ctx context.Context, pod *corev1.Pod, graceSeconds int64) error {
	err := r.Client.Delete(ctx, pod.DeepCopy(), client.GracePeriodSeconds(graceSeconds), client.Preconditions{UID: &pod.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// released records that the source is gone, after asking past the cache.
func (r *Reconciler) released(ctx context.Context, o *observation) (verdict, error) {
	uid := o.checkpoint.Status.Timeline.PodUID
	source := types.NamespacedName{Namespace: o.Namespace, Name: o.checkpoint.Status.Pod.Name}
	live, err := get(ctx, r.Live, source, &corev1.Pod{})
	if err != nil {
		return done, err
	}
	if live != nil && live.UID == uid {
		return lookAgain(conflictDelay), nil
	}
	err = r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		reason, message := v1alpha1.ReasonSourceGone, fmt.Sprintf("source pod %s is gone", uid)
		if _, forced := removal(s); forced {
			reason, message = v1alpha1.ReasonForcedRemoval, fmt.Sprintf("source pod %s was removed without its node's word", uid)
		}
		now := metav1.NewMicroTime(r.Now())
		s.Timeline.Released = &now
		r.setReleased(s, metav1.ConditionTrue, reason, message)
		return true
	})
	if err == nil {
		next := "another one begins anew"
		if gen := o.checkpoint.Status.Generation; StageOf(&o.checkpoint.Status) != StageLost {
			next = fmt.Sprintf("generation %d goes on in another pod", gen.Number)
		}
		log.FromContext(ctx).Info("released", "pod_uid", uid, "next", next)
		o.tell(corev1.EventTypeNormal, EventReleased, "Release", fmt.Sprintf("source pod %s is gone; %s", uid, next))
	}
	return goOn, err
}
