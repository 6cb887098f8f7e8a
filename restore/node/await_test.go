package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/rs/zerolog"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/cache"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// waitingRoom is a node whose watch has shown nothing so far, with those pods on the API server.
func waitingRoom(t *testing.T, pods ...*corev1.Pod) *Preparer {
	t.Helper()
	client := fake.NewClientset()
	for _, p := range pods {
		require.NoError(t, client.Tracker().Add(p))
	}
	packs, err := cache.Open(mem.New(), cache.Options{Dir: t.TempDir() + "/prefetch"})
	require.NoError(t, err)
	return New(Options{NodeName: "b", Client: client, Packs: packs, Store: store.New(packs, store.Keyring{{1}}), Log: zerolog.Nop()})
}

func TestFar(t *testing.T) {
	const gib = 1 << 30
	now := time.Unix(10_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	noRoom := fmt.Errorf("keep p: %w", cache.ErrNoRoom)
	for _, c := range []struct {
		name   string
		one    progress
		seen   time.Duration
		before bool // there is a pod that came earlier and has packs here
		far    string
	}{
		{name: "nobody has looked yet", far: unseen},
		{name: "there is nothing to bring", one: progress{looked: true}},
		{name: "little is left", one: progress{looked: true, want: 4 * gib, have: 4*gib - nearBytes, since: ago(time.Hour)}},
		{name: "much is left, and comes fast", one: progress{looked: true, want: 8 * gib, have: 2 * gib, since: ago(10 * time.Second)}},
		{
			name: "much is left, and comes slowly", one: progress{looked: true, want: 8 * gib, have: gib, since: ago(10 * time.Second)},
			far: "1073741824 of 8589934592 bytes are on this node",
		},
		{name: "nothing has come yet", one: progress{looked: true, want: gib, since: now}, far: "0 of 1073741824 bytes are on this node"},
		{name: "others have their turn", one: progress{looked: true, want: gib}, far: "1073741824 bytes, after those of other pods"},
		{name: "for as long as anybody waits", one: progress{looked: true, want: gib}, seen: sandboxWaitAtMost + time.Second},
		{name: "the bucket is down: the create waits for it", one: progress{fault: errDown, want: gib}},
		{name: "no room, though it is the first", one: progress{looked: true, want: 9 * gib, have: gib, fault: noRoom}},
		{
			name: "no room, after another", one: progress{looked: true, want: 9 * gib, have: gib, fault: noRoom}, before: true,
			far: "1073741824 of 9663676416 bytes are on this node, and the rest has room when other pods have been restored",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArrivals(&Options{})
			a.pods["new"] = &arrival{progress: c.one, seen: ago(c.seen)}
			a.pods["later"] = &arrival{progress: progress{have: gib}, seen: now.Add(time.Second)}
			if c.before {
				a.pods["before"] = &arrival{progress: progress{have: gib}, seen: ago(time.Minute)}
			}
			require.Equal(t, c.far, a.far("new", now))
			require.Equal(t, unseen, a.far("stranger", now))
		})
	}
}

func TestSandboxesWaitForWhatIsOnItsWay(t *testing.T) {
	await := func(pod *corev1.Pod) handover.AwaitRequest {
		return handover.AwaitRequest{Namespace: pod.Namespace, Pod: pod.Name, PodUID: string(pod.UID)}
	}
	running := bound(ofJob("new"))
	running.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 1}}
	unlabelled := bound(ofJob("new"))
	unlabelled.Labels = nil
	other := bound(ofJob("new"))
	other.UID = "another"
	far := progress{looked: true, want: 1 << 40}
	for _, c := range []struct {
		name  string
		pod   *corev1.Pod
		asked *corev1.Pod
		state *progress
		after time.Duration // what comes then is near
		took  time.Duration
		fault string
	}{
		{name: "a pod that has run", pod: running},
		{name: "a pod that nobody protects", pod: unlabelled},
		{name: "a pod that is gone", pod: other, asked: bound(ofJob("new"))},
		{name: "a pod that the watch does not show", pod: bound(ofJob("new")), took: strangerWait},
		{name: "nothing to bring", pod: bound(ofJob("new")), state: &progress{looked: true}},
		{name: "it comes meanwhile", pod: bound(ofJob("new")), state: &far, after: 10 * time.Second, took: 10 * time.Second},
		{name: "it does not come", pod: bound(ofJob("new")), state: &far, took: sandboxWait, fault: "1099511627776 bytes, after those of other pods"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := waitingRoom(t, c.pod)
			if c.asked == nil {
				c.asked = c.pod
			}
			synctest.Test(t, func(t *testing.T) {
				one := &arrival{seen: time.Now()}
				if c.state != nil {
					one.progress = *c.state
					p.arrivals.pods = map[types.UID]*arrival{"new": one}
				}
				if c.after > 0 {
					go func() {
						<-time.After(c.after)
						p.arrivals.note(one, func(p *progress) { p.have = p.want })
					}()
				}
				begin := time.Now()
				err := p.Await(t.Context(), await(c.asked))
				require.Equal(t, c.took, time.Since(begin).Truncate(time.Second))
				if c.fault == "" {
					require.NoError(t, err)
					return
				}
				require.ErrorContains(t, err, c.fault)
			})
		})
	}
	require.NoError(t, New(Options{}).Await(t.Context(), handover.AwaitRequest{}), "without a cache nothing is waited for")
}
