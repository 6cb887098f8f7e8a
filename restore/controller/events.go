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
	// EventGivenUp: nobody needs the waiting generation any more.
	EventGivenUp = "GivenUp"
	// EventNoNodeFits: no node can restore the generation that a new pod is to go on from; the message says of each why.
	EventNoNodeFits = "NoNodeFits"
	// EventNotAdmitted: a new pod was created while the webhook was down, and is evicted before it starts from the beginning.
	EventNotAdmitted = "NotAdmitted"
	// EventMisplaced: a new pod has come to a node that cannot restore its generation, and is evicted.
	EventMisplaced = "Misplaced"
	// EventLeaves: the restore of a pod with several containers was given up midway, and the pod cannot begin anew: it is
	// evicted for another one.
	EventLeaves = "Leaves"
	// EventReplacementRejected: the replacement failed before it claimed its generation; another one follows.
	EventReplacementRejected = "ReplacementRejected"
)

// Lengths that the API server takes.
const (
	maxEventNote = 1024
	maxEventName = 253
)

// note is an event not yet written: what happened, and to whom.
type note struct {
	kind, reason, action, text string
	pod                        *corev1.Pod
	checkpoint                 *v1alpha1.Checkpoint
}

// tell notes one event on the pod that is spoken of and one on the Checkpoint, where they exist. They are written when the reconciliation
// ends: no step of the path waits for them.
func (o *observation) tell(kind, reason, action, text string) {
	pod := o.pod
	if pod == nil {
		pod = o.other
	}
	o.notes = append(o.notes, note{kind, reason, action, text, pod, o.checkpoint})
}

func (r *Reconciler) writeEvents(ctx context.Context, notes []note) {
	for _, n := range notes {
		if n.pod != nil {
			r.record(ctx, n.pod, corev1.ObjectReference{APIVersion: "v1", Kind: "Pod"}, n)
		}
		if n.checkpoint != nil {
			r.record(ctx, n.checkpoint, corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Checkpoint"}, n)
		}
	}
}

// record creates the event under a name made of its content: the same fact told again, by this process or the one
// after a crash, is the same event. An event that cannot be written is logged and must not hold the path up.
func (r *Reconciler) record(ctx context.Context, about client.Object, ref corev1.ObjectReference, n note) {
	ref.Namespace, ref.Name, ref.UID = about.GetNamespace(), about.GetName(), about.GetUID()
	if len(n.text) > maxEventNote {
		n.text = n.text[:maxEventNote-3] + "..."
	}
	hash := fnv.New64a()
	fmt.Fprint(hash, ref.UID, n.reason, n.text)
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
		Type:                n.kind,
		Reason:              n.reason,
		Action:              n.action,
		Note:                n.text,
	}
	if err := r.Client.Create(ctx, event); err != nil && !apierrors.IsAlreadyExists(err) {
		log.FromContext(ctx).Error(err, "event not recorded", "reason", n.reason, "kind", ref.Kind)
	}
}
