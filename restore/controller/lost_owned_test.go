package controller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// A Job's pods: their owner makes the replacements, which go on once the sources are removed; it must not count them as failed.
func TestTheLossOfAnOwnedPodsNode(t *testing.T) {
	for name, tc := range map[string]struct {
		safe bool
		want []string
	}{"it goes on": {true, []string{"train-a"}}, "it begins anew": {false, []string{"train-b"}}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, of := w.job()
			source := w.userCreates(of("train-a"))
			w.settle()
			w.on("train-a")
			if tc.safe {
				w.safety()
			}
			var removed *corev1.Pod
			w.fault = func(applied bool) error {
				if pod := w.podNamed("train-a"); applied && pod != nil {
					removed = pod
				}
				return nil
			}
			w.deleteNode("a")
			w.settleWithin(stopWithin + time.Second)
			require.Equal(t, source.UID, removed.UID)
			require.Equal(t, corev1.PodFailed, removed.Status.Phase, "a Job with a podFailurePolicy waits for that")
			require.Equal(t, corev1.DisruptionTarget, removed.Status.Conditions[0].Type)
			require.Nil(t, w.podNamed("train-a"))
			require.Empty(t, w.created)
			w.userCreates(of("train-b"), notStarted)
			w.settleWithin(time.Second)
			if tc.safe {
				w.claimFor("train-b", "b")
				w.resumedFor("train-b")
			} else {
				w.changePodNamed("train-b", func(p *corev1.Pod) { p.Spec.NodeName = "b" })
			}
			w.started("train-b")
			w.settleWithin(time.Second)
			require.Equal(t, tc.want, w.points())
			require.Equal(t, "train-b", w.checkpointNamed(tc.want[0]).Status.Pod.Name)
		})
	}
}

// No controller looks while a node is deleted and its pods with it; their owner has replaced them when one does.
func TestAnOwnedPodThatWentWithItsNodeUnseen(t *testing.T) {
	for name, safe := range map[string]bool{"it goes on": true, "it begins anew": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			of := w.jobPod()
			if safe {
				w.safety()
			}
			w.deleteNode("a")
			w.vanishNamed("train-a")
			w.userCreates(of("train-b"), notStarted)
			w.settleWithin(stopWithin + time.Second)
			if !safe {
				require.Equal(t, []string{"train-b"}, w.points())
				return
			}
			s := w.checkpointNamed("train-a").Status
			require.False(t, s.WaitingGeneration().Final)
			require.Contains(t, s.Condition(v1alpha1.ConditionEvacuated).Message, "and the pod with it")
			w.claimFor("train-b", "b")
			w.resumedFor("train-b")
			w.started("train-b")
			w.settleWithin(time.Second)
			require.Equal(t, []string{"train-a"}, w.points())
			require.Equal(t, "train-b", w.checkpointNamed("train-a").Status.Pod.Name)
		})
	}
}

// A pod that left in good order after a failed evacuation, and was called lost, is not brought back beside its successor when
// its node goes at last.
func TestAPodThatWasCalledLostStaysSo(t *testing.T) {
	w := newWorld(t)
	of := w.jobPod()
	w.safety()
	w.notice()
	w.dumpFails()
	w.vanishNamed("train-a")
	w.settleWithin(time.Second)
	require.Equal(t, v1alpha1.ReasonPodLost, w.checkpointNamed("train-a").Status.Condition(v1alpha1.ConditionProtectable).Reason)
	w.userCreates(of("train-b"))
	w.started("train-b")
	w.deleteNode("a")
	w.settleWithin(time.Second)
	require.Nil(t, w.checkpointNamed("train-a").Status.Generation)
}

// A StatefulSet's pod comes back under its name; the Checkpoint goes on with it.
func TestTheLossOfAStatefulSetsPod(t *testing.T) {
	w := newWorld(t)
	set := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: w.uid()}}
	of := by(set, "apps/v1", "StatefulSet", "web-0")
	source := w.userCreates(of)
	w.settle()
	w.on("web-0")
	w.safety()
	w.silent("a")
	w.settle()
	w.vanishNamed("web-0") // by force
	next := w.userCreates(of, notStarted)
	w.settleWithin(stopWithin + time.Second)
	s := w.checkpointNamed("web-0").Status
	require.NotNil(t, s.WaitingGeneration())
	require.Equal(t, source.UID, s.Pod.UID)
	w.claimFor("web-0", "b")
	w.resumedFor("web-0")
	w.settleWithin(time.Second)
	require.Equal(t, next.UID, w.checkpointNamed("web-0").Status.Pod.UID)
}
