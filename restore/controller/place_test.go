package controller

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// waitingFor is a world whose waiting generation was taken on a node with kernel 6.18; node b has that kernel.
func waitingFor(t *testing.T, kernel placement.Version) *world {
	w := waiting(t)
	source := placement.Offer{Architecture: "amd64", Kernel: placement.Version{6, 18, 0}, CRIU: placement.Version{4, 2, 1}}
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) { s.Generation.Requirements = source.Requirements() })
	for name, offer := range map[string]placement.Offer{"a": source, "b": {Architecture: "amd64", Kernel: kernel, CRIU: source.CRIU}} {
		w.setNode(name, func(node *corev1.Node) {
			node.Labels[corev1.LabelArchStable] = offer.Architecture
			for label, value := range offer.Labels() {
				node.Labels[label] = value
			}
		})
	}
	w.setNode("a", func(node *corev1.Node) {
		node.Spec.Taints = []corev1.Taint{{Key: v1alpha1.TaintEvacuating, Effect: corev1.TaintEffectNoSchedule}}
	})
	w.settle()
	require.Len(t, w.created, 1)
	return w
}

// told returns the text of the newest event of that reason.
func (w *world) told(reason string) string {
	var list eventsv1.EventList
	require.NoError(w.t, w.raw.List(w.t.Context(), &list))
	for i := range list.Items {
		if list.Items[i].Reason == reason && list.Items[i].Regarding.Kind == "Pod" {
			return list.Items[i].Note
		}
	}
	return ""
}

func pending(p *corev1.Pod) {
	p.Status.Phase = corev1.PodPending
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable}}
}

func TestAReplacementGoesWhereItsGenerationCanBeRestored(t *testing.T) {
	w := waitingFor(t, placement.Version{6, 18, 0})
	terms := w.created[0].Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	require.Len(t, terms, 1)
	require.True(t, slices.ContainsFunc(terms[0].MatchExpressions, func(e corev1.NodeSelectorRequirement) bool {
		return e.Key == v1alpha1.LabelKernel && e.Operator == corev1.NodeSelectorOpGt && e.Values[0] == "61799"
	}), "%v", terms[0].MatchExpressions)
}

func TestWhereNoNodeFitsAnEventSaysWhatIsMissing(t *testing.T) {
	w := waitingFor(t, placement.Version{6, 1, 0})
	require.Empty(t, w.told(EventNoNodeFits), "the scheduler has not spoken yet")
	w.changePod(pending)
	w.settle()
	require.Equal(t, "no node can restore generation 1, taken on node a: a: is being evacuated, b: lacks kernel 6.18 or newer, not 6.1", w.told(EventNoNodeFits))
	require.Len(t, w.created, 1, "it stays pending")
	require.NotNil(t, w.pod())
}

func TestWhereANodeFitsTheSchedulersWordIsEnough(t *testing.T) {
	w := waitingFor(t, placement.Version{6, 18, 0})
	w.changePod(pending)
	w.settle()
	require.Empty(t, w.told(EventNoNodeFits))
}

func TestAPodOnANodeThatDoesNotFitIsTakenAway(t *testing.T) {
	w := waitingFor(t, placement.Version{6, 1, 0})
	first := w.pod().UID
	w.changePod(func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "b", corev1.PodPending })
	w.settle()
	require.Contains(t, w.told(EventMisplaced), "node b cannot restore generation 1, taken on node a, which requires kernel 6.18 or newer, not 6.1")
	require.Contains(t, w.evictions, first)
	w.kubelet()
	w.settle()
	require.Len(t, w.created, 2)
}

func TestAPodOnANodeWithAnAgentOfBeforeStays(t *testing.T) {
	w := waitingFor(t, placement.Version{6, 1, 0})
	w.setNode("b", func(node *corev1.Node) { delete(node.Labels, v1alpha1.LabelKernel) })
	w.changePod(func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "b", corev1.PodPending })
	before := len(w.evictions)
	w.settle()
	require.Len(t, w.evictions, before)
}

func TestManyNodesAreNotAllNamed(t *testing.T) {
	gen := &v1alpha1.GenerationReference{Number: 1, NodeName: "a"}
	why, none := unfit(gen, make([]corev1.Node, 20))
	require.True(t, none)
	require.Contains(t, why, "and 12 more")
	why, none = unfit(gen, nil)
	require.True(t, none, why)
}
