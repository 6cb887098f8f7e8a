package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func sorted(all []string) []string {
	slices.Sort(all)
	return all
}

func TestAGenerationThatNobodyNeedsIsGivenUp(t *testing.T) {
	job := func(change func(*batchv1.Job)) client.Object {
		j := &batchv1.Job{}
		change(j)
		return j
	}
	replicas := func(n int32) client.Object { return &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: &n}} }
	set := func(first, n int32) client.Object {
		return &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: &n, Ordinals: &appsv1.StatefulSetOrdinals{Start: first}}}
	}
	complete := []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	for name, tc := range map[string]struct {
		kind  string
		owner client.Object
		index string
		// running and fresh are how many other pods of the owner have started and have not.
		running, fresh int
		kept           bool
	}{
		"Job: its pod is still to be made":        {"Job", job(func(*batchv1.Job) {}), "", 0, 0, true},
		"Job: its pod has not started":            {"Job", job(func(*batchv1.Job) {}), "", 0, 1, true},
		"Job: its pod started from the beginning": {"Job", job(func(*batchv1.Job) {}), "", 1, 0, false},
		"Job: three are wanted, two run":          {"Job", job(func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To(int32(3)) }), "", 2, 0, true},
		"Job: three are wanted, three run":        {"Job", job(func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To(int32(3)) }), "", 3, 0, false},
		"Job: two of three have completed, one runs": {"Job", job(func(j *batchv1.Job) {
			j.Spec.Parallelism, j.Spec.Completions, j.Status.Succeeded = ptr.To(int32(3)), ptr.To(int32(3)), 2
		}), "", 1, 0, false},
		"Job: complete":                    {"Job", job(func(j *batchv1.Job) { j.Status.Conditions = complete }), "", 0, 0, false},
		"Job: suspended":                   {"Job", job(func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }), "", 0, 0, true},
		"Job: gone":                        {"Job", nil, "", 0, 0, false},
		"Indexed Job: its index goes on":   {"Job", job(func(j *batchv1.Job) { j.Status.CompletedIndexes = "0,2-9" }), "1", 0, 0, true},
		"Indexed Job: its index completed": {"Job", job(func(j *batchv1.Job) { j.Status.CompletedIndexes = "0,2-9" }), "5", 0, 0, false},
		"Indexed Job: its index failed":    {"Job", job(func(j *batchv1.Job) { j.Status.FailedIndexes = ptr.To("7") }), "7", 0, 0, false},
		"ReplicaSet: one is missing":       {"ReplicaSet", replicas(2), "", 1, 0, true},
		"ReplicaSet: scaled down":          {"ReplicaSet", replicas(1), "", 1, 0, false},
		"ReplicaSet: rolled out":           {"ReplicaSet", replicas(0), "", 0, 0, false},
		"StatefulSet: within":              {"StatefulSet", set(0, 1), "", 0, 0, true},
		"StatefulSet: scaled down":         {"StatefulSet", set(0, 0), "", 0, 0, false},
		"StatefulSet: begins later":        {"StatefulSet", set(1, 2), "", 0, 0, false},
		"an owner of another kind":         {"TrainingJob", nil, "", 3, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			owner := client.Object(&batchv1.Job{})
			if tc.owner != nil {
				owner = tc.owner
			}
			owner.SetNamespace(subject.Namespace)
			owner.SetName("train")
			owner.SetUID(w.uid())
			if tc.owner != nil {
				require.NoError(t, w.raw.Create(t.Context(), owner))
			}
			groups := map[string]string{"Job": "batch/v1", "ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "TrainingJob": "example.org/v1"}
			index := func(p *corev1.Pod) {
				if tc.index != "" {
					p.Labels[batchv1.JobCompletionIndexAnnotation] = tc.index
				}
			}
			w.userCreates(by(owner, groups[tc.kind], tc.kind, "train-0"), index)
			w.settle()
			w.on("train-0")
			w.notice()
			w.commit()
			w.vanishNamed("train-0")
			w.settleWithin(giveUpAfter - time.Second)
			require.Equal(t, StageWaiting, StageOf(&w.checkpointNamed("train-0").Status), "pods take their time to be made")
			for i := range tc.running + tc.fresh {
				name := "train-" + string(rune('a'+i))
				w.userCreates(by(owner, groups[tc.kind], tc.kind, name), index)
				if i < tc.running {
					w.started(name)
				}
			}
			w.settleWithin(giveUpAfter + time.Second)
			require.Equal(t, tc.kept, w.checkpointNamed("train-0") != nil)
			require.Equal(t, !tc.kept, slices.Contains(w.reasons("Checkpoint"), EventGivenUp))
		})
	}
}

// The set has been given another program while the pod was on its way: that is what its user wants to run.
func TestAStatefulSetsNewRevisionIsAnotherJob(t *testing.T) {
	w := newWorld(t)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: subject.Namespace, Name: "web", UID: w.uid()}}
	require.NoError(t, w.raw.Create(t.Context(), set))
	pod := func(revision string) []func(*corev1.Pod) {
		return []func(*corev1.Pod){by(set, "apps/v1", "StatefulSet", "web-0"), func(p *corev1.Pod) {
			p.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
		}}
	}
	w.userCreates(pod("r1")...)
	w.settle()
	w.on("web-0")
	w.notice()
	w.commit()
	w.vanishNamed("web-0")
	w.settleWithin(time.Second)
	w.userCreates(pod("r2")...)
	w.started("web-0")
	w.settleWithin(time.Second)
	require.Len(t, w.points(), 2)
	w.settleWithin(2 * giveUpAfter)
	require.Nil(t, w.checkpointNamed("web-0"))
	var left v1alpha1.CheckpointList
	require.NoError(t, w.raw.List(t.Context(), &left))
	require.Len(t, left.Items, 1)
	require.Equal(t, "r2", left.Items[0].Spec.Identity.Program)
}
