package controller

import (
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// The others who write: the user, the scheduler, the agents.

func bare(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: subject.Namespace, Name: subject.Name, Finalizers: []string{kubeletFinalizer},
			Labels: map[string]string{v1alpha1.LabelProtect: "true", "app": "train"},
		},
		Spec:   corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "main", Image: "train:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

// userCreates puts a pod into the API.
func (w *world) userCreates(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := bare(change...)
	pod.UID = w.uid()
	pod.CreationTimestamp = metav1.NewTime(w.now)
	require.NoError(w.t, w.raw.Create(w.t.Context(), pod))
	return pod
}

// deleteBy starts a deletion: by the user, or (evicted) by a drain.
func (w *world) deleteBy(evicted bool) {
	pod := w.pod()
	if evicted {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
		require.NoError(w.t, w.raw.Status().Update(w.t.Context(), pod))
	}
	require.NoError(w.t, w.raw.Delete(w.t.Context(), pod))
}

// vanish takes the pod out of the API, whoever wanted it.
func (w *world) vanish() { w.vanishNamed(subject.Name) }

func (w *world) vanishNamed(name string) {
	if pod := w.podNamed(name); pod.DeletionTimestamp == nil {
		require.NoError(w.t, w.raw.Delete(w.t.Context(), pod))
	}
	w.kubeletOf(name)
}

func (w *world) changePod(change func(*corev1.Pod)) { w.changePodNamed(subject.Name, change) }

func (w *world) changePodNamed(name string, change func(*corev1.Pod)) {
	pod := w.podNamed(name)
	change(pod)
	status := pod.Status
	require.NoError(w.t, w.raw.Update(w.t.Context(), pod))
	pod.Status = status
	require.NoError(w.t, w.raw.Status().Update(w.t.Context(), pod))
}

// agentWrites is an agent's optimistic status update.
func (w *world) agentWrites(change func(*v1alpha1.CheckpointStatus)) {
	ck := w.checkpointNamed(w.point)
	change(&ck.Status)
	require.NoError(w.t, w.raw.Status().Update(w.t.Context(), ck))
}

// notice: the source agent begins to evacuate the bearer.
func (w *world) notice() {
	at := metav1.NewMicroTime(w.now)
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		s.Timeline = &v1alpha1.Timeline{PodUID: s.Pod.UID, Notice: &at}
		s.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionUnknown, v1alpha1.ReasonEvacuating, "")
	})
}

// commit: the final generation is durable.
func (w *world) commit() {
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		number := int64(1)
		if s.Generation != nil {
			number = s.Generation.Number + 1
		}
		s.Generation = &v1alpha1.GenerationReference{
			Number: number, Epoch: s.Epoch, PodUID: s.Timeline.PodUID, NodeName: s.Pod.NodeName, Final: true, Time: metav1.NewMicroTime(w.now),
		}
		s.SetCondition(v1alpha1.ConditionDurable, metav1.ConditionTrue, v1alpha1.ReasonCommitted, "")
		s.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionTrue, v1alpha1.ReasonFinalGeneration, "")
	})
}

// dumpFails: the evacuation ends without a generation.
func (w *world) dumpFails() {
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		s.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionFalse, v1alpha1.ReasonDumpFailed, "")
	})
}

// claim: the pod is bound to the node and its agent claims the newest generation.
func (w *world) claim(node string) { w.claimFor(subject.Name, node) }

func (w *world) claimFor(name, node string) {
	w.changePodNamed(name, func(pod *corev1.Pod) { pod.Spec.NodeName = node })
	pod := w.podNamed(name)
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		s.Epoch++
		s.Claim = &v1alpha1.Claim{Generation: s.Generation.Number, Epoch: s.Epoch, NodeName: node, PodName: pod.Name, PodUID: pod.UID, Time: metav1.NewMicroTime(w.now)}
		s.SetCondition(v1alpha1.ConditionClaimed, metav1.ConditionTrue, v1alpha1.ReasonClaimed, "")
		s.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionUnknown, v1alpha1.ReasonRestoreImpending, "")
	})
}

// resumed: the process runs again.
func (w *world) resumed() { w.resumedFor(subject.Name) }

func (w *world) resumedFor(name string) {
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		s.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored, "")
	})
	w.changePodNamed(name, func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodRunning })
}

func (w *world) setNode(name string, change func(*corev1.Node)) {
	node := &corev1.Node{}
	require.NoError(w.t, w.raw.Get(w.t.Context(), client.ObjectKey{Name: name}, node))
	change(node)
	status := node.Status
	require.NoError(w.t, w.raw.Update(w.t.Context(), node))
	node.Status = status
	require.NoError(w.t, w.raw.Status().Update(w.t.Context(), node))
}
