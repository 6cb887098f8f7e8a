package controller

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// setSettings writes whether the pod's annotations are understood, and tells of those that are not. What is not understood
// keeps nobody from being protected: the agent takes the default.
func (r *Reconciler) setSettings(ctx context.Context, o *observation) error {
	_, faults := settings.Parse(o.pod.Annotations)
	changed := false
	err := r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		switch {
		case len(faults) > 0:
			changed = s.SetCondition(v1alpha1.ConditionSettingsValid, metav1.ConditionFalse, v1alpha1.ReasonSettingInvalid, settings.Text(faults))
		case settings.Any(o.pod.Annotations):
			changed = s.SetCondition(v1alpha1.ConditionSettingsValid, metav1.ConditionTrue, v1alpha1.ReasonSettingsTaken, "the pod's annotations hold")
		default:
			changed = meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionSettingsValid)
		}
		return changed
	})
	if err == nil && changed && len(faults) > 0 {
		o.tell(corev1.EventTypeWarning, v1alpha1.ReasonSettingInvalid, "Protect", settings.Text(faults))
	}
	return err
}
