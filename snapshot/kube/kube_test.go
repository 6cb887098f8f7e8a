package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints/checkpointstest"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

type containers []snapshot.Container

func (c containers) Containers(context.Context) ([]snapshot.Container, error) { return c, nil }

// stage is a node with one protected pod and its Checkpoint.
func stage(t *testing.T) (*Journal, *checkpointstest.Server, snapshot.Target) {
	t.Helper()
	checkpoint := &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "job", UID: "ckpt-1"},
		Status:     v1alpha1.CheckpointStatus{Pod: &v1alpha1.PodReference{Name: "job", UID: "pod-1", NodeName: "a"}, Epoch: 3},
	}
	checkpoint.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionTrue, v1alpha1.ReasonProtected, "")
	server := checkpointstest.New(t, checkpoint)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "job", UID: "pod-1", Labels: map[string]string{v1alpha1.LabelProtect: "true"}},
		Spec:       corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Image: "job:1", ImageID: "job@sha256:1"}}},
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	own := Node{Name: "a", Client: fake.NewClientset(pod, node)}
	j := &Journal{
		Node: own, Tainter: NewTainter(own, zerolog.Nop()), Checkpoints: server.Client, Events: record.NewFakeRecorder(10),
		Runtime: containers{
			{ID: "c1", PodUID: "pod-1", Namespace: "ns", Pod: "job", Name: "main", Status: snapshot.StatusRunning},
			{ID: "c0", PodUID: "pod-1", Namespace: "ns", Pod: "job", Name: "main", Status: snapshot.StatusStopped},
			{ID: "x", PodUID: "other", Status: snapshot.StatusRunning},
		},
	}
	targets, err := j.Targets(t.Context())
	require.NoError(t, err)
	require.Len(t, targets, 1)
	return j, server, targets[0]
}

func TestTargets(t *testing.T) {
	j, server, target := stage(t)
	require.Len(t, target.Containers, 1)
	require.Empty(t, target.Missing)
	require.Equal(t, "c1", target.Containers[0].ID)
	require.Equal(t, "ckpt-1", target.CheckpointUID)
	require.EqualValues(t, 3, target.Epoch)
	require.Equal(t, "job@sha256:1", target.Containers[0].ImageDigest)
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.Checkpoint)
		want   int
		final  bool
	}{
		{"not protectable", func(c *v1alpha1.Checkpoint) {
			c.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonHostPID, "")
		}, 0, false},
		{"not dumpable, which is looked at again", func(c *v1alpha1.Checkpoint) {
			c.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonIOUring, "")
		}, 1, false},
		{"checkpoint of another pod", func(c *v1alpha1.Checkpoint) { c.Status.Pod.UID = "pod-2" }, 0, false},
		{"final already", func(c *v1alpha1.Checkpoint) {
			c.Status.Generation = &v1alpha1.GenerationReference{Number: 1, PodUID: "pod-1", Final: true}
		}, 1, true},
		{"final generation of the pod before", func(c *v1alpha1.Checkpoint) {
			c.Status.Generation = &v1alpha1.GenerationReference{Number: 1, PodUID: "pod-0", Final: true}
		}, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := server.Get("ns", "job")
			server.Edit("ns", "job", c.change)
			targets, err := j.Targets(t.Context())
			server.Edit("ns", "job", func(now *v1alpha1.Checkpoint) { now.Status = before.Status })
			require.NoError(t, err)
			require.Len(t, targets, c.want)
			if c.want > 0 {
				require.Equal(t, c.final, targets[0].Final)
			}
		})
	}
	server.Delete("ns", "job")
	targets, err := j.Targets(t.Context())
	require.NoError(t, err)
	require.Empty(t, targets)
}

func TestDamaged(t *testing.T) {
	claimed := v1alpha1.CheckpointStatus{Claim: &v1alpha1.Claim{Generation: 2}}
	require.False(t, damaged(&v1alpha1.CheckpointStatus{}))
	require.False(t, damaged(&claimed))
	clean := *claimed.DeepCopy()
	clean.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonStartedClean, "")
	require.True(t, damaged(&clean))
	claimed.Claim.Fallback = &v1alpha1.Fallback{}
	require.True(t, damaged(&claimed))
}

func TestFinalIsWrittenOnceAndTaintsFirst(t *testing.T) {
	j, server, target := stage(t)
	now := time.Now()
	m := snapshot.Moments{Notice: now, Deadline: now.Add(time.Minute), Frozen: now, Dumped: now, Durable: now}
	require.NoError(t, j.Begun(t.Context(), target, snapshot.Moments{Notice: now, Deadline: m.Deadline}))
	g := snapshot.Committed{Number: 1, Epoch: 3, StoredBytes: 10, RSSBytes: 20}
	server.Before = func() {
		node, err := j.Node.Client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, v1alpha1.TaintEvacuating, node.Spec.Taints[0].Key, "the replacement must not come back here")
	}
	require.NoError(t, j.Final(t.Context(), target, g, m))
	status := server.Get("ns", "job").Status
	require.NotNil(t, status.UnclaimedGeneration())
	require.Equal(t, v1alpha1.ReasonWaiting, status.Condition(v1alpha1.ConditionRestored).Reason, "that of an interruption before does not stand any more")
	require.Equal(t, snapshot.Committed{Number: status.Generation.Number, Epoch: status.Generation.Epoch, StoredBytes: 10, RSSBytes: 20}, g)

	// The answer was lost; by now others have gone on from what was written.
	released := metav1.NowMicro()
	server.Edit("ns", "job", func(c *v1alpha1.Checkpoint) {
		c.Status.Pod.UID, c.Status.Pod.NodeName = "pod-2", "b"
		c.Status.Timeline.Released = &released
	})
	require.NoError(t, j.Final(t.Context(), target, g, m), "an error here could thaw a source whose job runs elsewhere")
	require.NotNil(t, server.Get("ns", "job").Status.Timeline.Released)
}

func TestFinalWithoutACheckpointOfThisPod(t *testing.T) {
	j, server, target := stage(t)
	server.Edit("ns", "job", func(c *v1alpha1.Checkpoint) { c.Status.Pod.UID = "pod-2" })
	g := snapshot.Committed{Number: 1, Epoch: 3}
	require.ErrorIs(t, j.Final(t.Context(), target, g, snapshot.Moments{}), snapshot.ErrUnprotected)
	server.Delete("ns", "job")
	require.ErrorIs(t, j.Final(t.Context(), target, g, snapshot.Moments{}), snapshot.ErrUnprotected)
	require.NoError(t, j.Failed(t.Context(), target, v1alpha1.ReasonDumpFailed, ""), "nobody is left to be told")
}

// A final generation that an earlier life of the agent wrote lands late: it stands, and its source must not run on.
func TestFailedDoesNotOverwriteFinal(t *testing.T) {
	j, server, target := stage(t)
	require.NoError(t, j.Final(t.Context(), target, snapshot.Committed{Number: 1, Epoch: 3}, snapshot.Moments{}))
	require.Error(t, j.Failed(t.Context(), target, v1alpha1.ReasonDumpFailed, "no"))
	status := server.Get("ns", "job").Status
	require.True(t, status.IsTrue(v1alpha1.ConditionEvacuated))
}

// The API server takes a write that changes nothing without giving the object another version.
func TestFailedFencesWhereTheSameWasSaidBefore(t *testing.T) {
	j, server, target := stage(t)
	require.NoError(t, j.Failed(t.Context(), target, v1alpha1.ReasonThawed, "thawed"))
	before := server.Get("ns", "job").Status.Condition(v1alpha1.ConditionEvacuated).Message
	require.Equal(t, "thawed", before)
	require.NoError(t, j.Failed(t.Context(), target, v1alpha1.ReasonThawed, "thawed"))
	require.NotEqual(t, before, server.Get("ns", "job").Status.Condition(v1alpha1.ConditionEvacuated).Message)
}

func TestAConflictingWriteIsDecidedAnew(t *testing.T) {
	j, server, target := stage(t)
	var conflicts int
	server.Before = func() {
		if conflicts++; conflicts == 1 {
			server.Edit("ns", "job", func(c *v1alpha1.Checkpoint) {
				c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionFalse, v1alpha1.ReasonThawed, "")
			})
		}
	}
	require.NoError(t, j.Begun(t.Context(), target, snapshot.Moments{}))
	require.Equal(t, 2, conflicts, "the first write met a newer version and was decided anew")
}

func TestSafetyAndVerdictLetNobodyRestore(t *testing.T) {
	j, server, target := stage(t)
	now := time.Now()
	require.NoError(t, j.Safety(t.Context(), target, snapshot.Committed{Number: 4, Epoch: 3, StoredBytes: 10, RSSBytes: 20}, now))
	status := server.Get("ns", "job").Status
	require.EqualValues(t, 4, status.Safety.Number)
	require.False(t, status.Safety.Final)
	require.Nil(t, status.Generation)
	require.Nil(t, status.UnclaimedGeneration())
	require.Nil(t, status.Timeline)

	v := snapshot.Verdict{Level: snapshot.AtRisk, Reason: snapshot.ReasonNeighbours, Message: "too many"}
	require.NoError(t, j.Judged(t.Context(), target, v, snapshot.Prediction{Durable: 2345 * time.Millisecond, Uploaded: 12_345_678}))
	status = server.Get("ns", "job").Status
	require.Equal(t, "AtRisk", status.Protection.Level)
	require.Equal(t, "12Mi", status.Protection.Dirty.String())
	require.Equal(t, 2300*time.Millisecond, status.Protection.Window.Duration)
	current := status.Condition(v1alpha1.ConditionCurrent)
	require.Equal(t, metav1.ConditionFalse, current.Status)
	require.Equal(t, "AtRisk: too many", current.Message)
	require.NoError(t, j.Judged(t.Context(), target, snapshot.Verdict{Reason: snapshot.ReasonWithinShare}, snapshot.Prediction{Uploaded: 1}))
	require.True(t, server.Get("ns", "job").Status.IsTrue(v1alpha1.ConditionCurrent))

	target.PodUID = "pod-2"
	require.ErrorIs(t, j.Judged(t.Context(), target, v, snapshot.Prediction{}), snapshot.ErrUnprotected)
	require.ErrorIs(t, j.Safety(t.Context(), target, snapshot.Committed{Number: 5}, now), snapshot.ErrUnprotected)
}

func TestReasonsOfVerdictsAreThoseOfTheCondition(t *testing.T) {
	for _, reason := range []string{
		snapshot.ReasonWithinShare, snapshot.ReasonOff, snapshot.ReasonFactsRefused, snapshot.ReasonFirstRound,
		snapshot.ReasonNoSafetyDump, snapshot.ReasonFreezeTooLong, snapshot.ReasonRoundsLate, snapshot.ReasonNeighbours,
		snapshot.ReasonMemoryTooLarge, snapshot.ReasonChangesTooFast, snapshot.ReasonFilesTooLarge, v1alpha1.ReasonIOUring,
	} {
		require.True(t, v1alpha1.KnownReason(v1alpha1.ConditionCurrent, reason), reason)
	}
}

func TestLivenessProbeBoundsTheFreeze(t *testing.T) {
	main := corev1.Container{Name: "main", LivenessProbe: &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 3, TimeoutSeconds: 2}}
	fragile, free := corev1.Container{Name: "fragile", LivenessProbe: &corev1.Probe{}}, corev1.Container{Name: "free"}
	sidecar, init := fragile, fragile
	sidecar.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	for _, c := range []struct {
		name, asked      string
		init, containers []corev1.Container
		want             time.Duration
	}{
		{"the probe is shorter", "1m", nil, []corev1.Container{main}, 22 * time.Second},
		{"the owner asks for less", "2s", nil, []corev1.Container{main}, 2 * time.Second},
		{"no probe", "2s", nil, []corev1.Container{free}, 2 * time.Second},
		{"not understood", "2", nil, []corev1.Container{main}, 22 * time.Second},
		{"the shortest of several", "1m", nil, []corev1.Container{main, fragile, free}, time.Second},
		{"that of a native sidecar counts", "1m", []corev1.Container{sidecar}, []corev1.Container{main}, time.Second},
		{"that of an init container does not", "1m", []corev1.Container{init}, []corev1.Container{main}, 22 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: c.init, Containers: c.containers}}
			pod.Annotations = map[string]string{v1alpha1.AnnotationMaxFreeze: c.asked, v1alpha1.AnnotationInterval: "10s"}
			require.Equal(t, snapshot.TargetSettings{MaxFreeze: c.want, Interval: 10 * time.Second}, settingsOf(pod))
		})
	}
}

func TestLeaving(t *testing.T) {
	j, _, target := stage(t)
	leaving, err := j.Leaving(t.Context(), target)
	require.NoError(t, err)
	require.False(t, leaving)
	target.PodUID = "pod-0"
	leaving, err = j.Leaving(t.Context(), target)
	require.NoError(t, err)
	require.True(t, leaving, "another pod bears the name")
}

func TestNode(t *testing.T) {
	ctx := t.Context()
	client := fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{v1alpha1.LabelCRIU: "40200"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}},
	})
	n := Node{Name: "a", Client: client}
	for range 2 {
		require.NoError(t, n.Taint(ctx, true))
		require.NoError(t, n.Publish(ctx, map[string]string{v1alpha1.LabelKernel: "61800", v1alpha1.LabelCRIU: ""}))
	}
	node, err := client.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
	require.NoError(t, err)
	require.Len(t, node.Spec.Taints, 2)
	require.Equal(t, map[string]string{v1alpha1.LabelRuntimeReady: "true", v1alpha1.LabelKernel: "61800"}, node.Labels)
	require.NoError(t, n.Taint(ctx, false))
	node, err = client.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}, node.Spec.Taints)
}

func TestTaintOfAWithdrawnNoticeIsTakenOffAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
		tainter := NewTainter(Node{Name: "a", Client: client}, zerolog.Nop())
		ended := make(chan error)
		go func() { ended <- tainter.Run(ctx) }()
		taints := func() int {
			synctest.Wait()
			node, err := client.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
			require.NoError(t, err)
			return len(node.Spec.Taints)
		}
		require.NoError(t, tainter.Ensure(ctx))
		require.Equal(t, 1, taints(), "nothing is wanted yet")
		tainter.Want(true)
		require.Equal(t, 1, taints())
		tainter.Want(false)
		require.Equal(t, 0, taints())
		require.NoError(t, tainter.Ensure(ctx))
		require.Equal(t, 0, taints(), "an evacuation that ends after its notice leaves no taint")
		cancel()
		require.NoError(t, <-ended)
	})
}
