package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// follow keeps status.pod on the pod that bears the identity: the first one, its node once it is bound, and after a
// claim the pod that claimed. From then on the claiming pod can itself be interrupted.
func (r *Reconciler) follow(ctx context.Context, o *observation) (verdict, error) {
	if o.checkpoint == nil || o.pod == nil {
		return goOn, nil
	}
	s := &o.checkpoint.Status
	first := s.Pod == nil
	claimed := s.Claim != nil && s.Claim.PodUID == o.pod.UID
	if !first && !claimed && !bears(s, o.pod.UID) {
		return goOn, nil
	}
	if first {
		if err := r.renewTemplate(ctx, o); err != nil {
			return goOn, err
		}
	}
	return goOn, r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		now := referenceTo(o.pod)
		if s.Pod != nil && *s.Pod == *now {
			return false
		}
		if s.Pod != nil && s.Pod.UID != now.UID {
			meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionDumpable) // it is of the pod before
		}
		s.Pod = now
		return true
	})
}
