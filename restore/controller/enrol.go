package controller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// enrol makes the Checkpoint of a labelled pod of the request's name that none concerns. A new pod that may yet continue
// another one gets none of its own before it has started from the beginning.
func (r *Reconciler) enrol(ctx context.Context, o *observation) error {
	pod, err := get(ctx, r.Client, o.NamespacedName, &corev1.Pod{})
	if err != nil || pod == nil || !r.wanted(o, pod) {
		return err
	}
	id, err := identity.Of(pod)
	if err != nil {
		return err
	}
	for _, live := range []bool{false, true} {
		points, err := r.concerning(ctx, pod, live)
		if err != nil {
			return err
		}
		relation, point := identity.Find(pod, points, nil, r.Now())
		if relation == identity.Waiting && !identity.Started(pod) {
			return r.place(ctx, o, pod, point)
		}
		if relation == identity.Own || relation != identity.Nothing && !identity.Started(pod) {
			return nil
		}
	}
	return r.createCheckpoint(ctx, o, pod, id)
}

// concerning lists the Checkpoints that the pod may have to do with: those that name it, as far as the cache knows, and those
// of its key, past the cache where that is asked for.
func (r *Reconciler) concerning(ctx context.Context, pod *corev1.Pod, live bool) ([]v1alpha1.Checkpoint, error) {
	points, err := r.naming(ctx, pod)
	if err != nil {
		return nil, err
	}
	var list v1alpha1.CheckpointList
	key := keyOf(pod)
	if live {
		err = r.Live.List(ctx, &list, client.InNamespace(pod.Namespace), client.MatchingLabels{v1alpha1.LabelIdentity: key})
	} else {
		err = r.Client.List(ctx, &list, client.InNamespace(pod.Namespace), client.MatchingFields{indexIdentity: key})
	}
	if err != nil {
		return nil, fmt.Errorf("list checkpoints of the identity of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return append(points, list.Items...), nil
}

// naming lists the Checkpoints that the pod bears or has claimed, as far as the cache knows.
func (r *Reconciler) naming(ctx context.Context, pod *corev1.Pod) ([]v1alpha1.Checkpoint, error) {
	var list v1alpha1.CheckpointList
	if err := r.Client.List(ctx, &list, client.InNamespace(pod.Namespace), client.MatchingFields{indexPods: string(pod.UID)}); err != nil {
		return nil, fmt.Errorf("list checkpoints that name pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return list.Items, nil
}

// wanted tells whether a pod that no Checkpoint concerns is to get one, and names a mistaken label.
func (r *Reconciler) wanted(o *observation, pod *corev1.Pod) bool {
	value, labelled := pod.Labels[v1alpha1.LabelProtect]
	if labelled && value != "true" && value != "false" {
		o.notes = append(o.notes, note{corev1.EventTypeWarning, EventInvalidLabel, "Protect", fmt.Sprintf(
			"label %s has the value %q: set it to \"true\" to protect the pod, or to \"false\"", v1alpha1.LabelProtect, value), pod, nil})
	}
	return value == "true" && !over(pod) && pod.DeletionTimestamp == nil
}

// createCheckpoint makes the object and its first status: two writes. After a crash between them follow does the second.
func (r *Reconciler) createCheckpoint(ctx context.Context, o *observation, pod *corev1.Pod, id v1alpha1.Identity) error {
	ck := &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, Labels: map[string]string{v1alpha1.LabelIdentity: identity.Key(id)},
		},
		Spec: v1alpha1.CheckpointSpec{Identity: id},
	}
	if owner := id.Owner; owner != nil {
		// With the owner the job is over, and garbage collection takes the Checkpoint along.
		ck.OwnerReferences = []metav1.OwnerReference{{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: owner.UID}}
	} else {
		template, err := TemplateOf(pod)
		if err != nil {
			return err
		}
		ck.Spec.Template = template
	}
	err := r.createUnder(ctx, ck)
	if errors.Is(err, errNamesake) {
		o.again = rejectedDelay // a change of that one is looked at as soon as it comes
		return nil
	}
	if err != nil {
		return err
	}
	made := &observation{NamespacedName: client.ObjectKeyFromObject(ck), checkpoint: ck, pod: pod}
	if err := r.patchStatus(ctx, made, func(s *v1alpha1.CheckpointStatus) bool {
		s.Pod = referenceTo(pod)
		return true
	}); err != nil {
		return err
	}
	_, err = r.advance(ctx, made)
	o.notes = append(o.notes, made.notes...)
	return err
}

// errNamesake: a Checkpoint of the same identity, of another pod, bears the pod's name.
var errNamesake = errors.New("a Checkpoint of the same identity has the name")

// createUnder creates the Checkpoint under the pod's name, or under another one where a Checkpoint of another identity has
// it. errNamesake where one of the same identity is there: its own look comes first.
func (r *Reconciler) createUnder(ctx context.Context, ck *v1alpha1.Checkpoint) error {
	err := r.Client.Create(ctx, ck)
	if apierrors.IsAlreadyExists(err) {
		there, fault := get(ctx, r.Live, types.NamespacedName{Namespace: ck.Namespace, Name: ck.Name}, &v1alpha1.Checkpoint{})
		if fault != nil {
			return fault
		}
		switch {
		case there == nil:
		case there.Labels[v1alpha1.LabelIdentity] == ck.Labels[v1alpha1.LabelIdentity]:
			return errNamesake
		default:
			ck.Name, ck.ResourceVersion, ck.UID = identity.OtherName(ck.Spec.Identity), "", ""
			err = r.Client.Create(ctx, ck)
		}
	}
	if err != nil {
		return fmt.Errorf("create checkpoint %s/%s: %w", ck.Namespace, ck.Name, err)
	}
	return nil
}
