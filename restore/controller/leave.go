package controller

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// gaveUp tells whether the restore of the claiming pod was given up midway: none of its containers has run, and the pod cannot begin
// anew by itself.
func gaveUp(s *v1alpha1.CheckpointStatus) bool {
	c := s.Condition(v1alpha1.ConditionRestored)
	return c != nil && c.Reason == v1alpha1.ReasonNotRestartable && StageOf(s) == StageClaimed
}

// leave evicts such a pod, so that another is made in its place and its owner does not hold it against the first. Nobody
// restores the generation any more: a claim is spent once.
func (r *Reconciler) leave(ctx context.Context, o *observation) (verdict, error) {
	s := &o.checkpoint.Status
	if !gaveUp(s) {
		return goOn, nil
	}
	pod := o.claimer
	if o.pod != nil && o.pod.UID == s.Claim.PodUID {
		pod = o.pod
	}
	if pod == nil || pod.DeletionTimestamp != nil || over(pod) {
		return goOn, nil
	}
	o.notes = append(o.notes, note{corev1.EventTypeWarning, EventLeaves, "Evict",
		"evicted, for another pod to begin anew: " + s.Condition(v1alpha1.ConditionRestored).Message, pod, o.checkpoint})
	return goOn, r.evict(ctx, pod)
}

// beginsAnew tells whether a bare pod that is gone is to be created from its beginning: its node went with nothing to go on from, or
// its restore was given up midway and its owner does not forbid a clean start.
func beginsAnew(o *observation) bool {
	s := &o.checkpoint.Status
	if !o.bare() {
		return false
	}
	if gaveUp(s) {
		pod, err := ReplacementOf(o.checkpoint, nil)
		return o.claimer == nil && o.pod == nil && err == nil && pod.Annotations[v1alpha1.AnnotationOnRestoreFailure] != "fail"
	}
	return StageOf(s) == StageLost && s.Released()
}
