package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// follow keeps status.pod on the pod that bears the identity: the first one, its node once it is bound, and after a
// claim the pod that claimed, as soon as the source is gone: until then somebody has to remove that. From then on the
// claiming pod can itself be interrupted.
func (r *Reconciler) follow(ctx context.Context, o *observation) (verdict, error) {
	if o.checkpoint == nil {
		return goOn, nil
	}
	s := &o.checkpoint.Status
	bearer := o.pod
	if o.claimer != nil && s.Released() {
		bearer = o.claimer
	}
	if bearer == nil {
		return goOn, nil
	}
	if s.Pod == nil && o.bare() {
		if err := r.renewTemplate(ctx, o); err != nil {
			return goOn, err
		}
	}
	err := r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		now := referenceTo(bearer)
		if s.Pod != nil && *s.Pod == *now {
			return false
		}
		if s.Pod != nil && s.Pod.UID != now.UID {
			meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionDumpable) // it is of the pod before
		}
		s.Pod = now
		return true
	})
	if err == nil && bearer == o.claimer {
		o.pod, o.claimer = o.claimer, nil
	}
	return goOn, err
}
