package controller

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// by gives a pod its controller, under the name.
func by(owner client.Object, apiVersion, kind, name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Name = name
		p.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: ptr.To(true),
		}}
	}
}

// job puts a Job into the API and returns what makes its pods.
func (w *world) job(change ...func(*batchv1.Job)) (job *batchv1.Job, pod func(name string) func(*corev1.Pod)) {
	job = &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: subject.Namespace, Name: "train", UID: w.uid()}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, c := range change {
		c(job)
	}
	require.NoError(w.t, w.raw.Create(w.t.Context(), job))
	return job, func(name string) func(*corev1.Pod) { return by(job, "batch/v1", "Job", name) }
}

// jobPod is pod train-a of a Job, protected. of makes its other pods.
func (w *world) jobPod() (of func(string) func(*corev1.Pod)) {
	_, of = w.job()
	w.userCreates(of("train-a"))
	w.settle()
	w.on("train-a")
	return of
}

// started: the kubelet says that the pod's container runs.
func (w *world) started(name string) {
	pod := w.podNamed(name)
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	require.NoError(w.t, w.raw.Status().Update(w.t.Context(), pod))
}

func notStarted(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending }

// on has the acts of agents from now on be about the Checkpoint of that name.
func (w *world) on(checkpoint string) { w.point = checkpoint }

// points are the names of all Checkpoints.
func (w *world) points() []string {
	var list v1alpha1.CheckpointList
	require.NoError(w.t, w.raw.List(w.t.Context(), &list))
	var out []string
	for i := range list.Items {
		out = append(out, list.Items[i].Name)
	}
	return out
}

func TestTheCheckpointOfAnOwnedPod(t *testing.T) {
	w := newWorld(t)
	job, of := w.job()
	pod := w.userCreates(of("train-a"))
	w.settle()
	ck := w.checkpointNamed("train-a")
	id, err := identity.Of(pod)
	require.NoError(t, err)
	require.Equal(t, id, ck.Spec.Identity)
	require.Equal(t, identity.Key(id), ck.Labels[v1alpha1.LabelIdentity])
	require.Nil(t, ck.Spec.Template, "its owner makes the replacement")
	require.Equal(t, []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "train", UID: job.UID}}, ck.OwnerReferences)
	require.True(t, ck.Status.IsTrue(v1alpha1.ConditionProtectable))
}

// The claiming pod bears another name. It may claim before the source is gone, and becomes the bearer when that is gone.
func TestAnotherPodContinues(t *testing.T) {
	for name, tc := range map[string]struct{ early bool }{"after the release": {false}, "before the release": {true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, of := w.job()
			source := w.userCreates(of("train-a"))
			w.settle()
			w.on("train-a")
			w.notice()
			w.settleWithin(time.Second)
			w.commit()
			w.userCreates(of("train-b"), notStarted)
			if tc.early {
				w.claimFor("train-b", "b")
				w.settleWithin(time.Second)
				require.Equal(t, source.UID, w.checkpointNamed("train-a").Status.Pod.UID, "the source has still to be removed")
				w.started("train-b")
				w.resumedFor("train-b")
			}
			w.settleWithin(time.Second)
			require.Equal(t, []types.UID{source.UID}, w.evictions)
			w.kubeletOf("train-a")
			w.settleWithin(time.Second)
			if !tc.early {
				require.Equal(t, StageWaiting, StageOf(&w.checkpointNamed("train-a").Status))
				w.claimFor("train-b", "b")
				w.started("train-b")
				w.resumedFor("train-b")
			}
			w.settleWithin(time.Second)
			ck := w.checkpointNamed("train-a")
			require.Equal(t, v1alpha1.PodReference{Name: "train-b", UID: w.podNamed("train-b").UID, NodeName: "b"}, *ck.Status.Pod)
			require.True(t, ck.Status.IsTrue(v1alpha1.ConditionProtectable))
			require.Equal(t, []string{"train-a"}, w.points(), "what continues another needs no Checkpoint of its own")
			require.Empty(t, w.created)

			w.notice() // and once more
			w.commit()
			w.settleWithin(time.Second)
			require.Len(t, w.evictions, 2)
		})
	}
}

func TestANewPodGetsACheckpointWhenItStartsFromTheBeginning(t *testing.T) {
	w := newWorld(t)
	of := w.jobPod()
	w.notice()
	w.userCreates(of("train-b"), notStarted)
	w.settleWithin(time.Second)
	require.Equal(t, []string{"train-a"}, w.points(), "it may yet continue the other")
	w.started("train-b")
	w.settleWithin(time.Second)
	require.ElementsMatch(t, []string{"train-a", "train-b"}, w.points())
}

// The new pod was there before the notice, so it had a Checkpoint of its own.
func TestAnEmptyCheckpointGoesWhenItsPodContinuesAnother(t *testing.T) {
	w := newWorld(t)
	_, of := w.job()
	w.userCreates(of("train-a"))
	w.userCreates(of("train-b"), notStarted)
	w.settle()
	require.ElementsMatch(t, []string{"train-a", "train-b"}, w.points())
	w.on("train-a")
	w.notice()
	w.commit()
	w.claimFor("train-b", "b")
	w.settleWithin(time.Second)
	require.Equal(t, []string{"train-a"}, w.points())
}

func TestACheckpointUnderAnotherName(t *testing.T) {
	w := newWorld(t)
	bare := w.userCreates()
	w.settle()
	w.notice()
	w.commit()
	w.vanish()
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: subject.Namespace, Name: "s", UID: w.uid()}}
	pod := w.userCreates(by(set, "apps/v1", "StatefulSet", subject.Name))
	w.settle()
	require.NotEqual(t, bare.UID, pod.UID)
	id, err := identity.Of(pod)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{subject.Name, identity.OtherName(id)}, w.points())
	require.Equal(t, pod.UID, w.checkpointNamed(identity.OtherName(id)).Status.Pod.UID)
	w.settle()
	require.Len(t, w.points(), 2)
}

func TestWhatBecomesOfALostOwnedPod(t *testing.T) {
	for name, lose := range map[string]func(*world){
		"no final generation": func(w *world) { w.dumpFails(); w.vanishNamed("train-a") },
		"claimed, and the claiming pod left": func(w *world) {
			w.commit()
			w.claimFor("train-b", "b")
			w.vanishNamed("train-a")
			w.vanishNamed("train-b")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			of := w.jobPod()
			w.notice()
			w.userCreates(of("train-b"), notStarted)
			lose(w)
			w.settleWithin(time.Minute)
			require.Equal(t, v1alpha1.ReasonPodLost, w.checkpointNamed("train-a").Status.Condition(v1alpha1.ConditionProtectable).Reason)
			w.settleWithin(lostKept)
			require.Nil(t, w.checkpointNamed("train-a"), "its owner has long made another")
		})
	}
}

func TestAnOrphanedPodIsAnotherJob(t *testing.T) {
	w := newWorld(t)
	_, of := w.job()
	w.userCreates(of("train-a"))
	w.settle()
	before := w.checkpointNamed("train-a").UID
	pod := w.podNamed("train-a")
	pod.OwnerReferences = nil
	require.NoError(t, w.raw.Update(t.Context(), pod))
	w.settle()
	ck := w.checkpointNamed("train-a")
	require.NotEqual(t, before, ck.UID)
	require.Equal(t, v1alpha1.KindPod, ck.Spec.Identity.Kind)
	require.NotNil(t, ck.Spec.Template)
}

func TestForcedRemovalIsADisruption(t *testing.T) {
	w := newWorld(t)
	_, of := w.job()
	source := w.userCreates(of("train-a"))
	w.settle()
	w.on("train-a")
	w.notice()
	w.commit()
	w.setNode("a", unreachable)
	var seen *corev1.Pod
	w.fault = func(applied bool) error {
		if pod := w.podNamed("train-a"); applied && pod != nil {
			seen = pod
		}
		return nil
	}
	w.settleWithin(time.Second)
	require.Equal(t, source.UID, seen.UID)
	require.Equal(t, corev1.PodFailed, seen.Status.Phase, "a Job with a podFailurePolicy waits for that")
	require.Equal(t, corev1.DisruptionTarget, seen.Status.Conditions[0].Type)
	require.Nil(t, w.podNamed("train-a"))
}

// The process dies before or after any one of its writes; whatever starts next brings the path of an owned pod to the same end.
func TestACrashAtAnyWriteOfAnOwnedPodsPath(t *testing.T) {
	for _, afterwards := range []bool{false, true} {
		for k := 1; ; k++ {
			reached := false
			t.Run(fmt.Sprintf("write %d, applied %t", k, afterwards), func(t *testing.T) {
				w := newWorld(t)
				_, of := w.job()
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
				source := w.userCreates(of("train-a"))
				w.on("train-a")
				w.settle()
				w.notice()
				w.userCreates(of("train-b"), notStarted)
				w.commit()
				w.settleWithin(time.Second)
				w.claimFor("train-b", "b")
				w.settleWithin(time.Second)
				w.kubeletOf("train-a")
				w.started("train-b")
				w.resumedFor("train-b")
				w.settleWithin(time.Second)
				require.Equal(t, []string{"train-a"}, w.points())
				s := w.checkpointNamed("train-a").Status
				require.Equal(t, "train-b", s.Pod.Name)
				require.True(t, s.IsTrue(v1alpha1.ConditionEvacuated), "an agent's condition was lost")
				require.True(t, s.IsTrue(v1alpha1.ConditionRestored), "an agent's condition was lost")
				require.Nil(t, w.podNamed("train-a"))
				require.Contains(t, w.evictions, source.UID)
				require.NotContains(t, w.evictions, s.Pod.UID)
			})
			if !reached {
				require.Greater(t, k, 8, "the fault was never reached")
				break
			}
		}
	}
}

// A training operator makes its pods anew under their old names. A pod of another role is another identity, whatever waits.
func TestAnOperatorsPodGoesOnUnderItsName(t *testing.T) {
	w := newWorld(t)
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "train", UID: w.uid()}}
	role := func(role string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels["training.kubeflow.org/replica-type"] = role }
	}
	source := w.userCreates(by(owner, "kubeflow.org/v1", "PyTorchJob", "train-master-0"), role("master"))
	w.settle()
	w.on("train-master-0")
	w.notice()
	w.commit()
	w.settleWithin(time.Second)
	w.kubeletOf("train-master-0")
	w.settleWithin(time.Second)
	w.userCreates(by(owner, "kubeflow.org/v1", "PyTorchJob", "train-worker-0"), role("worker"), notStarted)
	next := w.userCreates(by(owner, "kubeflow.org/v1", "PyTorchJob", "train-master-0"), role("master"), notStarted)
	w.settleWithin(time.Second)
	require.Equal(t, StageWaiting, StageOf(&w.checkpointNamed("train-master-0").Status))
	require.NotNil(t, w.checkpointNamed("train-worker-0"), "it continues nobody")
	w.claimFor("train-master-0", "b")
	w.started("train-master-0")
	w.resumedFor("train-master-0")
	w.settleWithin(time.Second)
	s := w.checkpointNamed("train-master-0").Status
	require.Equal(t, next.UID, s.Pod.UID)
	require.NotEqual(t, source.UID, s.Pod.UID)
	require.True(t, s.IsTrue(v1alpha1.ConditionProtectable))
	require.Len(t, w.points(), 2)
	require.Empty(t, w.created)
}
