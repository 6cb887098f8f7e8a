package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

func TestLooked(t *testing.T) {
	uring := obstacle.Obstacle{Reason: v1alpha1.ReasonIOUring, Message: "io_uring in node: no; do without"}
	mptcp := obstacle.Obstacle{Reason: v1alpha1.ReasonMPTCP, Message: "multipath in main; do without"}
	files := obstacle.Obstacle{Reason: v1alpha1.ReasonFilesTooLarge, Message: "files in layer; leave out"}
	j, server, target := stage(t)
	events := record.NewFakeRecorder(20)
	j.Events = events
	for _, step := range []struct {
		name   string
		found  []obstacle.Obstacle
		status metav1.ConditionStatus
		reason string
		// kept are the obstacles that the target then has, events those on the pod.
		kept   []obstacle.Obstacle
		events []string
	}{
		{"nothing", nil, "True", v1alpha1.ReasonNothingFound, nil, nil},
		{"one appears", []obstacle.Obstacle{uring}, "False", uring.Reason, []obstacle.Obstacle{uring},
			[]string{"Warning IOUring a notice would not save the pod: io_uring in node: no; do without"}},
		{"it stands", []obstacle.Obstacle{{Reason: uring.Reason, Message: "other words"}}, "False", uring.Reason, []obstacle.Obstacle{uring}, nil},
		{"another one", []obstacle.Obstacle{uring, mptcp}, "False", uring.Reason, []obstacle.Obstacle{uring, mptcp},
			[]string{"Warning MPTCP a notice would not save the pod: multipath in main; do without"}},
		{"one goes", []obstacle.Obstacle{mptcp}, "False", mptcp.Reason, []obstacle.Obstacle{mptcp}, []string{"Normal Mended gone: IOUring"}},
		{"files alone", []obstacle.Obstacle{files}, "False", files.Reason, nil,
			[]string{"Warning FilesTooLarge a notice would not save the pod: files in layer; leave out", "Normal Mended gone: MPTCP"}},
		{"all gone", nil, "True", v1alpha1.ReasonNothingFound, nil, []string{"Normal Mended gone: FilesTooLarge"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			require.NoError(t, j.Looked(t.Context(), target, step.found))
			c := server.Get("ns", "job").Status.Condition(v1alpha1.ConditionDumpable)
			require.Equal(t, []string{string(step.status), step.reason}, []string{string(c.Status), c.Reason})
			require.True(t, v1alpha1.KnownReason(c.Type, c.Reason))
			targets, err := j.Targets(t.Context())
			require.NoError(t, err)
			require.ElementsMatch(t, step.kept, targets[0].Obstacles)
			var told []string
			for len(events.Events) > 0 {
				told = append(told, <-events.Events)
			}
			var twice []string // on the pod and on its Checkpoint
			for _, e := range step.events {
				twice = append(twice, e, e)
			}
			require.Equal(t, twice, told)
		})
	}
	target.PodUID = "pod-2"
	require.NoError(t, j.Looked(t.Context(), target, nil), "nobody is left to be told")

	target.PodUID = "pod-1"
	v := snapshot.Verdict{Level: snapshot.Unprotected, Reason: uring.Reason, Message: "no"}
	require.NoError(t, j.Judged(t.Context(), target, v, snapshot.Prediction{}))
	p := server.Get("ns", "job").Status.Protection
	require.Equal(t, "Unprotected", p.Level)
	require.Nil(t, p.Dirty, "nothing is predicted of what is not copied")
	require.Nil(t, p.Window)
	require.True(t, target.Unjudged)
	targets, err := j.Targets(t.Context())
	require.NoError(t, err)
	require.False(t, targets[0].Unjudged)
}
