package node

import (
	"fmt"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints/checkpointstest"
	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// ofJob is a new pod of Job train.
func ofJob(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{v1alpha1.LabelProtect: "true"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "train", UID: "j", Controller: ptr.To(true)}},
	}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}}
}

// pointOf is a Checkpoint of Job train's, whose first pod has that name.
func pointOf(t *testing.T, name string, status *v1alpha1.CheckpointStatus) *v1alpha1.Checkpoint {
	t.Helper()
	id, err := identity.Of(ofJob(name))
	require.NoError(t, err)
	c := &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("ckpt-" + name), Labels: map[string]string{v1alpha1.LabelIdentity: identity.Key(id)}},
		Spec:       v1alpha1.CheckpointSpec{Identity: id}, Status: *status,
	}
	c.Status.Pod = &v1alpha1.PodReference{Name: name, UID: types.UID(name), NodeName: "a"}
	return c
}

// finalOf is a final generation whose source has not been released.
func finalOf(name string) *v1alpha1.CheckpointStatus {
	s := waiting()
	s.Generation.PodUID, s.Timeline.PodUID, s.Timeline.Released = types.UID(name), types.UID(name), nil
	s.SetCondition(v1alpha1.ConditionReleased, metav1.ConditionFalse, v1alpha1.ReasonEvicting, "")
	return s
}

func preparer(t *testing.T, node string, server *checkpointstest.Server, pods ...*corev1.Pod) *Preparer {
	t.Helper()
	keys, err := store.ParseKeyring([]byte("0000000000000000000000000000000000000000000000000000000000000001"))
	require.NoError(t, err)
	client := fake.NewClientset()
	for _, p := range pods {
		require.NoError(t, client.Tracker().Add(p))
	}
	return New(Options{
		NodeName: node, Cluster: "c", Checkpoints: server.Client, Client: client, HostRoot: t.TempDir(), WorkDir: "/restore",
		Store: store.New(mem.New(), keys), Events: record.NewFakeRecorder(1000), Log: zerolog.Nop(),
	})
}

func requestOf(pod *corev1.Pod) handover.PrepareRequest {
	return handover.PrepareRequest{ContainerID: "c-" + pod.Name, Namespace: pod.Namespace, Pod: pod.Name, PodUID: string(pod.UID), Container: "main"}
}

// Three generations and four new pods of one Job on two nodes, all at once: each generation goes to one pod, no pod gets two,
// and the one that is left over starts as Kubernetes starts it.
func TestGenerationsAndPodsAreMatchedOneToOne(t *testing.T) {
	var points []*v1alpha1.Checkpoint
	for _, name := range []string{"old-0", "old-1", "old-2"} {
		points = append(points, pointOf(t, name, finalOf(name)))
	}
	server := checkpointstest.New(t, points...)
	var group sync.WaitGroup
	created := make([]bool, 4)
	for i := range created {
		pod := ofJob(fmt.Sprintf("new-%d", i))
		p := preparer(t, string(rune('a'+i%2)), server, pod)
		group.Go(func() {
			for range 8 { // a loser looks again
				reply, err := p.step(t.Context(), requestOf(pod))
				if created[i] = err == nil && reply.Action == handover.ActionCreate; created[i] {
					return
				}
			}
		})
	}
	group.Wait()
	holders := map[string]bool{}
	for _, c := range points {
		claim := server.Get("ns", c.Name).Status.Claim
		require.NotNil(t, claim, c.Name)
		require.EqualValues(t, 1, claim.Epoch)
		require.Equal(t, string(claim.PodUID), claim.PodName)
		require.False(t, holders[claim.PodName], "a pod claims once")
		holders[claim.PodName] = true
	}
	for i, clean := range created {
		require.Equal(t, clean, !holders[fmt.Sprintf("new-%d", i)])
	}
}

// A pod in which the frozen container was killed is not started in while its final generation is being recorded.
func TestNothingStartsWhileTheGenerationOfThePodIsRecorded(t *testing.T) {
	pod := ofJob("old")
	p := preparer(t, "a", checkpointstest.New(t, pointOf(t, "old", &v1alpha1.CheckpointStatus{})), pod)
	finishing := true
	p.options.Finishing = func(uid string) bool { return finishing && uid == "old" }
	_, err := p.step(t.Context(), requestOf(pod))
	require.ErrorContains(t, err, "just being recorded")
	require.NotErrorIs(t, err, errRefused, "it is asked again")
	require.NotErrorIs(t, err, errWait, "and never started for having waited")
	finishing = false
	reply, err := p.step(t.Context(), requestOf(pod))
	require.NoError(t, err)
	require.Equal(t, handover.ActionCreate, reply.Action)
}

// The pod's predecessor went with its node while no controller looked. It waits for one to look, unless its owner minds.
func TestANewPodWaitsForTheVerdictOnALostOne(t *testing.T) {
	lost := pointOf(t, "old", &v1alpha1.CheckpointStatus{Safety: &v1alpha1.GenerationReference{Number: 1, PodUID: "old"}})
	server := checkpointstest.New(t, lost)
	step := func(pod *corev1.Pod, nodes ...string) error {
		t.Helper()
		p := preparer(t, "b", server, pod)
		for _, name := range nodes {
			_, err := p.options.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			require.NoError(t, err)
		}
		_, err := p.step(t.Context(), requestOf(pod))
		return err
	}
	require.ErrorIs(t, step(ofJob("new")), errWait)
	require.NoError(t, step(ofJob("new"), "a"), "its sibling's node is there")
	minds := ofJob("new")
	minds.Annotations = map[string]string{v1alpha1.AnnotationOnWaiting: "start"}
	require.NoError(t, step(minds))
	started := ofJob("new")
	started.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: 1}}
	require.NoError(t, step(started))
	server.Edit("ns", "old", func(c *v1alpha1.Checkpoint) {
		c.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonPodEnded, "")
	})
	require.NoError(t, step(ofJob("new")), "it has ended")
}

// leaving is the pod while it is being deleted.
func leaving(pod *corev1.Pod) *corev1.Pod {
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds, pod.Finalizers = ptr.To(metav1.Now()), ptr.To(int64(1)), []string{"test/held"}
	return pod
}

func TestStep(t *testing.T) {
	now := metav1.Now().Rfc3339Copy()
	evacuating := &v1alpha1.CheckpointStatus{Timeline: &v1alpha1.Timeline{PodUID: "old", Notice: ptr.To(metav1.NewMicroTime(now.Time))}}
	evacuating.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionUnknown, v1alpha1.ReasonEvacuating, "")
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		status *v1alpha1.CheckpointStatus
		fault  error
		action string
	}{
		{name: "another runs", pod: ofJob("new"), status: &v1alpha1.CheckpointStatus{}, action: handover.ActionCreate},
		{name: "another is being evacuated", pod: ofJob("new"), status: evacuating, fault: errWait},
		{name: "the source itself, evacuated", pod: ofJob("old"), status: finalOf("old"), fault: errRefused},
		{name: "the source itself, its owner gone since", pod: func() *corev1.Pod {
			pod := ofJob("old")
			pod.OwnerReferences = nil
			return pod
		}(), status: finalOf("old"), fault: errRefused},
		{name: "deleted before it started, and the generation waits for another one", pod: leaving(ofJob("new")), status: finalOf("old"), fault: errRefused},
		{name: "deleted before it started, and another is being evacuated", pod: leaving(ofJob("new")), status: evacuating, fault: errRefused},
		{name: "deleted before it started, and another runs", pod: leaving(ofJob("new")), status: &v1alpha1.CheckpointStatus{}, action: handover.ActionCreate},
		{name: "claimed, and this agent's bucket is another", pod: ofJob("new"), status: finalOf("old"), fault: errElsewhere},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := checkpointstest.New(t, pointOf(t, "old", c.status))
			reply, err := preparer(t, "b", server, c.pod).step(t.Context(), requestOf(c.pod))
			require.ErrorIs(t, err, c.fault)
			require.Equal(t, c.action, reply.Action)
		})
	}
}
