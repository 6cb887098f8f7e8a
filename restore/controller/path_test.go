package controller

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// interrupt takes the bearer through one whole interruption onto the node and returns the replacement's UID.
func (w *world) interrupt(to string) {
	w.settle()
	w.notice()
	w.settle()
	w.commit()
	w.settle()
	w.kubelet()
	w.settle()
	require.NotNil(w.t, w.pod(), "no replacement")
	w.claim(to)
	w.settle()
	w.resumed()
	w.settle()
}

func TestOnePodThroughTwoInterruptions(t *testing.T) {
	w := newWorld(t)
	source := w.userCreates()
	w.interrupt("b")
	first := w.pod()
	require.Len(t, w.created, 1)
	require.NotEqual(t, source.UID, first.UID)
	require.Equal(t, "train/1", first.Annotations[v1alpha1.AnnotationRestoreFrom])
	require.Equal(t, v1alpha1.RuntimeClassName, *first.Spec.RuntimeClassName)
	s := w.checkpoint().Status
	require.Equal(t, v1alpha1.PodReference{Name: "train", UID: first.UID, NodeName: "b"}, *s.Pod)
	require.Equal(t, StageNone, StageOf(&s))
	require.True(t, s.IsTrue(v1alpha1.ConditionProtectable))
	require.True(t, s.IsTrue(v1alpha1.ConditionReleased))
	require.NotNil(t, s.Timeline.Released)

	w.interrupt("a")
	require.Len(t, w.created, 2)
	require.Equal(t, "train/2", w.pod().Annotations[v1alpha1.AnnotationRestoreFrom])
	s = w.checkpoint().Status
	require.Equal(t, "a", s.Pod.NodeName)
	require.EqualValues(t, 2, s.Epoch)
	require.Contains(t, w.reasons("Checkpoint"), EventReleased)
	require.Contains(t, w.reasons("Pod"), EventReplaced)
}

// The process dies before or after any one of its writes; whatever starts next brings the path to the same end.
func TestACrashAtAnyWriteLeavesExactlyOneReplacement(t *testing.T) {
	for _, afterwards := range []bool{false, true} {
		for k := 1; ; k++ {
			reached := false
			t.Run(fmt.Sprintf("write %d, applied %t", k, afterwards), func(t *testing.T) {
				w := newWorld(t)
				writes := 0
				w.fault = func(applied bool) error {
					if !applied {
						writes++
					}
					if writes == k && applied == afterwards && !reached {
						reached = true
						return errCrash
					}
					return nil
				}
				source := w.userCreates()
				w.interrupt("b")
				require.Len(t, w.created, 1)
				require.NotEqual(t, source.UID, w.pod().UID)
				s := w.checkpoint().Status
				require.Equal(t, w.pod().UID, s.Pod.UID)
				require.True(t, s.IsTrue(v1alpha1.ConditionReleased))
				require.True(t, s.IsTrue(v1alpha1.ConditionEvacuated), "an agent's condition was lost")
			})
			if !reached {
				require.Greater(t, k, 8, "the fault was never reached")
				break
			}
		}
	}
}

// An agent writes between the controller's read and its write, at every status write in turn.
func TestNoAgentsWriteIsLost(t *testing.T) {
	for k := 1; ; k++ {
		reached := false
		t.Run(fmt.Sprintf("write %d", k), func(t *testing.T) {
			w := newWorld(t)
			writes := 0
			w.fault = func(applied bool) error {
				if applied || w.checkpoint() == nil {
					return nil
				}
				if writes++; writes == k {
					reached = true
					w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
						s.SetCondition(v1alpha1.ConditionClaimed, metav1.ConditionFalse, v1alpha1.ReasonNoInterruption, "mark")
					})
				}
				return nil
			}
			w.userCreates()
			w.settle()
			w.notice()
			w.settle()
			w.commit()
			w.settle()
			w.kubelet()
			w.settle()
			if reached {
				require.Equal(t, "mark", w.checkpoint().Status.Condition(v1alpha1.ConditionClaimed).Message)
			}
			require.Len(t, w.created, 1)
		})
		if !reached {
			require.Greater(t, k, 5)
			break
		}
	}
}
