package controller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func unreachable(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }

func TestRelease(t *testing.T) {
	for name, tc := range map[string]struct {
		before    func(*world)
		kubelet   bool
		evictions int
		reason    string
		within    time.Duration
	}{
		"the kubelet confirms":       {nil, true, 1, v1alpha1.ReasonSourceGone, time.Second},
		"a disruption budget blocks": {func(w *world) { w.budgetBlocks = true }, true, 0, v1alpha1.ReasonSourceGone, time.Second},
		"the kubelet is silent":      {nil, false, 1, v1alpha1.ReasonForcedRemoval, 7 * time.Second},
		"the node is unreachable":    {func(w *world) { w.setNode("a", unreachable) }, false, 0, v1alpha1.ReasonForcedRemoval, time.Second},
		"the node is gone": {func(w *world) {
			node := &corev1.Node{}
			require.NoError(w.t, w.raw.Get(w.t.Context(), client.ObjectKey{Name: "a"}, node))
			require.NoError(w.t, w.raw.Delete(w.t.Context(), node))
		}, false, 0, v1alpha1.ReasonForcedRemoval, time.Second},
		"the pod is gone already": {func(w *world) { w.vanish() }, false, 0, v1alpha1.ReasonSourceGone, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			source := w.userCreates()
			w.settle()
			w.notice()
			w.commit()
			if tc.before != nil {
				tc.before(w)
			}
			start := w.now
			if tc.kubelet {
				_, err := w.reconciler().Reconcile(t.Context(), request())
				require.NoError(t, err)
				require.NotNil(t, w.pod().DeletionTimestamp)
				require.False(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionReleased))
				w.kubelet()
			}
			w.settle()
			released := w.checkpoint().Status.Condition(v1alpha1.ConditionReleased)
			require.Equal(t, tc.reason, released.Reason)
			require.NotNil(t, w.checkpoint().Status.Timeline.Released)
			require.LessOrEqual(t, w.now.Sub(start), tc.within)
			require.Len(t, w.evictions, tc.evictions)
			for _, uid := range w.evictions {
				require.Equal(t, source.UID, uid)
			}
			require.Len(t, w.created, 1)
		})
	}
}

func TestNothingIsReleasedWithoutADurableFinalGenerationOfThisPod(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.CheckpointStatus){
		"not final": func(s *v1alpha1.CheckpointStatus) { s.Generation.Final = false },
		"not durable": func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionDurable, "False", v1alpha1.ReasonBucketFailed, "")
		},
		"not evacuated": func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionEvacuated, "Unknown", v1alpha1.ReasonEvacuating, "")
		},
		"dump failed": func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionEvacuated, "False", v1alpha1.ReasonDumpFailed, "")
		},
		"another pod's": func(s *v1alpha1.CheckpointStatus) { s.Generation.PodUID = "other" },
		"another pod's, with its timeline": func(s *v1alpha1.CheckpointStatus) {
			s.Generation.PodUID, s.Timeline.PodUID = "other", "other"
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates()
			w.settle()
			w.notice()
			w.commit()
			w.agentWrites(change)
			w.settle()
			require.Nil(t, w.pod().DeletionTimestamp)
			require.Empty(t, w.evictions)
			require.Empty(t, w.created)
			require.Nil(t, w.checkpoint().Status.Condition(v1alpha1.ConditionReleased))
		})
	}
}

// A volume is given up by its node, or goes with it; the pod follows it.
func TestNoSourceWithVolumesIsRemovedByForce(t *testing.T) {
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}
	own := corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
	for name, tc := range map[string]struct {
		volume corev1.VolumeSource
		before func(*world)
		forced bool
	}{
		"the kubelet is silent":        {claim, nil, false},
		"the node is unreachable":      {claim, func(w *world) { w.setNode("a", unreachable) }, false},
		"a volume of its own":          {own, func(w *world) { w.setNode("a", unreachable) }, false},
		"an emptyDir is nobody else's": {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, func(w *world) { w.setNode("a", unreachable) }, true},
		"the node is out of service": {claim, func(w *world) {
			w.setNode("a", func(n *corev1.Node) {
				unreachable(n)
				n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
			})
		}, true},
		"the node is gone": {claim, func(w *world) {
			node := &corev1.Node{}
			require.NoError(w.t, w.raw.Get(w.t.Context(), client.ObjectKey{Name: "a"}, node))
			require.NoError(w.t, w.raw.Delete(w.t.Context(), node))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates(func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: tc.volume}} })
			w.settle()
			w.notice()
			w.commit()
			if tc.before != nil {
				tc.before(w)
			}
			for range 20 {
				_, err := w.reconciler().Reconcile(t.Context(), request())
				require.NoError(t, err)
				w.now = w.now.Add(time.Second)
			}
			released := w.checkpoint().Status.Condition(v1alpha1.ConditionReleased)
			require.Equal(t, tc.forced, released.Reason == v1alpha1.ReasonForcedRemoval, released.Message)
			if tc.forced {
				return
			}
			require.Contains(t, released.Message, "has to unmount")
			require.Len(t, w.evictions, 1)
			require.Empty(t, w.created)
			w.kubelet()
			w.settle()
			require.Equal(t, v1alpha1.ReasonSourceGone, w.checkpoint().Status.Condition(v1alpha1.ConditionReleased).Reason)
			require.Len(t, w.created, 1)
		})
	}
}

// The second interruption of an identity finds Released=True of the first.
func TestAnOldReleaseDoesNotCount(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.interrupt("b")
	w.notice()
	w.commit()
	_, err := w.reconciler().Reconcile(t.Context(), request())
	require.NoError(t, err)
	require.False(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionReleased))
	require.Len(t, w.created, 1)
	require.Equal(t, w.pod().UID, w.evictions[len(w.evictions)-1])
}

// What the cache shows is the source still, while its set has made another pod under the same name.
func TestThePodOfTheSameNameIsNotMarked(t *testing.T) {
	w := newWorld(t)
	source := w.userCreates()
	w.vanish()
	w.userCreates()
	w.changePod(func(*corev1.Pod) {}) // versions begin anew with each object here
	err := w.reconciler().disrupt(t.Context(), source, corev1.PodFailed)
	require.True(t, apierrors.IsConflict(err), "%v", err)
	require.Equal(t, corev1.PodRunning, w.pod().Status.Phase)
}
