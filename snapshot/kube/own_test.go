package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestTheCheckpointOfAStartedPodIsListedOnce(t *testing.T) {
	j, server, _ := stage(t)
	listed := server.Lists()
	targets := func() int {
		t.Helper()
		targets, err := j.Targets(t.Context())
		require.NoError(t, err)
		return len(targets)
	}
	require.Equal(t, 1, targets())
	require.Greater(t, server.Lists(), listed, "a pod that has not started may still get another Checkpoint")

	pods := j.Node.Client.CoreV1().Pods("ns")
	pod, err := pods.Get(t.Context(), "job", metav1.GetOptions{})
	require.NoError(t, err)
	pod.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
	_, err = pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, 1, targets())
	listed = server.Lists()
	server.Edit("ns", "job", func(c *v1alpha1.Checkpoint) { c.Status.Epoch = 7 })
	found, err := j.Targets(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, found[0].Epoch, "it is read anew each time")
	require.Equal(t, listed, server.Lists())

	server.Edit("ns", "job", func(c *v1alpha1.Checkpoint) { c.Status.Pod.UID = "pod-2" })
	require.Equal(t, 0, targets(), "it is another pod's")
	require.Greater(t, server.Lists(), listed)
	server.Edit("ns", "job", func(c *v1alpha1.Checkpoint) { c.Status.Pod.UID = "pod-1" })
	require.Equal(t, 1, targets())
	require.NoError(t, pods.Delete(t.Context(), "job", metav1.DeleteOptions{}))
	require.Equal(t, 0, targets())
	require.Empty(t, j.own.names)
}
