package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// Its restore ran out of time, or it was refused: with restartPolicy Never no create comes that would tell, and the others would be
// held for ever.
func TestTheLastContainerIsNotCreatedAgain(t *testing.T) {
	g := newGroup(t, never)
	g.restore(t, "s", "proxy", 1, true)
	g.restore(t, "s", "main", 1, true)
	g.fail(t, "s", "writer", 1)
	require.NoError(t, g.Sweep(t.Context()))
	require.Empty(t, g.calls, "the wrapper asks once more in the same create")
	pods := g.options.Client.CoreV1().Pods("ns")
	g.pod.Status.ContainerStatuses = []corev1.ContainerStatus{
		{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
		{Name: "writer", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "StartError", ExitCode: 128}}},
	}
	_, err := pods.UpdateStatus(t.Context(), g.pod, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.NoError(t, g.Sweep(t.Context()))
	require.Equal(t, []string{"kill main-1", "kill proxy-1"}, g.calls)
	require.Equal(t, v1alpha1.ReasonNotRestartable, g.reason())
	require.Contains(t, g.status().Condition(v1alpha1.ConditionRestored).Message, "criu failed")
}

func TestNothingIsKeptOfPodsThatAreGone(t *testing.T) {
	g := newGroup(t)
	g.miss(handover.PrepareRequest{Namespace: "ns", Pod: "new", PodUID: "new", Container: "main"})
	g.miss(handover.PrepareRequest{Namespace: "ns", Pod: "gone", PodUID: "gone", Container: "main"})
	g.miss(handover.PrepareRequest{Namespace: "ns", Pod: "new", PodUID: "before", Container: "main"})
	require.NoError(t, g.Sweep(t.Context()))
	require.Len(t, g.missed, 1)
	require.Contains(t, g.missed, "new")
}

func TestARestoreThatCannotBeginLeavesNothing(t *testing.T) {
	g := newGroup(t)
	of := task{PrepareRequest: handover.PrepareRequest{PodUID: "new", Container: "no\x00folder"}}
	_, err := g.begin(of, &v1alpha1.GenerationReference{Number: 1}, []string{"main", "writer"})
	require.Error(t, err)
	require.NoDirExists(t, g.folder("new"))
	require.Empty(t, g.begun)
}
