package controller

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// safety: the source agent takes a safety dump of the bearer.
func (w *world) safety() {
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		number := int64(1)
		for _, g := range []*v1alpha1.GenerationReference{s.Generation, s.Safety} {
			if g != nil {
				number = max(number, g.Number+1)
			}
		}
		s.Safety = &v1alpha1.GenerationReference{Number: number, Epoch: s.Epoch, PodUID: s.Pod.UID, NodeName: s.Pod.NodeName, Time: metav1.NewMicroTime(w.now)}
	})
}

func (w *world) deleteNode(name string) {
	require.NoError(w.t, w.raw.Delete(w.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
}

// silent: the control plane calls the node unreachable from now on.
func (w *world) silent(name string) {
	w.setNode(name, func(n *corev1.Node) {
		unreachable(n)
		n.Status.Conditions[0].LastTransitionTime = metav1.NewTime(w.now)
		n.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(w.now.Add(-time.Minute))
	})
}

// answers: the node is heard of again.
func (w *world) answers(name string) {
	w.setNode(name, func(n *corev1.Node) {
		n.Status.Conditions[0].Status = corev1.ConditionTrue
		n.Status.Conditions[0].LastTransitionTime = metav1.NewTime(w.now)
	})
}

func outOfServiceTaint(n *corev1.Node) {
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
}

func recovers(value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationRecover: value} }
}

// lossOutcome is what becomes of a bare pod whose node goes, or may have gone, without a final generation of it.
type lossOutcome int

const (
	stays   lossOutcome = iota // it bears the Checkpoint still
	resumes                    // a replacement restores the safety generation
	anew                       // a replacement begins anew
	nothing                    // nothing is left
	lost                       // it is called lost
)

type lossCase struct {
	pod []func(*corev1.Pod)
	do  func(*world)
	// bare: without a safety generation.
	bare bool
	want lossOutcome
}

func deleted(w *world) { w.deleteNode("a") }

// nodeCases are about what is seen of the node.
var nodeCases = map[string]lossCase{
	"its object is deleted":                         {do: deleted, want: resumes},
	"it is out of service and silent":               {do: func(w *world) { w.silent("a"); w.settle(); w.setNode("a", outOfServiceTaint) }, want: resumes},
	"it is out of service, but answers":             {do: func(w *world) { w.setNode("a", outOfServiceTaint) }, want: stays},
	"it is silent":                                  {do: func(w *world) { w.silent("a") }, want: stays},
	"it says itself that it is not ready":           {do: func(w *world) { w.setNode("a", func(n *corev1.Node) { n.Status.Conditions[0].Status = "False" }) }, want: stays},
	"silent, then deleted":                          {do: func(w *world) { w.silent("a"); w.settle(); w.deleteNode("a") }, want: resumes},
	"silent, the pod is removed by force":           {do: func(w *world) { w.silent("a"); w.settle(); w.vanish() }, want: resumes},
	"silent, removed before anybody looked":         {do: func(w *world) { w.silent("a"); w.vanish() }, want: nothing},
	"the pod is removed by force, the node answers": {do: func(w *world) { w.vanish() }, want: nothing},
	"silent, answers, then the pod is removed": {do: func(w *world) {
		w.silent("a")
		w.settle()
		w.now = w.now.Add(time.Minute)
		w.answers("a")
		w.settle()
		w.vanish()
	}, want: nothing},
	"silent, answers and silent again while nobody looked, removed meanwhile": {do: func(w *world) {
		w.silent("a")
		w.settle()
		w.now = w.now.Add(time.Minute)
		w.silent("a")
		w.vanish()
	}, want: nothing},
	"silent, then out of service, and the pod is removed": {do: func(w *world) { w.silent("a"); w.settle(); w.setNode("a", outOfServiceTaint); w.vanish() }, want: resumes},
	"deleted, and the pod is gone before anybody looked":  {do: func(w *world) { w.deleteNode("a"); w.vanish() }, want: nothing},
	"the user deleted the pod before":                     {do: func(w *world) { w.deleteBy(false); w.settle(); w.deleteNode("a"); w.settle(); w.kubelet() }, want: nothing},
	"the user deletes the pod while it is silent": {do: func(w *world) {
		w.silent("a")
		w.settle()
		w.deleteBy(false)
		w.settle()
		w.kubelet() // by force
	}, want: nothing},
}

// podCases are about the pod's own end and what its owner wants.
var podCases = map[string]lossCase{
	"evicted, for the node is unreachable": {do: func(w *world) {
		w.silent("a")
		w.settle()
		w.deleteBy(true)
		w.settle()
		w.deleteNode("a")
	}, want: resumes},
	"evicted, and removed by force": {do: func(w *world) { w.silent("a"); w.settle(); w.deleteBy(true); w.settle(); w.kubelet() }, want: resumes},
	"collected, which says that it has failed": {do: func(w *world) {
		w.deleteNode("a")
		w.changePod(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: collectorReason}}
		})
	}, want: resumes},
	"the pod had ended": {do: func(w *world) {
		w.changePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		w.deleteNode("a")
		w.settle()
		w.vanish()
	}, want: nothing},
	"under a notice, nothing dumped": {do: func(w *world) { w.notice(); w.deleteNode("a") }, want: resumes},
	"thawed, then deleted":           {do: func(w *world) { w.notice(); w.dumpFails(); w.settle(); w.deleteNode("a") }, want: resumes},
	"thawed, drained, deleted":       {do: func(w *world) { w.notice(); w.dumpFails(); w.deleteBy(false); w.settle(); w.deleteNode("a") }, want: resumes},
	"thawed, shut down in good order": {do: func(w *world) {
		w.notice()
		w.dumpFails()
		w.changePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
		w.settle()
		w.deleteNode("a")
		w.settle()
		w.vanish()
	}, want: nothing},
	"thawed, gone in good order": {do: func(w *world) { w.notice(); w.dumpFails(); w.settle(); w.vanish() }, want: lost},
	"no safety generation":       {do: deleted, bare: true, want: anew},
	"recover: final-only":        {pod: []func(*corev1.Pod){recovers("final-only")}, do: deleted, want: anew},
	"recover: never":             {pod: []func(*corev1.Pod){recovers("never")}, do: deleted, want: anew},
	"recover: never, removed by force": {pod: []func(*corev1.Pod){recovers("never")}, do: func(w *world) {
		w.silent("a")
		w.settle()
		w.vanish()
	}, want: anew},
	"a pod that cannot be carried over": {pod: []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.HostPID = true }}, do: func(w *world) {
		w.deleteNode("a")
		w.settle()
		w.vanish()
	}, want: nothing},
}

func TestWhatTheLossOfANodeMeans(t *testing.T) {
	for _, cases := range []map[string]lossCase{nodeCases, podCases} {
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) { tc.try(t) })
		}
	}
}

func (tc lossCase) try(t *testing.T) {
	w := newWorld(t)
	source := w.userCreates(tc.pod...)
	w.settle()
	if !tc.bare {
		w.safety()
	}
	before := w.checkpoint().UID
	tc.do(w)
	w.settle()
	c := w.checkpoint()
	if tc.want == nothing {
		require.Nil(t, c)
		require.Empty(t, w.created)
		return
	}
	require.NotNil(t, c)
	switch tc.want {
	case stays:
		require.Equal(t, source.UID, w.pod().UID)
		require.Nil(t, c.Status.Generation)
	case lost:
		require.Equal(t, v1alpha1.ReasonPodLost, c.Status.Condition(v1alpha1.ConditionProtectable).Reason)
		require.Empty(t, w.created)
	case resumes:
		require.Equal(t, before, c.UID)
		require.Equal(t, "train/1", w.pod().Annotations[v1alpha1.AnnotationRestoreFrom])
		require.EqualValues(t, 1, c.Status.WaitingGeneration().Number)
		require.False(t, c.Status.Generation.Final)
		require.Nil(t, c.Status.Silence)
	case anew:
		require.NotEqual(t, before, c.UID, "it is another job")
		require.Empty(t, w.pod().Annotations[v1alpha1.AnnotationRestoreFrom])
		require.Equal(t, w.pod().UID, c.Status.Pod.UID)
		require.Nil(t, c.Status.Generation)
	}
	if tc.want == resumes || tc.want == anew {
		require.Len(t, w.created, 1)
		require.Empty(t, w.evictions, "nobody there would confirm it")
		require.Contains(t, w.reasons("Checkpoint"), v1alpha1.ReasonNodeLost)
	}
}

// After the promotion the path is that of a final generation, and the pod that goes on can itself be lost.
func TestOnePodThroughTwoLosses(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	for i, to := range []string{"b", "c"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c", Labels: map[string]string{v1alpha1.LabelRuntimeReady: "true"}}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		require.NoError(t, client.IgnoreAlreadyExists(w.raw.Create(t.Context(), node)))
		w.safety()
		w.deleteNode(w.checkpoint().Status.Pod.NodeName)
		w.settle()
		require.Len(t, w.created, i+1)
		w.claim(to)
		w.settle()
		w.resumed()
		w.settle()
		s := w.checkpoint().Status
		require.Equal(t, v1alpha1.PodReference{Name: "train", UID: w.pod().UID, NodeName: to}, *s.Pod)
		require.Equal(t, StageNone, StageOf(&s))
		require.True(t, s.IsTrue(v1alpha1.ConditionProtectable))
		require.EqualValues(t, i+1, s.Epoch)
	}
}

// The restored pod's node goes before there is a safety generation of it: what it was restored from is claimed once.
func TestALossBeforeTheNextSafetyGenerationBeginsAnew(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.safety()
	w.deleteNode("a")
	w.settle()
	w.claim("b")
	w.settle()
	w.resumed()
	w.settle()
	w.deleteNode("b")
	w.settle()
	require.Len(t, w.created, 2)
	require.Empty(t, w.pod().Annotations[v1alpha1.AnnotationRestoreFrom])
}

// Whoever writes second finds that the other was there, at whichever write of the path it happens.
func TestAFinalGenerationAndThePromotionExcludeEachOther(t *testing.T) {
	for k := 1; ; k++ {
		reached, refused := false, false
		t.Run(fmt.Sprintf("before write %d", k), func(t *testing.T) {
			w := newWorld(t)
			w.userCreates()
			w.settle()
			w.safety()
			writes := 0
			w.fault = func(applied bool) error {
				if ck := w.checkpoint(); applied || ck == nil || reached {
					return nil
				}
				if writes++; writes == k {
					reached = true
					// What the agent and the API server refuse.
					if refused = w.checkpoint().Status.Lost(w.checkpoint().Status.Pod.UID); !refused {
						w.notice()
						w.commitNumber(2)
					}
				}
				return nil
			}
			w.deleteNode("a")
			w.settle()
			require.Len(t, w.created, 1)
			gen := w.checkpoint().Status.WaitingGeneration()
			require.NotNil(t, gen)
			if reached {
				require.Equal(t, !refused, gen.Final)
			}
		})
		if !reached {
			require.Greater(t, k, 3)
			break
		}
	}
}

// commitNumber is commit of a generation of that number.
func (w *world) commitNumber(number int64) {
	w.commit()
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) { s.Generation.Number = number })
}

// The process dies before or after any one of its writes.
func TestACrashAtAnyWriteAfterALoss(t *testing.T) {
	for _, safe := range []bool{true, false} {
		for _, afterwards := range []bool{false, true} {
			for k := 1; ; k++ {
				reached := false
				t.Run(fmt.Sprintf("safety generation %t, write %d, applied %t", safe, k, afterwards), func(t *testing.T) {
					w := newWorld(t)
					source := w.userCreates()
					w.settle()
					if safe {
						w.safety()
					}
					writes := 0
					w.fault = func(applied bool) error {
						if !applied {
							writes++
						}
						if writes == k && applied == afterwards && !reached {
							reached = true
							return errCrash
						}
						return nil
					}
					w.silent("a")
					w.settle()
					w.deleteNode("a")
					w.settle()
					require.Len(t, w.created, 1)
					require.NotEqual(t, source.UID, w.pod().UID)
					require.Equal(t, safe, w.checkpoint().Status.WaitingGeneration() != nil)
				})
				if !reached {
					require.Greater(t, k, 5, "the fault was never reached")
					break
				}
			}
		}
	}
}

// An agent that lives on the node that was given up has time to stop what it has there.
func TestTheSourceIsRemovedAfterItsAgentCouldStopIt(t *testing.T) {
	w := newWorld(t)
	source := w.userCreates()
	w.settle()
	w.safety()
	w.deleteNode("a")
	at := w.now
	w.settleWithin(stopWithin - time.Second)
	require.Equal(t, source.UID, w.pod().UID)
	s := w.checkpoint().Status
	require.NotNil(t, s.UnclaimedGeneration())
	require.Nil(t, s.WaitingGeneration())
	w.settle()
	require.NotEqual(t, source.UID, w.pod().UID)
	require.False(t, w.checkpoint().Status.Timeline.Released.Time.Before(at.Add(stopWithin)))
}

func TestLostWorkIsToldAndCounted(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.safety()
	taken := w.now
	alive := metav1.NewMicroTime(taken.Add(100 * time.Second))
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "a"}}
	lease.Spec.RenewTime = &alive
	require.NoError(t, w.raw.Create(t.Context(), lease))
	w.now = taken.Add(3 * time.Minute)
	w.silent("a")
	w.settle()
	require.True(t, w.checkpoint().Status.Silent())
	require.NoError(t, w.raw.Delete(t.Context(), lease))
	w.deleteNode("a")
	r := w.reconciler()
	r.Meter = NewMeter()
	_, err := r.Reconcile(t.Context(), request())
	require.NoError(t, err)
	s := w.checkpoint().Status
	require.True(t, s.Timeline.Alive.Time.Equal(alive.Time))
	require.Contains(t, s.Condition(v1alpha1.ConditionEvacuated).Message,
		"node a was deleted without a final generation: the pod goes on from safety generation 1; the work of 1m40s is lost")
	require.InDelta(t, 100, workLost(t, r.Meter), 0.01)
}

func TestASafetyGenerationThatTheOwnerForbidsIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.safety()
	w.settle()
	require.NotNil(t, w.checkpoint().Status.Safety)
	w.changePod(recovers("final-only"))
	w.settle()
	require.Nil(t, w.checkpoint().Status.Safety)
}

// The cache does not know the node yet, or still does not.
func TestANodeIsNotTakenForGoneByTheCache(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.safety()
	r := w.reconciler()
	r.Client = withoutNodes{w.api}
	_, err := r.Reconcile(t.Context(), request())
	require.NoError(t, err)
	require.Nil(t, w.checkpoint().Status.Generation)
}

type withoutNodes struct{ client.WithWatch }

func (c withoutNodes) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if _, isNode := o.(*corev1.Node); isNode {
		key.Name = "nowhere"
	}
	return c.WithWatch.Get(ctx, key, o, opts...)
}
