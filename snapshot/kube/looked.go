package kube

import (
	"context"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// eventMended tells that what stood in the way of a dump is gone.
const eventMended = "Mended"

// Looked implements eligible.Board: it writes what was found of t's tasks and files as ConditionDumpable, and tells by
// events what has appeared since it was last written, by whichever life of the agent, and what is gone. A reason that stands
// keeps its message.
func (j *Journal) Looked(ctx context.Context, t snapshot.Target, found []obstacle.Obstacle) error {
	var appeared, gone []obstacle.Obstacle
	err := j.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		before := foundBefore(&c.Status)
		appeared, gone = obstacle.Without(found, before), obstacle.Without(before, found)
		switch {
		case len(found) == 0:
			c.Status.SetCondition(v1alpha1.ConditionDumpable, metav1.ConditionTrue, v1alpha1.ReasonNothingFound,
				"nothing in the running tasks keeps the pod from being dumped")
		case len(appeared)+len(gone) > 0:
			c.Status.SetCondition(v1alpha1.ConditionDumpable, metav1.ConditionFalse, found[0].Reason, obstacle.Text(found))
		}
		return nil
	})
	if errors.Is(err, snapshot.ErrUnprotected) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, o := range appeared {
		j.tell(t, corev1.EventTypeWarning, o.Reason, "a notice would not save the pod: "+o.Message)
	}
	if len(gone) > 0 {
		j.tell(t, corev1.EventTypeNormal, eventMended, "gone: "+strings.Join(reasons(gone), ", "))
	}
	return nil
}

// tell is an event on the pod and on its Checkpoint.
func (j *Journal) tell(t snapshot.Target, kind, reason, message string) {
	j.event(t, kind, reason, message)
	j.Events.Event(&corev1.ObjectReference{
		Kind: "Checkpoint", APIVersion: v1alpha1.GroupVersion.String(), Namespace: t.Namespace, Name: t.Checkpoint, UID: types.UID(t.CheckpointUID),
	}, kind, reason, message)
}

func foundBefore(s *v1alpha1.CheckpointStatus) []obstacle.Obstacle {
	c := s.Condition(v1alpha1.ConditionDumpable)
	if c == nil || c.Status != metav1.ConditionFalse {
		return nil
	}
	return obstacle.Parse(c.Message)
}

// obstaclesOf are those for which a dump would fail for certain. Files that are too large are a matter of time.
func obstaclesOf(s *v1alpha1.CheckpointStatus) []obstacle.Obstacle {
	return slices.DeleteFunc(foundBefore(s), func(o obstacle.Obstacle) bool { return o.Reason == v1alpha1.ReasonFilesTooLarge })
}

func reasons(obstacles []obstacle.Obstacle) []string {
	out := make([]string, len(obstacles))
	for i, o := range obstacles {
		out[i] = o.Reason
	}
	return out
}
