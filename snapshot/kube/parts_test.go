package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

func TestContainersThatHaveNotBegunAreMissing(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: "pod-1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
	}
	for status, there := range map[snapshot.Status]bool{
		snapshot.StatusCreated: false, snapshot.StatusRunning: true, snapshot.StatusPaused: true, snapshot.StatusStopped: false,
	} {
		t.Run(string(status), func(t *testing.T) {
			found, missing := containersOf(pod, []snapshot.Container{{ID: "c1", PodUID: "pod-1", Name: "main", Status: status}})
			require.Equal(t, there, len(found) == 1)
			require.Equal(t, there, len(missing) == 0)
		})
	}
}
