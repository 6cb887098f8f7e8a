package identity

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

var at = time.Unix(1000, 0)

// point is a Checkpoint of the Job's pods; its bearer is called like it.
func point(t *testing.T, name string, change ...func(*v1alpha1.Checkpoint)) v1alpha1.Checkpoint {
	t.Helper()
	id, err := Of(owned("first", "batch/v1", "Job", "u"))
	require.NoError(t, err)
	c := v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelIdentity: Key(id)}}}
	c.Status.Pod = &v1alpha1.PodReference{Name: name, UID: types.UID(name)}
	for _, f := range change {
		f(&c)
	}
	return c
}

func evacuating(c *v1alpha1.Checkpoint) {
	notice, deadline := metav1.NewMicroTime(at), metav1.NewMicroTime(at.Add(time.Minute))
	c.Status.Timeline = &v1alpha1.Timeline{PodUID: c.Status.Pod.UID, Notice: &notice, Deadline: &deadline}
	c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionUnknown, v1alpha1.ReasonEvacuating, "")
}

func final(seconds int64) func(*v1alpha1.Checkpoint) {
	return func(c *v1alpha1.Checkpoint) {
		evacuating(c)
		c.Status.Generation = &v1alpha1.GenerationReference{Number: 1, PodUID: c.Status.Pod.UID, Final: true, Time: metav1.NewMicroTime(at.Add(time.Duration(seconds) * time.Second))}
		c.Status.SetCondition(v1alpha1.ConditionDurable, metav1.ConditionTrue, v1alpha1.ReasonCommitted, "")
		c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionTrue, v1alpha1.ReasonFinalGeneration, "")
	}
}

// evictedNow has the bearer evicted by somebody else.
func evictedNow(c *v1alpha1.Checkpoint) {
	c.Status.Evicted = &v1alpha1.Evicted{PodUID: c.Status.Pod.UID, Time: metav1.NewMicroTime(at)}
}

// silent: its node does not answer.
func silent(recoverable bool) func(*v1alpha1.Checkpoint) {
	return func(c *v1alpha1.Checkpoint) {
		c.Status.Silence = &v1alpha1.Silence{PodUID: c.Status.Pod.UID, Recoverable: recoverable}
	}
}

// promoted: its node is gone, and its safety generation is to be gone on from; removed says that its pod is gone, too.
func promoted(removed bool) func(*v1alpha1.Checkpoint) {
	return func(c *v1alpha1.Checkpoint) {
		now := metav1.NewMicroTime(at)
		c.Status.Timeline = &v1alpha1.Timeline{PodUID: c.Status.Pod.UID, Lost: &now}
		c.Status.Generation = &v1alpha1.GenerationReference{Number: 1, PodUID: c.Status.Pod.UID, Time: now}
		c.Status.SetCondition(v1alpha1.ConditionDurable, metav1.ConditionTrue, v1alpha1.ReasonCommitted, "")
		c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionFalse, v1alpha1.ReasonNodeLost, "")
		if removed {
			c.Status.Timeline.Released = &now
			c.Status.SetCondition(v1alpha1.ConditionReleased, metav1.ConditionTrue, v1alpha1.ReasonForcedRemoval, "")
		}
	}
}

func claimedBy(uid types.UID) func(*v1alpha1.Checkpoint) {
	return func(c *v1alpha1.Checkpoint) { c.Status.Claim = &v1alpha1.Claim{Generation: 1, PodUID: uid} }
}

func uid(uid types.UID) func(*corev1.Pod) { return func(p *corev1.Pod) { p.UID = uid } }

func started(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

func TestFind(t *testing.T) {
	all := func(points ...v1alpha1.Checkpoint) []v1alpha1.Checkpoint { return points }
	p := func(name string, change ...func(*v1alpha1.Checkpoint)) v1alpha1.Checkpoint {
		return point(t, name, change...)
	}
	for _, c := range []struct {
		name   string
		pod    []func(*corev1.Pod)
		points []v1alpha1.Checkpoint
		taken  map[string]bool
		later  time.Duration
		want   Relation
		which  string
	}{
		{name: "no Checkpoint", want: Nothing},
		{name: "all others run", points: all(p("a"), p("b")), want: Nothing},
		{name: "it bears one", pod: pods(uid("a"), started), points: all(p("b", final(1)), p("a")), want: Own, which: "a"},
		{name: "it bears one and has not started: what waits comes first", pod: pods(uid("a")), points: all(p("b", final(1)), p("a")), want: Waiting, which: "b"},
		{name: "it bears one and has not started, nothing waits", pod: pods(uid("a")), points: all(p("b"), p("a")), want: Own, which: "a"},
		{name: "it holds a claim", points: all(p("b", final(0)), p("a", final(1), claimedBy("new"))), want: Own, which: "a"},
		{name: "it holds a claim, and bears another", points: all(p("new"), p("a", final(1), claimedBy("new"))), want: Own, which: "a"},
		{name: "its own state is stored: never another's", pod: pods(uid("a")), points: all(p("b", final(0)), p("a", final(1))), want: Own, which: "a"},
		{name: "the oldest that waits", points: all(p("b", final(2)), p("c", final(1)), p("a", evacuating)), want: Waiting, which: "c"},
		{name: "the one that it names", pod: pods(annotation(v1alpha1.AnnotationRestoreFrom, "b/1")), points: all(p("b", final(2)), p("c", final(1))), want: Waiting, which: "b"},
		{name: "the one that it names is claimed", pod: pods(annotation(v1alpha1.AnnotationRestoreFrom, "b/1")),
			points: all(p("b", final(2), claimedBy("other")), p("c", final(3))), want: Waiting, which: "c"},
		{name: "those that others are meant for come last", points: all(p("b", final(2)), p("c", final(1))), taken: map[string]bool{"c": true}, want: Waiting, which: "b"},
		{name: "but they come", points: all(p("c", final(1))), taken: map[string]bool{"c": true}, want: Waiting, which: "c"},
		{name: "all claimed", points: all(p("b", final(2), claimedBy("x")), p("c", final(1), claimedBy("y"))), want: Nothing},
		{name: "one is coming", points: all(p("b"), p("c", evacuating)), want: Coming, which: "c"},
		{name: "not to be waited for", pod: pods(annotation(v1alpha1.AnnotationOnWaiting, "start")), points: all(p("c", evacuating)), want: Nothing},
		{name: "another waits for it", points: all(p("c", evacuating)), taken: map[string]bool{"c": true}, want: Nothing},
		{name: "one was evicted in this moment", points: all(p("b"), p("c", evictedNow)), want: Coming, which: "c"},
		{name: "evicted, and no notice has come", points: all(p("c", evictedNow)), later: noticeWithin, want: Nothing},
		{name: "evicted, and not to be waited for", pod: pods(annotation(v1alpha1.AnnotationOnWaiting, "start")), points: all(p("c", evictedNow)), want: Nothing},
		{name: "evicted, and its evacuation failed", points: all(p("c", evictedNow, evacuating, func(c *v1alpha1.Checkpoint) {
			c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionFalse, v1alpha1.ReasonDumpFailed, "")
		})), want: Nothing},
		{name: "evicted, and being evacuated since", points: all(p("c", evictedNow, evacuating)), later: noticeWithin, want: Coming, which: "c"},
		{name: "a pod before the bearer was evicted", points: all(p("c", evictedNow, func(c *v1alpha1.Checkpoint) { c.Status.Evicted.PodUID = "before" })), want: Nothing},
		{name: "evicted as it ended", points: all(p("c", evictedNow, func(c *v1alpha1.Checkpoint) {
			c.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonPodEnded, "")
		})), want: Nothing},
		{name: "its node is silent", points: all(p("b"), p("c", silent(true))), want: Coming, which: "c"},
		{name: "its node is silent, and there is nothing to go back to", points: all(p("c", silent(false))), want: Nothing},
		{name: "silent was the node of the pod before", points: all(p("c", silent(true), func(c *v1alpha1.Checkpoint) { c.Status.Pod.UID = "later" })), want: Nothing},
		{name: "its own node is silent", pod: pods(uid("c"), started), points: all(p("c", silent(true))), want: Own, which: "c"},
		{name: "promoted, its agent may still live", points: all(p("c", promoted(false))), want: Coming, which: "c"},
		{name: "promoted and removed", points: all(p("c", promoted(true))), want: Waiting, which: "c"},
		{name: "promoted and claimed", points: all(p("c", promoted(true), claimedBy("x"))), want: Nothing},
		{name: "a safety generation that nobody has promoted", points: all(p("c", promoted(true), func(c *v1alpha1.Checkpoint) { c.Status.Timeline.Lost = nil })), want: Nothing},
		{name: "it is never to go on", pod: pods(annotation(v1alpha1.AnnotationRecover, "never")), points: all(p("b", final(1)), p("c", evacuating)), want: Nothing},
		{name: "its deadline has passed", points: all(p("c", evacuating)), later: 71 * time.Second, want: Nothing},
		{name: "the evacuation failed", points: all(p("c", evacuating, func(c *v1alpha1.Checkpoint) {
			c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionFalse, v1alpha1.ReasonDumpFailed, "")
		})), want: Nothing},
		{name: "it ended before the notice", points: all(p("c", final(1), func(c *v1alpha1.Checkpoint) {
			c.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonPodEnded, "")
		})), want: Nothing},
		{name: "the Checkpoint is being deleted", points: all(p("c", final(1), func(c *v1alpha1.Checkpoint) {
			now := metav1.NewTime(at)
			c.DeletionTimestamp = &now
		})), want: Nothing},
		{name: "another identity", points: all(p("c", final(1), func(c *v1alpha1.Checkpoint) { c.Labels = nil })), want: Nothing},
		{name: "not labelled", pod: pods(label(v1alpha1.LabelProtect, "false")), points: all(p("c", final(1))), want: Nothing},
		{name: "being created, without a name and UID", pod: pods(uid(""), func(p *corev1.Pod) { p.Name = "" }),
			points: all(p("", func(c *v1alpha1.Checkpoint) { c.Status.Pod.UID = "" }), p("c", final(1))), want: Waiting, which: "c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := owned("new", "batch/v1", "Job", "u", append([]func(*corev1.Pod){uid("new")}, c.pod...)...)
			relation, found := Find(pod, c.points, c.taken, at.Add(c.later))
			require.Equal(t, c.want, relation)
			if c.want == Nothing {
				require.Nil(t, found)
				return
			}
			require.Equal(t, c.which, found.Name)
		})
	}
}

func pods(change ...func(*corev1.Pod)) []func(*corev1.Pod) { return change }
