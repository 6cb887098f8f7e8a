package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// rejectedDelay spaces replacements that fail before their claim.
const rejectedDelay = 5 * time.Second

// replace creates the pod that restores a waiting generation of a bare pod, at most one: by the identity's name, and only
// while no claim for the generation exists. The replacement of any other pod is its owner's.
func (r *Reconciler) replace(ctx context.Context, o *observation) (verdict, error) {
	if beginsAnew(o) {
		return done, r.beginAnew(ctx, o)
	}
	if !o.bare() || StageOf(&o.checkpoint.Status) != StageWaiting {
		return goOn, nil
	}
	if err := r.refresh(ctx, o); err != nil {
		return done, err
	}
	if o.checkpoint == nil || StageOf(&o.checkpoint.Status) != StageWaiting {
		return done, nil // claimed or given up meanwhile: that change brings the next look
	}
	gen := o.checkpoint.Status.WaitingGeneration()
	switch {
	case o.other == nil:
		return r.createReplacement(ctx, o, gen)
	case !isReplacement(o.other, o.checkpoint, gen):
		return done, r.nameTaken(ctx, o)
	case rejected(o.other):
		if age := r.Now().Sub(o.other.CreationTimestamp.Time); age < rejectedDelay {
			return lookAgain(rejectedDelay - age), nil
		}
		o.tell(corev1.EventTypeWarning, EventReplacementRejected, "Replace", fmt.Sprintf(
			"the replacement failed on node %s before it claimed generation %d: %s; another one follows",
			o.other.Spec.NodeName, gen.Number, failure(o.other)))
		return lookAgain(conflictDelay), r.deletePod(ctx, o.other, 0)
	}
	return done, nil
}

// beginAnew creates a bare pod from its template where nothing is to go on from (beginsAnew). That pod is another job:
// as soon as it is there, this Checkpoint makes way for its own.
func (r *Reconciler) beginAnew(ctx context.Context, o *observation) error {
	if err := r.refresh(ctx, o); err != nil {
		return err
	}
	if o.checkpoint == nil || !beginsAnew(o) || o.pod != nil || o.other != nil {
		return nil
	}
	pod, err := ReplacementOf(o.checkpoint, nil)
	if err != nil {
		return err
	}
	if err := r.Client.Create(ctx, pod); err != nil {
		return r.refused(o, "to begin anew", err)
	}
	o.other = pod
	why := fmt.Sprintf("node %s is gone", o.checkpoint.Status.Pod.NodeName)
	if gaveUp(&o.checkpoint.Status) {
		why = fmt.Sprintf("generation %d could not be restored", o.checkpoint.Status.Claim.Generation)
	}
	o.tell(corev1.EventTypeNormal, EventReplaced, "Replace", "created anew, for "+why)
	return nil
}

// refused tells of a replacement that the API server does not take.
func (r *Reconciler) refused(o *observation, what string, err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		o.tell(corev1.EventTypeWarning, EventReplaceFailed, "Replace", fmt.Sprintf(
			"the API server refuses the replacement %s, trying again: %s", what, err))
	}
	return fmt.Errorf("create replacement: %w", err)
}

func (r *Reconciler) createReplacement(ctx context.Context, o *observation, gen *v1alpha1.GenerationReference) (verdict, error) {
	pod, err := ReplacementOf(o.checkpoint, gen)
	if err != nil {
		return done, err
	}
	if err := r.require(ctx, pod, gen); err != nil {
		return done, err
	}
	if err := r.Client.Create(ctx, pod); err != nil {
		return done, r.refused(o, fmt.Sprintf("for generation %d", gen.Number), err)
	}
	o.other = pod
	log.FromContext(ctx).Info("replaced", "generation", gen.Number, "pod_uid", pod.UID)
	o.tell(corev1.EventTypeNormal, EventReplaced, "Replace", fmt.Sprintf(
		"created the replacement that restores generation %d, taken on node %s", gen.Number, gen.NodeName))
	return done, nil
}

// rejected tells whether the replacement failed. While nobody has claimed its generation it never ran: a kubelet refused
// it at admission, or its container could not be created, which is final where restartPolicy is Never.
func rejected(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil
}

// failure is what the kubelet says of a failed pod: of its container, where it came so far.
func failure(pod *corev1.Pod) string {
	for i := range pod.Status.ContainerStatuses {
		if t := pod.Status.ContainerStatuses[i].State.Terminated; t != nil {
			return fmt.Sprintf("%s (exit code %d): %s", t.Reason, t.ExitCode, t.Message)
		}
	}
	return pod.Status.Reason + ": " + pod.Status.Message
}
