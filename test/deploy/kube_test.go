package deploy

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestUntilNamesWhatItSawLast(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	err := Until(ctx, "the tide", func(context.Context) (bool, string, error) {
		cancel()
		return false, "low water", nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "wait for the tide (last seen: low water)")

	storm := errors.New("storm")
	err = Until(context.Background(), "the tide", func(context.Context) (bool, string, error) { return false, "", storm })
	require.ErrorIs(t, err, storm)
}

func TestPassing(t *testing.T) {
	resource := schema.GroupResource{Resource: "pods"}
	for name, c := range map[string]struct {
		err     error
		passing bool
	}{
		"not there yet":    {apierrors.NewNotFound(resource, "digits"), true},
		"no answer":        {errors.New("connection refused"), true},
		"too many":         {apierrors.NewTooManyRequests("later", 1), true},
		"forbidden":        {apierrors.NewForbidden(resource, "digits", errors.New("no")), false},
		"not a valid name": {apierrors.NewBadRequest("no"), false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.passing, passing(c.err) == nil) })
	}
}

func TestPodStateNamesTheReason(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "b"}, Status: corev1.PodStatus{
		Phase: corev1.PodPending,
		ContainerStatuses: []corev1.ContainerStatus{{Name: "train", State: corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerError", Message: "restore: pack missing"},
		}}},
	}}
	require.Equal(t, `Pending on node "b", train: CreateContainerError restore: pack missing`, podState(pod))
}

func TestDaemonSetReady(t *testing.T) {
	ready := func(change func(*appsv1.DaemonSet)) bool {
		d := &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{
			ObservedGeneration: 1, DesiredNumberScheduled: 2, NumberAvailable: 2, UpdatedNumberScheduled: 2,
		}}
		d.Generation = 1
		change(d)
		return daemonSetReady(d)
	}
	require.True(t, ready(func(*appsv1.DaemonSet) {}))
	require.False(t, ready(func(d *appsv1.DaemonSet) { d.Generation = 2 }), "not seen yet")
	require.False(t, ready(func(d *appsv1.DaemonSet) { d.Status.NumberAvailable = 1 }), "one node lacks it")
	require.False(t, ready(func(d *appsv1.DaemonSet) { d.Status.DesiredNumberScheduled, d.Status.NumberAvailable = 0, 0 }), "on no node")
}
