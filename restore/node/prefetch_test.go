package node

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/rs/zerolog"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints/checkpointstest"
	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/cache"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// node is a node that watches its pods, with the generations of Job train's first pod in its bucket.
type node struct {
	*Preparer
	server *checkpointstest.Server
	client *fake.Clientset
	bucket *bucket
	cache  string
	packs  int64
}

// newNode runs Prefetch until the test ends, with a generation of about 20 MiB committed.
func newNode(t *testing.T, options cache.Options, status *v1alpha1.CheckpointStatus, pods ...*corev1.Pod) *node {
	t.Helper()
	n := &node{
		server: checkpointstest.New(t, pointOf(t, "old", status)), client: fake.NewClientset(), cache: filepath.Join(t.TempDir(), "prefetch"),
		bucket: &bucket{Bucket: mem.New(), fails: map[string]int{}, reads: map[string]int{}},
	}
	for _, pod := range pods {
		require.NoError(t, n.client.Tracker().Add(pod))
	}
	image := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{2}).Read(image)
	folder := store.Target{Cluster: "c", Namespace: "ns", Name: "old", UID: "ckpt-old"}
	w, err := store.New(n.bucket, store.Keyring{{1}}).Begin(t.Context(), folder, store.Meta{Number: 1, Created: time.Now()}, store.WriteOptions{})
	require.NoError(t, err)
	e := entry(store.TypeRegular, "images/main/pages-1.img")
	e.Size = int64(len(image))
	require.NoError(t, w.Add(t.Context(), e, bytes.NewReader(image)))
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	for info, err := range n.bucket.List(t.Context(), folder.Prefix()+"packs/") {
		require.NoError(t, err)
		n.packs += info.Size
	}
	options.Dir, options.AtOnce = n.cache, 4
	packs, err := cache.Open(n.bucket, options)
	require.NoError(t, err)
	n.Preparer = New(Options{
		NodeName: "b", Cluster: "c", Checkpoints: n.server.Client, Client: n.client, HostRoot: t.TempDir(), WorkDir: "/restore",
		Store: store.New(packs, store.Keyring{{1}}), Packs: packs, Events: record.NewFakeRecorder(100), Log: zerolog.Nop(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Prefetch(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		require.Zero(t, n.options.Packs.Stats().Bytes)
	})
	return n
}

func bound(pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeName, pod.Status.Phase = "b", corev1.PodPending
	return pod
}

func (n *node) requireSoon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 10*time.Second, 5*time.Millisecond, what)
}

func (n *node) whole() bool { return n.options.Packs.Stats().Brought == n.packs }

func (n *node) update(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	_, err := n.client.CoreV1().Pods(pod.Namespace).Update(t.Context(), pod, metav1.UpdateOptions{})
	require.NoError(t, err)
}

// What is brought is in the cache while the pod has not started, is what the fetch reads, and goes then.
func TestPacksAreHereBeforeTheCreateAsks(t *testing.T) {
	running := func(pod *corev1.Pod) {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	}
	for _, c := range []struct {
		name string
		end  func(t *testing.T, n *node, pod *corev1.Pod)
	}{
		{"it runs", func(t *testing.T, n *node, pod *corev1.Pod) { running(pod); n.update(t, pod) }},
		{"it is being deleted", func(t *testing.T, n *node, pod *corev1.Pod) {
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			n.update(t, pod)
		}},
		{"it is gone", func(t *testing.T, n *node, pod *corev1.Pod) {
			require.NoError(t, n.client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}))
		}},
		{"it was restored", func(_ *testing.T, n *node, pod *corev1.Pod) { n.arrivals.end(pod.UID) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := bound(ofJob("new"))
			n := newNode(t, cache.Options{MaxBytes: 1 << 30}, finalOf("old"), pod)
			n.requireSoon(t, "prefetched", n.whole)
			clear(n.bucket.reads)
			reader, err := n.options.Store.Open(t.Context(), store.Target{Cluster: "c", Namespace: "ns", Name: "old", UID: "ckpt-old"}, 1, 0)
			require.NoError(t, err)
			p, of, _ := podOnHost(t)
			trees := opened(t, p, of)
			require.NoError(t, run(t.Context(), reader.Fetch(trees), n.forget(reader)))
			for key := range n.bucket.reads {
				require.NotContains(t, key, "/packs/", "read from the disk")
			}
			require.Equal(t, n.packs, n.options.Packs.Stats().Bytes)
			c.end(t, n, pod)
			n.requireSoon(t, "released", func() bool { return n.options.Packs.Stats().Bytes == 0 })
			left, err := os.ReadDir(n.cache)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestWhatIsNotPrefetched(t *testing.T) {
	elsewhere := bound(ofJob("new"))
	elsewhere.Spec.NodeName = "c"
	unbound := ofJob("new")
	unlabelled := bound(ofJob("new"))
	unlabelled.Labels = nil
	started := bound(ofJob("new"))
	started.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 1}}
	unfit := finalOf("old")
	unfit.Generation.Requirements = map[string]string{placement.Kernel: "6.18"}
	taken := finalOf("old")
	taken.Claim = &v1alpha1.Claim{Generation: 1, PodUID: "another"}
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		status *v1alpha1.CheckpointStatus
	}{
		{"for a pod of another node", elsewhere, finalOf("old")},
		{"for a pod that is bound to none yet", unbound, finalOf("old")},
		{"for a pod that nobody protects", unlabelled, finalOf("old")},
		{"for a pod that has run", started, finalOf("old")},
		{"what this node cannot restore", bound(ofJob("new")), unfit},
		{"what another has claimed", bound(ofJob("new")), taken},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, cache.Options{MaxBytes: 1 << 30}, c.status, c.pod)
			// The one that comes after it has its turn after it.
			next := bound(ofJob("next"))
			next.OwnerReferences = nil
			_, err := n.client.CoreV1().Pods("ns").Create(t.Context(), next, metav1.CreateOptions{})
			require.NoError(t, err)
			n.requireSoon(t, "both seen", func() bool {
				n.arrivals.mu.Lock()
				defer n.arrivals.mu.Unlock()
				return n.arrivals.pods["next"] != nil
			})
			if one := n.arrivals.pods[c.pod.UID]; one != nil {
				here, err := n.arrivals.look(t.Context(), one)
				require.NoError(t, err)
				require.False(t, here)
			}
			require.Zero(t, n.options.Packs.Stats().Brought)
		})
	}
}

// A source that is still being evacuated: what is committed is brought, and what becomes final after it.
func TestWhatIsOnItsWayIsPrefetchedAsItBecomesKnown(t *testing.T) {
	status := finalOf("old")
	final := status.Generation
	status.Generation = nil
	notice := metav1.NowMicro()
	status.Timeline.Notice = &notice
	status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionUnknown, v1alpha1.ReasonEvacuating, "")
	n := newNode(t, cache.Options{MaxBytes: 1 << 30}, status, bound(ofJob("new")))
	n.requireSoon(t, "base brought", n.whole)
	n.server.Edit("ns", "old", func(c *v1alpha1.Checkpoint) {
		c.Status.Generation = final
		c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionTrue, v1alpha1.ReasonFinalGeneration, "")
	})
	// As the loop does at its next look.
	one := &arrival{pod: bound(ofJob("new")), enough: make(chan struct{}), number: 1}
	here, err := n.arrivals.look(t.Context(), one)
	require.NoError(t, err)
	require.True(t, here)
	require.True(t, n.whole(), "what is here is not brought again")
}

func TestAPrefetchThatFindsNoRoomIsCounted(t *testing.T) {
	n := newNode(t, cache.Options{MaxBytes: 1 << 20}, finalOf("old"), bound(ofJob("new")))
	n.requireSoon(t, "counted", func() bool { return counted(t, n.options.Meter, "lifeboat_prefetch_failures_total", "NoRoom") > 0 })
	require.LessOrEqual(t, n.options.Packs.Stats().Bytes, int64(1<<20))
}

// What the create reads itself is not begun any more.
func TestEnoughIsEnough(t *testing.T) {
	n := newNode(t, cache.Options{MaxBytes: 1 << 30}, finalOf("old"))
	one := &arrival{pod: bound(ofJob("new")), end: func() {}, enough: make(chan struct{})}
	n.arrivals.mu.Lock()
	n.arrivals.pods["new"] = one
	n.arrivals.mu.Unlock()
	n.arrivals.enough("new")
	n.arrivals.enough("new")
	n.arrivals.enough(types.UID("unknown"))
	require.NoError(t, n.arrivals.bring(t.Context(), one, store.Target{Cluster: "c", Namespace: "ns", Name: "old", UID: "ckpt-old"}, 1, 0))
	require.Zero(t, n.options.Packs.Stats().Brought)
	n.arrivals.end("new")
}

// Pods that share a key are given different generations.
func TestPodsOfOneJobPrefetchDifferentGenerations(t *testing.T) {
	n := newNode(t, cache.Options{}, finalOf("old"))
	first := &arrival{pod: bound(ofJob("new-0")), end: func() {}, checkpoint: "old"}
	second := &arrival{pod: bound(ofJob("new-1")), end: func() {}}
	n.arrivals.mu.Lock()
	n.arrivals.pods["new-0"], n.arrivals.pods["new-1"] = first, second
	n.arrivals.mu.Unlock()
	require.Equal(t, map[string]bool{"old": true}, n.arrivals.others(second))
	require.Empty(t, n.arrivals.others(first))
}
