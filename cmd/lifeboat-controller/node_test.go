package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func nodeWith(taints ...string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	for _, key := range taints {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	return node
}

func TestOwnNodeFollowsTheTaint(t *testing.T) {
	client := fake.NewClientset(nodeWith())
	node := newOwnNode()
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- node.follow(ctx, client, "a") }()
	for _, step := range []struct {
		taints  []string
		leaving bool
	}{
		{[]string{v1alpha1.TaintEvacuating}, true},
		{[]string{"node.kubernetes.io/unschedulable"}, false},
		{[]string{"other", v1alpha1.TaintEvacuating}, true},
	} {
		before, changed := node.look()
		require.Equal(t, !step.leaving, before)
		_, err := client.CoreV1().Nodes().Update(ctx, nodeWith(step.taints...), metav1.UpdateOptions{})
		require.NoError(t, err)
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			require.Fail(t, "the change was not seen")
		}
		now, _ := node.look()
		require.Equal(t, step.leaving, now)
	}
	end()
	require.NoError(t, <-ended)
	for _, action := range client.Actions() {
		if list, ok := action.(clienttesting.ListAction); ok {
			require.Equal(t, "metadata.name=a", list.GetListRestrictions().Fields.String(), "no other node is read")
		}
	}
}

func TestATermEndsWhenTheNodeChanges(t *testing.T) {
	node := newOwnNode()
	ctx, end := context.WithCancel(t.Context())
	var seen []bool
	err := terms(ctx, node, func(term context.Context, leaving bool) error {
		seen = append(seen, leaving)
		node.set(leaving) // the same again changes nothing
		require.NoError(t, term.Err(), "too early")
		if len(seen) == 3 {
			end()
		}
		node.set(!leaving)
		<-term.Done()
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true, false}, seen)
}

func TestATermThatFailsIsTheEnd(t *testing.T) {
	lost := errors.New("leader election lost")
	require.ErrorIs(t, terms(t.Context(), newOwnNode(), func(context.Context, bool) error { return lost }), lost)
}
