package controller

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// giveUpAfter is how long a generation of an owned pod waits until its owner is asked whether another pod is to come, and
// from then on from one question to the next. Job controllers take ten seconds and more to make one.
const giveUpAfter = time.Minute

// giveUp takes the Checkpoint of an owned pod away where a generation waits that nobody needs any more: the owner is done, was
// scaled down, or has as many pods at work as it wants. Kept, it would one day come to life in a pod made for something else.
func (r *Reconciler) giveUp(ctx context.Context, o *observation) (verdict, error) {
	s := &o.checkpoint.Status
	if o.bare() || StageOf(s) != StageWaiting {
		return goOn, nil
	}
	if left := s.Timeline.Released.Add(giveUpAfter).Sub(r.Now()); left > 0 {
		return lookAgain(left), nil
	}
	wanted, err := r.wants(ctx, o)
	if err != nil {
		return done, err
	}
	needed, err := r.lacks(ctx, o, wanted)
	if err != nil {
		return done, err
	}
	if needed {
		return lookAgain(giveUpAfter), nil
	}
	o.tell(corev1.EventTypeWarning, EventGivenUp, "GiveUp", fmt.Sprintf(
		"%s %s wants no pod that could go on from generation %d: its Checkpoint is deleted",
		o.checkpoint.Spec.Identity.Owner.Kind, o.checkpoint.Spec.Identity.Owner.Name, s.Generation.Number))
	return done, r.deleteCheckpoint(ctx, o)
}

// many stands for as many pods as their owner may have in mind, which only it knows.
const many = 1 << 30

// wants tells how many pods of the Checkpoint's key its owner wants to have at work now.
func (r *Reconciler) wants(ctx context.Context, o *observation) (int32, error) {
	id := &o.checkpoint.Spec.Identity
	switch id.Kind {
	case v1alpha1.KindStatefulSet:
		return owner(ctx, r, o, &appsv1.StatefulSet{}, func(set *appsv1.StatefulSet) int32 { return setWants(set, id.Name) })
	case v1alpha1.KindReplicaSet:
		return owner(ctx, r, o, &appsv1.ReplicaSet{}, func(set *appsv1.ReplicaSet) int32 { return ptr.Deref(set.Spec.Replicas, 1) })
	case v1alpha1.KindJob, v1alpha1.KindIndexedJob:
		return owner(ctx, r, o, &batchv1.Job{}, func(job *batchv1.Job) int32 { return jobWants(job, id.Index) })
	}
	return many, nil
}

// owner asks the Checkpoint's owner, past the cache; none is wanted where it is gone.
func owner[T client.Object](ctx context.Context, r *Reconciler, o *observation, into T, wants func(T) int32) (int32, error) {
	id := o.checkpoint.Spec.Identity.Owner
	err := r.Live.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: id.Name}, into)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("get %s %s/%s: %w", id.Kind, o.Namespace, id.Name, err)
	}
	if err != nil || into.GetUID() != id.UID || into.GetDeletionTimestamp() != nil {
		return 0, nil
	}
	return wants(into), nil
}

func setWants(set *appsv1.StatefulSet, pod string) int32 {
	ordinal, err := strconv.ParseInt(pod[strings.LastIndex(pod, "-")+1:], 10, 32)
	var first int32
	if set.Spec.Ordinals != nil {
		first = set.Spec.Ordinals.Start
	}
	if err != nil || int32(ordinal) < first || int32(ordinal) >= first+ptr.Deref(set.Spec.Replicas, 1) {
		return 0
	}
	return 1
}

func jobWants(job *batchv1.Job, index *int32) int32 {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return 0
		}
	}
	parallelism := ptr.Deref(job.Spec.Parallelism, 1)
	switch {
	case ptr.Deref(job.Spec.Suspend, false):
		return many // it goes on when it is resumed
	case index != nil && (hasIndex(job.Status.CompletedIndexes, *index) || hasIndex(ptr.Deref(job.Status.FailedIndexes, ""), *index)):
		return 0
	case index != nil:
		return 1
	case job.Spec.Completions != nil:
		return min(parallelism, *job.Spec.Completions-job.Status.Succeeded)
	}
	return parallelism
}

// hasIndex reads the indexes of a Job's status, such as "1,3-5,7".
func hasIndex(text string, index int32) bool {
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err == nil && err2 == nil && first <= int(index) && int(index) <= last {
			return true
		}
	}
	return false
}

// lacks tells whether fewer pods are at work than wanted, or one has not started and may yet claim. The cache may be behind,
// so the pods are listed past it.
func (r *Reconciler) lacks(ctx context.Context, o *observation, wanted int32) (bool, error) {
	if wanted <= 0 {
		return false, nil
	}
	var list corev1.PodList
	if err := r.Live.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingLabels{v1alpha1.LabelProtect: "true"}); err != nil {
		return false, fmt.Errorf("list labelled pods of namespace %s: %w", o.Namespace, err)
	}
	for i := range list.Items {
		pod := &list.Items[i]
		if c := metav1.GetControllerOf(pod); c == nil || c.UID != o.checkpoint.Spec.Identity.Owner.UID || pod.DeletionTimestamp != nil || over(pod) {
			continue
		}
		// A StatefulSet's pod of another revision stands in the same place.
		sameName := o.checkpoint.Spec.Identity.Kind == v1alpha1.KindStatefulSet && pod.Name == o.checkpoint.Spec.Identity.Name
		if !sameName && keyOf(pod) != o.checkpoint.Labels[v1alpha1.LabelIdentity] {
			continue
		}
		if !identity.Started(pod) {
			return true, nil
		}
		wanted--
	}
	return wanted > 0, nil
}
