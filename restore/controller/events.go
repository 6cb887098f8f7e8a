package controller

import (
	"context"
	"fmt"
	"hash/fnv"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Reasons of events that are no condition reason.
const (
	// EventInvalidLabel: the value of LabelProtect is neither "true" nor "false".
	EventInvalidLabel = "InvalidLabel"
	// EventReleased: the source pod is gone; its final generation may be claimed.
	EventReleased = "Released"
	// EventReplaced: the replacement pod has been created.
	EventReplaced = "Replaced"
	// EventReplaceFailed: the API server refused the replacement pod.
	EventReplaceFailed = "ReplaceFailed"
	// EventReplacementRejected: a kubelet refused the replacement before it started; another one follows.
	EventReplacementRejected = "ReplacementRejected"
)

// Lengths that the API server takes.
const (
	maxEventNote = 1024
	maxEventName = 253
)

// tell records one event on the pod and one on the Checkpoint, where they exist.
func (r *Reconciler) tell(ctx context.Context, o *observation, kind, reason, action, note string) {
	if o.pod != nil {
		ref := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod"}
		r.record(ctx, o.pod, ref, kind, reason, action, note)
	}
	if o.checkpoint != nil {
		ref := corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Checkpoint"}
		r.record(ctx, o.checkpoint, ref, kind, reason, action, note)
	}
}

// record creates the event under a name made of its content: the same fact told again, by this process or the one
// after a crash, is the same event. An event that cannot be written is logged and must not hold the path up.
func (r *Reconciler) record(ctx context.Context, about client.Object, ref corev1.ObjectReference, kind, reason, action, note string) {
	ref.Namespace, ref.Name, ref.UID = about.GetNamespace(), about.GetName(), about.GetUID()
	if len(note) > maxEventNote {
		note = note[:maxEventNote-3] + "..."
	}
	hash := fnv.New64a()
	fmt.Fprint(hash, ref.UID, reason, note)
	suffix := fmt.Sprintf(".%016x", hash.Sum64())
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ref.Namespace,
			Name:      ref.Name[:min(len(ref.Name), maxEventName-len(suffix))] + suffix,
		},
		EventTime:           metav1.NewMicroTime(r.Now()),
		ReportingController: v1alpha1.GroupName + "/controller",
		ReportingInstance:   r.Instance,
		Regarding:           ref,
		Type:                kind,
		Reason:              reason,
		Action:              action,
		Note:                note,
	}
	if err := r.Client.Create(ctx, event); err != nil && !apierrors.IsAlreadyExists(err) {
		log.FromContext(ctx).Error(err, "event not recorded", "reason", reason, "kind", ref.Kind)
	}
}
