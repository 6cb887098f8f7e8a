package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// protectable is what ConditionProtectable is to say.
type protectable struct {
	status          metav1.ConditionStatus
	reason, message string
}

// eventType is Warning where the user has something to mend.
func (p protectable) eventType() string {
	if p.status == metav1.ConditionFalse && p.reason != v1alpha1.ReasonPodEnded {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}

// silences tells whether the agent has no say any more: its verdict would stand beside the refusal for ever.
func (p protectable) silences() bool {
	return p.status != metav1.ConditionTrue && !v1alpha1.FoundOnNode(p.reason)
}

// forgetVerdict removes what the agent said of the pod, and tells whether there was anything.
func forgetVerdict(s *v1alpha1.CheckpointStatus) bool {
	had := s.Protection != nil
	s.Protection = nil
	return meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionCurrent) || had
}

// podEnded is for a pod that has ended.
func podEnded(pod *corev1.Pod) protectable {
	return protectable{metav1.ConditionFalse, v1alpha1.ReasonPodEnded, "the pod has ended: " + string(pod.Status.Phase)}
}

// judge decides ConditionProtectable for a pod with no interruption under way. node is nil where the pod is not bound
// or its node is gone, dumpable what the node's agent has seen of the pod, nil where it has not looked yet.
func judge(pod *corev1.Pod, node *corev1.Node, dumpable *metav1.Condition) protectable {
	switch {
	case ended(pod):
		return podEnded(pod)
	case leaving(pod):
		return protectable{metav1.ConditionFalse, v1alpha1.ReasonPodEnded,
			"the pod was deleted with no interruption under way: it will not be replaced"}
	}
	if obstacles := obstacle.OfPod(pod); len(obstacles) > 0 {
		return protectable{metav1.ConditionFalse, obstacles[0].Reason, obstacle.Text(obstacles)}
	}
	if pod.Spec.NodeName == "" {
		return protectable{metav1.ConditionUnknown, v1alpha1.ReasonNotScheduled, "the pod is not bound to a node yet"}
	}
	if node == nil || node.Labels[v1alpha1.LabelRuntimeReady] != "true" {
		return protectable{metav1.ConditionFalse, v1alpha1.ReasonNodeNotReady, fmt.Sprintf(
			"node %s has no ready lifeboat-agent (label %s=true is missing): look at the agent's log on that node, "+
				"or set runtimeClassName: %s so that the pod goes to a node that has one",
			pod.Spec.NodeName, v1alpha1.LabelRuntimeReady, v1alpha1.RuntimeClassName)}
	}
	if dumpable != nil && dumpable.Status == metav1.ConditionFalse {
		return protectable{metav1.ConditionFalse, dumpable.Reason, dumpable.Message}
	}
	return protectable{metav1.ConditionTrue, v1alpha1.ReasonProtected, "protected on node " + pod.Spec.NodeName}
}

// protect keeps ConditionProtectable true to the bearer. During an interruption the condition stands as it was: the node is
// losing its agent, and that is no reason to give up.
func (r *Reconciler) protect(ctx context.Context, o *observation) (verdict, error) {
	if o.pod == nil || !bears(&o.checkpoint.Status, o.pod.UID) {
		return goOn, nil
	}
	s := &o.checkpoint.Status
	if StageOf(s) != StageNone || outgoing(s) {
		return goOn, nil
	}
	if s.Ended() {
		return done, nil // what ended stays ended: a notice that comes later finds nobody to save
	}
	node, err := r.nodeOf(ctx, o.pod.Spec.NodeName)
	if err != nil {
		return done, err
	}
	if err := errors.Join(r.setSettings(ctx, o), r.forbidSafety(ctx, o)); err != nil {
		return done, err
	}
	return goOn, r.setProtectable(ctx, o, judge(o.pod, node, s.Condition(v1alpha1.ConditionDumpable)))
}

// forbidSafety forgets the bearer's safety generation once its owner has forbidden to go back to one.
func (r *Reconciler) forbidSafety(ctx context.Context, o *observation) error {
	return r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		if s.Safety == nil || s.Safety.PodUID != o.pod.UID || !settings.FinalOnly(o.pod.Annotations) {
			return false
		}
		s.Safety = nil
		return true
	})
}

// renewTemplate takes the template from this pod where another one gave it: the first pod was gone before its
// Checkpoint had a status.
func (r *Reconciler) renewTemplate(ctx context.Context, o *observation) error {
	template, err := TemplateOf(o.pod)
	if err != nil {
		return err
	}
	var have, want corev1.PodTemplateSpec
	if err := json.Unmarshal(template.Raw, &want); err != nil {
		return fmt.Errorf("decode template of pod %s: %w", o.NamespacedName, err)
	}
	if t := o.checkpoint.Spec.Template; t != nil && json.Unmarshal(t.Raw, &have) == nil && equality.Semantic.DeepEqual(have, want) {
		return nil
	}
	after := o.checkpoint.DeepCopy()
	after.Spec.Template = template
	patch := client.MergeFromWithOptions(o.checkpoint, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, after, patch); err != nil {
		return fmt.Errorf("patch template of checkpoint %s: %w", o.NamespacedName, err)
	}
	o.checkpoint = after
	return nil
}

// nodeOf reads the node; nil where name is empty or the node is gone.
func (r *Reconciler) nodeOf(ctx context.Context, name string) (*corev1.Node, error) {
	if name == "" {
		return nil, nil
	}
	return get(ctx, r.Client, types.NamespacedName{Name: name}, &corev1.Node{})
}
