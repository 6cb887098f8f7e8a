package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// promoted: the controller has given the pod up with its node.
func promoted(c *v1alpha1.Checkpoint) {
	now := metav1.NowMicro()
	c.Status.Timeline = &v1alpha1.Timeline{PodUID: "pod-1", Lost: &now}
	c.Status.Generation = &v1alpha1.GenerationReference{Number: 4, Epoch: 3, PodUID: "pod-1"}
}

// claimed: another pod has taken it up and bears the Checkpoint by now, and was itself interrupted.
func claimed(c *v1alpha1.Checkpoint) {
	promoted(c)
	c.Status.Epoch = 4
	c.Status.Pod = &v1alpha1.PodReference{Name: "job", UID: "pod-2", NodeName: "b"}
	c.Status.Timeline = &v1alpha1.Timeline{PodUID: "pod-2"}
}

// The step that fences: nothing that the agent of a pod that was given up writes is taken any more.
func TestAnAgentWritesNoMoreForAPodThatWasGivenUp(t *testing.T) {
	now := time.Now()
	m := snapshot.Moments{Notice: now, Deadline: now.Add(time.Minute), Frozen: now, Dumped: now, Durable: now}
	for name, state := range map[string]func(*v1alpha1.Checkpoint){"promoted": promoted, "claimed and gone on": claimed} {
		for write, do := range map[string]func(context.Context, *Journal, snapshot.Target) error{
			"Begun": func(ctx context.Context, j *Journal, t snapshot.Target) error { return j.Begun(ctx, t, m) },
			"Final": func(ctx context.Context, j *Journal, t snapshot.Target) error {
				return j.Final(ctx, t, snapshot.Committed{Number: 5, Epoch: 3}, m)
			},
			"Failed": func(ctx context.Context, j *Journal, t snapshot.Target) error {
				return j.Failed(ctx, t, v1alpha1.ReasonDumpFailed, "")
			},
			"Safety": func(ctx context.Context, j *Journal, t snapshot.Target) error {
				return j.Safety(ctx, t, snapshot.Committed{Number: 5, Epoch: 3}, now)
			},
		} {
			t.Run(name+", "+write, func(t *testing.T) {
				j, server, target := stage(t)
				server.Edit("ns", "job", state)
				before := server.Get("ns", "job").Status
				require.ErrorIs(t, do(t.Context(), j, target), snapshot.ErrSuperseded)
				require.Equal(t, before, server.Get("ns", "job").Status)
				superseded, err := j.Superseded(t.Context(), target)
				require.NoError(t, err)
				require.True(t, superseded)
			})
		}
	}
}

// The promotion comes between the agent's look and its write.
func TestThePromotionWinsWhereItIsFirst(t *testing.T) {
	j, server, target := stage(t)
	first := true
	server.Before = func() {
		if first {
			first = false
			server.Edit("ns", "job", promoted)
		}
	}
	err := j.Final(t.Context(), target, snapshot.Committed{Number: 5, Epoch: 3}, snapshot.Moments{})
	require.ErrorIs(t, err, snapshot.ErrSuperseded)
	require.EqualValues(t, 4, server.Get("ns", "job").Status.Generation.Number)
}

func TestWhoIsSuperseded(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1alpha1.Checkpoint)
		want   bool
	}{
		"nobody":                {func(*v1alpha1.Checkpoint) {}, false},
		"another pod was lost":  {func(c *v1alpha1.Checkpoint) { promoted(c); c.Status.Timeline.PodUID = "pod-0" }, false},
		"given up":              {promoted, true},
		"lost, to begin anew":   {func(c *v1alpha1.Checkpoint) { promoted(c); c.Status.Generation = nil }, true},
		"of another Checkpoint": {func(c *v1alpha1.Checkpoint) { promoted(c); c.UID = "ckpt-2" }, false},
		"not protectable either": {func(c *v1alpha1.Checkpoint) {
			promoted(c)
			c.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonNodeNotReady, "")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			j, server, target := stage(t)
			server.Edit("ns", "job", c.change)
			superseded, err := j.Superseded(t.Context(), target)
			require.NoError(t, err)
			require.Equal(t, c.want, superseded)
			targets, err := j.Targets(t.Context())
			require.NoError(t, err)
			require.Len(t, targets, 1)
			if name != "of another Checkpoint" {
				require.Equal(t, c.want, targets[0].Superseded)
			}
		})
	}
	j, server, target := stage(t)
	server.Delete("ns", "job")
	superseded, err := j.Superseded(t.Context(), target)
	require.NoError(t, err)
	require.False(t, superseded)
}

func TestFollowTellsOfDoubtAndOfANewObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var doubted []bool
		renewed := 0
		done := make(chan error, 1)
		go func() {
			done <- Node{Name: "a", Client: api}.Follow(ctx, func(d bool) { doubted = append(doubted, d) }, func() { renewed++ })
		}()
		<-time.After(time.Second)
		nodes := api.CoreV1().Nodes()
		silent := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}}
		silent.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
		_, err := nodes.Update(ctx, silent, metav1.UpdateOptions{})
		require.NoError(t, err)
		<-time.After(time.Second)
		require.NoError(t, nodes.Delete(ctx, "a", metav1.DeleteOptions{}))
		<-time.After(time.Second)
		require.Zero(t, renewed)
		_, err = nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "2"}}, metav1.CreateOptions{})
		require.NoError(t, err)
		<-time.After(time.Second)
		require.Equal(t, []bool{false, true, true, false}, doubted)
		require.Equal(t, 1, renewed)
		cancel()
		require.NoError(t, <-done)
	})
}
