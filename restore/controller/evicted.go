package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// noteEviction records that somebody else has the bearer evicted while no interruption is under way: a drain handler may have
// been quicker than the agent. Until its notice could be heard, new pods of its key wait (identity.Coming) instead of starting
// from the beginning. Nothing is removed or made for that.
func (r *Reconciler) noteEviction(ctx context.Context, o *observation) (verdict, error) {
	s := &o.checkpoint.Status
	if o.pod == nil || o.pod.DeletionTimestamp == nil || leaving(o.pod) || over(o.pod) || StageOf(s) != StageNone || outgoing(s) || !bears(s, o.pod.UID) {
		return goOn, nil
	}
	if s.Evicted != nil && s.Evicted.PodUID == o.pod.UID {
		return goOn, nil
	}
	return goOn, r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		s.Evicted = &v1alpha1.Evicted{PodUID: o.pod.UID, Time: metav1.NewMicroTime(r.Now())}
		return true
	})
}
