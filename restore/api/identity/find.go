package identity

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Relation is what a Checkpoint is to a pod.
type Relation int

const (
	// Nothing says that no Checkpoint concerns the pod; it starts as Kubernetes starts it.
	Nothing Relation = iota
	// Own says that the pod bears the Checkpoint, holds its claim, or its state is stored there.
	Own
	// Waiting says that the Checkpoint has a generation that the pod may claim.
	Waiting
	// Coming says that the Checkpoint's source is being evacuated, or that its node does not answer, so there may soon be one.
	Coming
)

// deadlineSlack is how long after its deadline an evacuation is still waited for: the commit may be under way. A clock that
// is wrong costs a wait or a clean start, never a second copy: claims are fenced by epochs.
const deadlineSlack = 10 * time.Second

// Find says what of points, Checkpoints of the pod's namespace, concerns the pod, and which of them it is:
//
//  1. its own, by UID;
//  2. for a new pod: the one that its annotation names, where that has a generation waiting;
//  3. the one of its key whose generation has waited for the longest;
//  4. one of its key whose source is being evacuated, was evicted in this moment by somebody else, or is not heard of any
//     more, unless the pod's annotation says not to wait.
//
// A pod that is to begin anew whatever is stored (annotation AnnotationRecover: never) continues none.
//
// taken has the names of Checkpoints that other new pods are meant for, as far as known: they come last in 3 and do not
// count in 4. A pod that was given a Checkpoint of its own before there was anything to continue, and has not started yet,
// counts as new.
func Find(pod *corev1.Pod, points []v1alpha1.Checkpoint, taken map[string]bool, now time.Time) (Relation, *v1alpha1.Checkpoint) {
	own, fresh := ownOf(pod, points)
	if own != nil && !fresh {
		return Own, own
	}
	if pod.Labels[v1alpha1.LabelProtect] == "true" && pod.DeletionTimestamp == nil && !settings.Never(pod.Annotations) {
		if relation, point := continues(pod, points, taken, now); point != nil {
			return relation, point
		}
	}
	if own != nil {
		return Own, own
	}
	return Nothing, nil
}

// ownOf returns the pod's own Checkpoint. It is fresh where it holds nothing of a pod that has not run yet.
func ownOf(pod *corev1.Pod, points []v1alpha1.Checkpoint) (own *v1alpha1.Checkpoint, fresh bool) {
	if pod.UID == "" { // being created
		return nil, false
	}
	for i := range points {
		s := &points[i].Status
		switch {
		case s.Claim != nil && s.Claim.PodUID == pod.UID, s.Generation != nil && s.Generation.PodUID == pod.UID,
			s.Safety != nil && s.Safety.PodUID == pod.UID:
			return &points[i], false
		case s.Pod != nil && s.Pod.UID == pod.UID:
			own = &points[i]
		}
	}
	return own, own != nil && !Started(pod)
}

// Started tells whether a container of the pod has ever run, as far as its kubelet has told.
func Started(pod *corev1.Pod) bool {
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		if s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil || s.RestartCount > 0 {
			return true
		}
	}
	return false
}

// continues finds the Checkpoint that a new pod may go on from.
func continues(pod *corev1.Pod, points []v1alpha1.Checkpoint, taken map[string]bool, now time.Time) (Relation, *v1alpha1.Checkpoint) {
	id, err := Of(pod)
	if err != nil {
		return Nothing, nil
	}
	key := Key(id)
	named, _, _ := strings.Cut(pod.Annotations[v1alpha1.AnnotationRestoreFrom], "/")
	var waiting, awaited []*v1alpha1.Checkpoint
	for i := range points {
		c := &points[i]
		switch {
		case c.Labels[v1alpha1.LabelIdentity] != key:
		case Claimable(c, pod.UID):
			waiting = append(waiting, c)
		case (coming(c, pod.UID, now) || evicted(c, pod.UID, now)) && !taken[c.Name]:
			awaited = append(awaited, c)
		}
	}
	rank := func(c *v1alpha1.Checkpoint) int {
		switch {
		case c.Name == named:
			return 0
		case taken[c.Name]:
			return 2
		}
		return 1
	}
	order := func(a, b *v1alpha1.Checkpoint) int {
		if r := rank(a) - rank(b); r != 0 {
			return r
		}
		if g, h := a.Status.Generation, b.Status.Generation; g != nil && h != nil {
			if c := g.Time.Compare(h.Time.Time); c != 0 {
				return c
			}
		}
		return strings.Compare(a.Name, b.Name)
	}
	slices.SortFunc(waiting, order)
	slices.SortFunc(awaited, order)
	switch {
	case len(waiting) > 0:
		return Waiting, waiting[0]
	case len(awaited) > 0 && pod.Annotations[v1alpha1.AnnotationOnWaiting] != "start":
		return Coming, awaited[0]
	}
	return Nothing, nil
}

// Claimable tells whether the Checkpoint has a generation that the pod of that UID may claim as far as the Checkpoint goes: its
// source another pod, nobody's yet, and final or promoted. That the source of a final one is gone from the API is not asked
// for: it is frozen for good, and a pod that bears its name proves that it is gone. That of a promoted one must be gone, so that
// an agent which is still alive there has had time to stop it.
func Claimable(c *v1alpha1.Checkpoint, pod types.UID) bool {
	gen := c.Status.UnclaimedGeneration()
	return gen != nil && gen.PodUID != pod && (gen.Final || c.Status.Released()) && c.DeletionTimestamp == nil && !c.Status.Ended()
}

// coming tells whether the Checkpoint of another pod may still be given a generation: by an evacuation, or because its node is
// found to be gone.
func coming(c *v1alpha1.Checkpoint, pod types.UID, now time.Time) bool {
	s := &c.Status
	switch {
	case s.Pod == nil || s.Pod.UID == pod || c.DeletionTimestamp != nil || s.Ended():
		return false
	case s.UnclaimedGeneration() != nil && s.Promoted(), s.Silent():
		return true
	case !s.Evacuating():
		return false
	}
	deadline := s.Timeline.Deadline
	return deadline == nil || now.Before(deadline.Add(deadlineSlack))
}
