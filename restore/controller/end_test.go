package controller

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// The rule of docs/operations.md: a deletion with no interruption under way ends the protection; one after the notice
// counts as a drain and is followed by the replacement.
func TestWhatADeletionMeans(t *testing.T) {
	for name, tc := range map[string]struct {
		do func(*world)
		// kept: the Checkpoint is still there; replaced: a replacement was created; reason: of Protectable, where kept.
		kept, replaced bool
		reason         string
	}{
		"by the user, no interruption": {func(w *world) {
			w.deleteBy(false)
			w.settle()
			w.vanish()
		}, false, false, ""},
		"by the user, the notice comes while the pod ends": {func(w *world) {
			w.deleteBy(false)
			w.settle()
			w.notice()
			w.commit()
			w.settle()
			w.vanish()
		}, false, false, ""},
		"by a drain, the notice comes while the pod ends": {func(w *world) {
			w.deleteBy(true)
			w.settle()
			w.notice()
			w.settle()
			w.commit()
		}, true, true, v1alpha1.ReasonProtected},
		"by a drain, no notice": {func(w *world) {
			w.deleteBy(true)
			w.settle()
			w.vanish()
		}, false, false, ""},
		"by the user, after the notice": {func(w *world) {
			w.notice()
			w.deleteBy(false)
			w.settle()
			w.commit()
		}, true, true, v1alpha1.ReasonProtected},
		"pod gone before the commit": {func(w *world) {
			w.notice()
			w.vanish()
			w.settle()
			require.Equal(w.t, v1alpha1.ReasonPodLost, w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable).Reason)
			w.commit()
		}, true, true, v1alpha1.ReasonPodLost},
		"pod gone after a failed dump": {func(w *world) {
			w.notice()
			w.dumpFails()
			w.vanish()
		}, true, false, v1alpha1.ReasonPodLost},
		"pod succeeds": {func(w *world) {
			w.changePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		}, true, false, v1alpha1.ReasonPodEnded},
		"pod succeeds and is deleted": {func(w *world) {
			w.changePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
			w.settle()
			w.vanish()
		}, false, false, ""},
		"label removed": {func(w *world) {
			w.changePod(func(p *corev1.Pod) { delete(p.Labels, v1alpha1.LabelProtect) })
		}, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates()
			w.settle()
			tc.do(w)
			w.settle()
			w.kubelet()
			w.settle()
			require.Equal(t, tc.kept, w.checkpoint() != nil)
			require.Equal(t, tc.replaced, len(w.created) == 1)
			if tc.kept {
				require.Equal(t, tc.reason, w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable).Reason)
			}
		})
	}
}

// A drain handler that acts on the same notice may be quicker than the agent; a user who deletes a pod acts on none.
func TestAnEvictionBeforeTheNoticeIsNoted(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	require.Nil(t, w.checkpoint().Status.Evicted)
	w.deleteBy(true)
	w.settleWithin(time.Second)
	noted := w.checkpoint().Status.Evicted
	require.Equal(t, w.checkpoint().Status.Pod.UID, noted.PodUID)
	w.settleWithin(time.Second)
	require.Equal(t, noted, w.checkpoint().Status.Evicted, "once")

	other := newWorld(t)
	other.userCreates()
	other.settle()
	other.notice()
	other.deleteBy(true)
	other.settleWithin(time.Second)
	require.Nil(t, other.checkpoint().Status.Evicted, "the notice is known")
}

func TestAPodGoneDuringItsEvacuationIsLostAtTheDeadline(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.notice()
	deadline := metav1.NewMicroTime(w.now.Add(2 * time.Minute))
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) { s.Timeline.Deadline = &deadline })
	w.vanish()
	result, err := w.reconciler().Reconcile(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, 2*time.Minute, result.RequeueAfter)
	require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable))
	w.settle()
	require.Equal(t, v1alpha1.ReasonPodLost, w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable).Reason)
}

// Its node has died in the window and is back: the kubelet calls the pod failed, and nobody is left who would say more.
func TestAPodThatEndsDuringItsEvacuationIsOverAtTheDeadline(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.notice()
	deadline := metav1.NewMicroTime(w.now.Add(2 * time.Minute))
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) { s.Timeline.Deadline = &deadline })
	w.changePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	w.settleWithin(time.Minute)
	require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable), "the agent may be uploading it")
	w.settle()
	require.Equal(t, v1alpha1.ReasonPodEnded, w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable).Reason)
}

func TestARestoredPodEndsForGood(t *testing.T) {
	for name, end := range map[string]func(*world){
		"succeeds": func(w *world) {
			w.changePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
			w.settle()
			w.vanish()
		},
		"is deleted":                    func(w *world) { w.deleteBy(false); w.settle(); w.vanish() },
		"is gone before anybody looked": func(w *world) { w.vanish() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates()
			w.interrupt("b")
			end(w)
			w.settle()
			require.Nil(t, w.checkpoint())
			require.Len(t, w.created, 1)
		})
	}
}

func TestTheClaimingPodIsLostBeforeItRuns(t *testing.T) {
	for name, tc := range map[string]struct {
		lose func(*world)
		how  string
	}{
		"it leaves": {func(w *world) { w.vanish() }, "left before it ran again"},
		"its create failed for good": {func(w *world) {
			w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
				s.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonRestoreFailed, "criu says no")
			})
			w.changePod(createFailed)
		}, "ended before it ran again"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates()
			w.settle()
			w.notice()
			w.commit()
			w.settle()
			w.kubelet()
			w.settle()
			w.claim("b")
			w.settle()
			tc.lose(w)
			w.settle()
			c := w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable)
			require.Equal(t, v1alpha1.ReasonPodLost, c.Reason)
			require.Contains(t, c.Message, "claimed generation 1 on node b "+tc.how)
			require.Len(t, w.created, 1, "a generation is claimed once")

			lost := w.checkpoint().UID
			if w.pod() != nil {
				w.vanish()
				w.settle()
			}
			next := w.userCreates()
			w.settle()
			require.NotEqual(t, lost, w.checkpoint().UID, "it is another job")
			require.Equal(t, next.UID, w.checkpoint().Status.Pod.UID)
			require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable))
		})
	}
}

// createFailed is how a kubelet shows a container that could not be created, where it must not restart.
func createFailed(p *corev1.Pod) {
	p.Status.Phase = corev1.PodFailed
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{Reason: "StartError", ExitCode: 128, Message: "no agent answers"},
	}}}
}

// The cache shows the source still, while the Checkpoint speaks of the replacement already.
func TestAStalePodTakesNoCheckpointAway(t *testing.T) {
	w := newWorld(t)
	source := w.userCreates()
	w.interrupt("b")
	r := w.reconciler()
	r.Client = interceptor.NewClient(w.api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key types.NamespacedName, o client.Object, opts ...client.GetOption) error {
			if pod, ok := o.(*corev1.Pod); ok {
				source.DeepCopyInto(pod)
				return nil
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
	result, err := r.Reconcile(t.Context(), request())
	require.NoError(t, err)
	require.NotZero(t, result.RequeueAfter)
	require.NotNil(t, w.checkpoint())
}

func TestAnotherPodUnderTheNameIsAnotherJob(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	before := w.checkpoint().UID
	w.vanish()
	next := w.userCreates(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "train:2" })
	w.settle()
	after := w.checkpoint()
	require.NotEqual(t, before, after.UID)
	require.Equal(t, next.UID, after.Status.Pod.UID)
	require.Contains(t, string(after.Spec.Template.Raw), "train:2")
}

// The process died between the two writes that make a Checkpoint, and the pod was made anew before the next look.
func TestATemplateOfAnEarlierPodIsRenewed(t *testing.T) {
	w := newWorld(t)
	template, err := TemplateOf(bare())
	require.NoError(t, err)
	require.NoError(t, w.raw.Create(t.Context(), &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: subject.Namespace, Name: subject.Name},
		Spec:       v1alpha1.CheckpointSpec{Identity: v1alpha1.Identity{Kind: "Pod", Name: subject.Name}, Template: template},
	}))
	w.userCreates(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "train:2" })
	w.settle()
	require.Contains(t, string(w.checkpoint().Spec.Template.Raw), "train:2")
	require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable))
}

// A StatefulSet's pod is removed by force in its evacuation, and the agent falls silent: the set's next pod is protected a minute
// after the deadline, and nobody looks as fast as can be until then.
func TestANamesakeMadeDuringAnEvacuation(t *testing.T) {
	w := newWorld(t)
	set := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: w.uid()}}
	of := by(set, "apps/v1", "StatefulSet", "web-0")
	w.userCreates(of)
	w.settle()
	w.on("web-0")
	w.notice()
	deadline := metav1.NewMicroTime(w.now.Add(2 * time.Minute))
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) { s.Timeline.Deadline = &deadline })
	w.vanishNamed("web-0")
	next := w.userCreates(of)
	w.started("web-0")
	result, err := w.reconciler().Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: subject.Namespace, Name: "web-0"}})
	require.NoError(t, err)
	require.GreaterOrEqual(t, result.RequeueAfter, rejectedDelay)
	w.settle()
	require.Equal(t, next.UID, w.checkpointNamed("web-0").Status.Pod.UID)
	require.WithinDuration(t, deadline.Add(recordWithin), w.now, 2*rejectedDelay)
}
