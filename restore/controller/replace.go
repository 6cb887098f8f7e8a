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

// rejectedDelay spaces replacements that kubelets refuse.
const rejectedDelay = 5 * time.Second

// replace creates the pod that restores a waiting generation, at most one: by the identity's name, and only while no
// claim for the generation exists.
func (r *Reconciler) replace(ctx context.Context, o *observation) (verdict, error) {
	if o.checkpoint == nil || StageOf(&o.checkpoint.Status) != StageWaiting {
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
	case o.pod == nil:
		return r.createReplacement(ctx, o, gen)
	case !isReplacement(o.pod, o.checkpoint, gen):
		return done, r.nameTaken(ctx, o)
	case rejected(o.pod):
		if age := r.Now().Sub(o.pod.CreationTimestamp.Time); age < rejectedDelay {
			return lookAgain(rejectedDelay - age), nil
		}
		r.tell(ctx, o, corev1.EventTypeWarning, EventReplacementRejected, "Replace", fmt.Sprintf(
			"node %s refused the replacement: %s: %s; another one follows", o.pod.Spec.NodeName, o.pod.Status.Reason, o.pod.Status.Message))
		return lookAgain(conflictDelay), r.deletePod(ctx, o.pod, 0)
	}
	return done, nil
}

func (r *Reconciler) createReplacement(ctx context.Context, o *observation, gen *v1alpha1.GenerationReference) (verdict, error) {
	pod, err := ReplacementOf(o.checkpoint, gen)
	if err != nil {
		return done, err
	}
	err = r.Client.Create(ctx, pod)
	switch {
	case apierrors.IsForbidden(err) || apierrors.IsInvalid(err):
		r.tell(ctx, o, corev1.EventTypeWarning, EventReplaceFailed, "Replace", fmt.Sprintf(
			"the API server refuses the replacement for generation %d, trying again: %s", gen.Number, err))
		return done, fmt.Errorf("create replacement: %w", err)
	case err != nil:
		return done, fmt.Errorf("create replacement: %w", err)
	}
	o.pod = pod
	log.FromContext(ctx).Info("replaced", "generation", gen.Number, "pod_uid", pod.UID)
	r.tell(ctx, o, corev1.EventTypeNormal, EventReplaced, "Replace", fmt.Sprintf(
		"created the replacement that restores generation %d, taken on node %s", gen.Number, gen.NodeName))
	return done, nil
}

// rejected tells whether a kubelet refused the pod at admission: Failed, and no container ever came to be.
func rejected(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil && len(pod.Status.ContainerStatuses) == 0
}
