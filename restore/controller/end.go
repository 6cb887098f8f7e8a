package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// lostKept is how long the Checkpoint of an owned pod that was lost stays to be looked at. The owner has made another pod,
// and nobody else tidies up.
const lostKept = 10 * time.Minute

// recordWithin is how long after the deadline a final generation is still waited for where another pod bears the name already.
const recordWithin = time.Minute

// end takes the Checkpoint away when its job is over, and says so when a pod is lost instead. A Checkpoint lives as
// long as one job: another pod under the same name that does not continue it is another job and gets one of its own.
func (r *Reconciler) end(ctx context.Context, o *observation) (verdict, error) {
	s := &o.checkpoint.Status
	stage := StageOf(s)
	switch {
	case o.claimer != nil:
		return goOn, nil // follow makes it the bearer
	case o.pod != nil:
		return r.endWithPod(ctx, o, stage)
	case o.other == nil:
		return r.endWithoutPod(ctx, o, stage)
	case stage == StageNone || stage == StageFailed || stage == StageLost || stage == StageClaimed:
		return lookAgain(conflictDelay), r.makeWay(ctx, o)
	case stage == StageEvacuating && o.bare():
		return done, r.nameTaken(ctx, o)
	case stage == StageEvacuating && s.Timeline.Deadline != nil:
		// Removed by force, and its owner has made another one. Its agent may yet record what it has.
		if left := s.Timeline.Deadline.Add(recordWithin).Sub(r.Now()); left > 0 {
			return lookAgain(left), nil
		}
		return lookAgain(conflictDelay), r.makeWay(ctx, o)
	}
	return goOn, nil
}

func (r *Reconciler) endWithPod(ctx context.Context, o *observation, stage Stage) (verdict, error) {
	s := &o.checkpoint.Status
	switch {
	case stage == StageNone && !outgoing(s) && (o.pod.Labels[v1alpha1.LabelProtect] != "true" || !ownedAsBefore(o)):
		return done, r.deleteCheckpoint(ctx, o)
	case stage == StageNone && !outgoing(s) && s.Generation == nil:
		// A pod that continues another's generation needs no Checkpoint of its own beside that one.
		continuing, err := r.claims(ctx, o.pod)
		if err != nil || !continuing {
			return goOn, err
		}
		return done, r.deleteCheckpoint(ctx, o)
	case stage == StageEvacuating && ended(o.pod) && r.untilDeadline(s) > 0:
		return lookAgain(r.untilDeadline(s)), nil // the agent may have the dump and be uploading it
	case (stage == StageFailed || stage == StageEvacuating) && ended(o.pod):
		return done, r.setProtectable(ctx, o, podEnded(o.pod))
	case stage == StageClaimed && s.Claim.PodUID == o.pod.UID && o.pod.Status.Phase == corev1.PodFailed:
		return done, r.claimLost(ctx, o, "ended")
	}
	return goOn, nil
}

// ownedAsBefore tells whether the bearer still has the owner that it had: one that was orphaned or adopted is continued by
// other pods than before, and gets a Checkpoint that says so.
func ownedAsBefore(o *observation) bool {
	was, is := o.checkpoint.Spec.Identity.Owner, metav1.GetControllerOf(o.pod)
	if was == nil || is == nil {
		return (was == nil) == (is == nil)
	}
	return was.UID == is.UID
}

// claims tells whether the pod holds a claim on any Checkpoint.
func (r *Reconciler) claims(ctx context.Context, pod *corev1.Pod) (bool, error) {
	points, err := r.naming(ctx, pod)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(points, func(c v1alpha1.Checkpoint) bool {
		return c.Status.Claim != nil && c.Status.Claim.PodUID == pod.UID
	}), nil
}

// makeWay deletes the Checkpoint of a job that is over where another pod bears its name now. Past the cache, for a cache
// may show a pod of before the one that the Checkpoint speaks of.
func (r *Reconciler) makeWay(ctx context.Context, o *observation) error {
	live, err := get(ctx, r.Live, client.ObjectKeyFromObject(o.other), &corev1.Pod{})
	if err != nil || live == nil || live.UID != o.other.UID {
		return err
	}
	return r.deleteCheckpoint(ctx, o)
}

// claimLost says that the pod with the claim is out of the running, and with it the generation: it is claimed once.
func (r *Reconciler) claimLost(ctx context.Context, o *observation, how string) error {
	claim := o.checkpoint.Status.Claim
	return r.setProtectable(ctx, o, protectable{metav1.ConditionFalse, v1alpha1.ReasonPodLost, fmt.Sprintf(
		"the pod that claimed generation %d on node %s %s before it ran again, and a generation is claimed once: "+
			"see condition Restored; to begin the job anew, delete the pod if it is still there and start it again",
		claim.Generation, claim.NodeName, how)})
}

func (r *Reconciler) endWithoutPod(ctx context.Context, o *observation, stage Stage) (verdict, error) {
	switch stage {
	case StageNone:
		return done, r.deleteCheckpoint(ctx, o)
	case StageEvacuating, StageFailed:
		if left := r.untilDeadline(&o.checkpoint.Status); stage == StageEvacuating && left > 0 {
			return lookAgain(left), nil // the agent may have the dump and be uploading it
		}
		return r.lost(ctx, o, r.setProtectable(ctx, o, protectable{metav1.ConditionFalse, v1alpha1.ReasonPodLost,
			"the pod left during an interruption without a durable final generation: see condition Evacuated; " +
				"start it again, or delete the Checkpoint"}))
	case StageLost:
		if o.checkpoint.Status.Released() && !o.bare() {
			return done, r.deleteCheckpoint(ctx, o) // its owner makes another pod, which begins anew
		}
	case StageClaimed:
		if beginsAnew(o) {
			return goOn, nil
		}
		return r.lost(ctx, o, r.claimLost(ctx, o, "left"))
	}
	return goOn, nil
}

// lost takes the Checkpoint of a lost pod away after a while where an owner has made another pod by then.
func (r *Reconciler) lost(ctx context.Context, o *observation, told error) (verdict, error) {
	if told != nil || o.bare() {
		return done, told
	}
	s := &o.checkpoint.Status
	var last time.Time
	for _, at := range []*metav1.MicroTime{s.Timeline.Notice, s.Timeline.Deadline, s.Timeline.Released, s.Timeline.Claimed} {
		if at != nil && at.After(last) {
			last = at.Time
		}
	}
	if left := last.Add(lostKept).Sub(r.Now()); left > 0 {
		return lookAgain(left), nil
	}
	return done, r.deleteCheckpoint(ctx, o)
}

// untilDeadline is the time left to the agent, zero where the deadline is past or unknown. It only decides when a lost pod
// is called lost: a generation that becomes durable later is restored all the same.
func (r *Reconciler) untilDeadline(s *v1alpha1.CheckpointStatus) time.Duration {
	if s.Timeline == nil || s.Timeline.Deadline == nil {
		return 0
	}
	return max(0, s.Timeline.Deadline.Sub(r.Now()))
}

// deleteCheckpoint deletes exactly the version that the decision was made on: a notice that comes in between wins.
func (r *Reconciler) deleteCheckpoint(ctx context.Context, o *observation) error {
	uid, version := o.checkpoint.UID, o.checkpoint.ResourceVersion
	err := r.Client.Delete(ctx, o.checkpoint, client.Preconditions{UID: &uid, ResourceVersion: &version})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete checkpoint %s: %w", o.NamespacedName, err)
	}
	return nil
}

// nameTaken says that another pod stands where the replacement should. It is somebody else's: it stays.
func (r *Reconciler) nameTaken(ctx context.Context, o *observation) error {
	return r.setProtectable(ctx, o, protectable{metav1.ConditionFalse, v1alpha1.ReasonNameTaken, fmt.Sprintf(
		"pod %s (uid %s) bears the name, but Lifeboat did not create it: delete it to have the interrupted job go on, "+
			"or delete Checkpoint %s to give the job up", o.other.Name, o.other.UID, o.Name)})
}

// leaving tells whether somebody wants the pod gone who does not act for the cluster. Eviction (kubectl drain, spot
// handlers, autoscalers), preemption and taints mark what they remove with the condition DisruptionTarget.
func leaving(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return true
}

// over tells whether the pod's containers have ended for good.
func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// collectorReason is that of DisruptionTarget where pod garbage collection takes a pod away whose node is gone, or out of service.
// Of one that had not ended it says then that it has failed.
const collectorReason = "DeletionByPodGC"

// ended tells whether the pod's containers have ended, as their kubelet has said.
func ended(pod *corev1.Pod) bool {
	return over(pod) && !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == collectorReason
	})
}
