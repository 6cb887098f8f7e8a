package controller

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// gaveUpMidway: the claiming agent has ended what it had restored.
func (w *world) gaveUpMidway() {
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		s.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonNotRestartable, "criu failed")
	})
}

func TestAPodThatCannotBeginAnewLeaves(t *testing.T) {
	for _, c := range []struct {
		name    string
		wish    string
		created int
	}{
		{"and another begins in its place", "start", 2},
		{"and none does where its owner says so", "fail", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates(func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationOnRestoreFailure: c.wish} })
			w.settle()
			w.notice()
			w.commit()
			w.vanish()
			w.settle()
			require.Len(t, w.created, 1)
			w.claim("b")
			w.settle()
			w.gaveUpMidway()
			w.settle()
			require.Contains(t, w.evictions, w.created[0].UID, "its owner is not to hold it against it")
			require.Contains(t, w.reasons("Pod"), EventLeaves)
			w.vanish()
			w.settle()
			require.Len(t, w.created, c.created)
			if c.created == 1 {
				require.Equal(t, v1alpha1.ReasonPodLost, w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable).Reason)
				return
			}
			pod := w.created[1]
			require.NotContains(t, pod.Annotations, v1alpha1.AnnotationRestoreFrom)
			require.Nil(t, w.checkpoint().Status.Claim, "it is another job")
			require.Equal(t, pod.UID, w.checkpoint().Status.Pod.UID)
		})
	}
}
