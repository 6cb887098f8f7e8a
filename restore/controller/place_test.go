package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/utils/ptr"

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

// The owner's new pod was created while the webhook was down.
func TestAnOwnersPodWithoutTheRuntimeClassIsMadeAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		admits  bool
		change  func(*corev1.Pod)
		evicted bool
	}{
		"the webhook is back":         {admits: true, change: notStarted, evicted: true},
		"the webhook is still down":   {change: notStarted},
		"it was admitted":             {admits: true, change: func(p *corev1.Pod) { notStarted(p); p.Spec.RuntimeClassName = ptr.To("lifeboat") }},
		"its owner wants another one": {admits: true, change: func(p *corev1.Pod) { notStarted(p); p.Spec.RuntimeClassName = ptr.To("gvisor") }},
		"it runs, from the beginning": {admits: true, change: func(*corev1.Pod) {}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.admits = tc.admits
			_, of := w.job()
			w.userCreates(of("train-a"))
			w.settle()
			w.on("train-a")
			w.notice()
			w.settleWithin(time.Second)
			w.commit()
			w.settleWithin(time.Second)
			w.kubeletOf("train-a")
			pod := w.userCreates(of("train-b"), tc.change)
			if name == "it runs, from the beginning" {
				w.started("train-b")
			}
			w.settleWithin(time.Second)
			require.Equal(t, tc.evicted, slices.Contains(w.evictions, pod.UID))
			require.Equal(t, tc.evicted, w.told(EventNotAdmitted) != "")
		})
	}
}

func TestManyNodesAreNotAllNamed(t *testing.T) {
	gen := &v1alpha1.GenerationReference{Number: 1, NodeName: "a"}
	why, none := unfit(gen, make([]corev1.Node, 20))
	require.True(t, none)
	require.Contains(t, why, "and 12 more")
	why, none = unfit(gen, nil)
	require.True(t, none, why)
}
