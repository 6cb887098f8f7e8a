package scale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/kube"
)

const (
	// window is what a notice leaves a node, dumping how long a played dump takes, dumpsAtOnce how many pods of a node are
	// dumped side by side.
	window, dumping, dumpsAtOnce = 2 * time.Minute, time.Second, 4
	// lookEvery is the first wait of a new pod for what it is to go on from, looks how often it looks: the wait doubles up to
	// lookAtMost, as the agent's.
	lookEvery, lookAtMost, looks = 250 * time.Millisecond, 4 * time.Second, 12
)

// agent is the agent of a node.
type agent struct {
	node    string
	points  *checkpoints.Client
	events  record.EventRecorder
	journal *kube.Journal
}

// agents are those that were needed so far.
type agents struct {
	mu     sync.Mutex
	all    map[string]*agent
	events []record.EventBroadcaster
}

// end ends what they have begun.
func (a *agents) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.events {
		b.Shutdown()
	}
}

func (l *lab) agentOf(node string) (*agent, error) {
	l.agents.mu.Lock()
	defer l.agents.mu.Unlock()
	if a := l.agents.all[node]; a != nil {
		return a, nil
	}
	config := l.api.agent(node)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of an agent: %w", err)
	}
	points, err := checkpoints.New(config)
	if err != nil {
		return nil, err
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	l.agents.events = append(l.agents.events, broadcaster)
	a := &agent{node: node, points: points, events: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "lifeboat-agent", Host: node})}
	own := kube.Node{Name: node, Client: client}
	a.journal = &kube.Journal{
		Node: own, Tainter: kube.NewTainter(own, zerolog.Nop()), Checkpoints: points, Runtime: containers{l.world, node}, Events: a.events,
		Requirements: offer.Requirements(),
	}
	if l.agents.all == nil {
		l.agents.all = map[string]*agent{}
	}
	l.agents.all[node] = a
	return a, nil
}

// containers are those of a node, one a pod.
type containers struct {
	world *world
	node  string
}

// Containers implements kube.Lister.
func (c containers) Containers(context.Context) ([]snapshot.Container, error) {
	var all []snapshot.Container
	for _, pod := range c.world.of(c.node) {
		all = append(all, snapshot.Container{
			ID: string(pod.UID), Status: snapshot.StatusRunning, Namespace: pod.Namespace, Pod: pod.Name, PodUID: string(pod.UID), Name: "job",
		})
	}
	return all, nil
}

// key names a Checkpoint.
type key struct{ namespace, name string }

// leave is what the agent of a node asks from the notice on.
func (l *lab) leave(ctx context.Context, node string, r *reclaimed) error {
	a, err := l.agentOf(node)
	if err != nil {
		return err
	}
	m := snapshot.Moments{Notice: time.Now(), Deadline: time.Now().Add(window)}
	targets, err := a.journal.Targets(ctx)
	if err != nil {
		return err
	}
	r.expect(len(targets))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dumpsAtOnce)
	for _, t := range targets {
		group.Go(func() error { return l.evacuate(ctx, a, t, m, r) })
	}
	return group.Wait()
}

func (l *lab) evacuate(ctx context.Context, a *agent, t snapshot.Target, m snapshot.Moments, r *reclaimed) error {
	if err := a.journal.Begun(ctx, t, m); err != nil {
		return err
	}
	m.Frozen = time.Now()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(dumping):
	}
	m.Dumped, m.Durable = time.Now(), time.Now()
	err := a.journal.Final(ctx, t, snapshot.Committed{Number: 1, Epoch: t.Epoch, StoredBytes: 1 << 28, RSSBytes: 1 << 30, WindowBytes: 1 << 20}, m)
	for tries := 0; apierrors.IsConflict(err) && tries < looks; tries++ {
		err = a.journal.Final(ctx, t, snapshot.Committed{Number: 1, Epoch: t.Epoch}, m)
	}
	if err == nil {
		r.final(key{t.Namespace, t.Checkpoint}, time.Now())
	}
	return err
}

// goOn is what agent and kubelet of a node ask from the moment that a new pod is bound to it.
func (l *lab) goOn(ctx context.Context, pod *corev1.Pod, came arrival) error {
	a, err := l.agentOf(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	wait := lookEvery
	for range looks {
		name, err := a.claim(ctx, pod)
		if err != nil && !apierrors.IsConflict(err) {
			return err
		}
		if name != "" {
			return l.resume(ctx, a, pod, key{pod.Namespace, name}, came)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, lookAtMost)
		}
	}
	if r := l.under(); r != nil {
		r.clean()
	}
	return l.runs(ctx, pod)
}

// errTaken: another pod was first.
var errTaken = errors.New("claimed by another pod")

// claim makes the pod the one that goes on from what waits for it; empty where nothing does.
func (a *agent) claim(ctx context.Context, pod *corev1.Pod) (string, error) {
	points, err := a.points.Of(ctx, pod)
	if err != nil {
		return "", err
	}
	relation, point := identity.Find(pod, points, nil, time.Now())
	if relation != identity.Waiting {
		return "", nil
	}
	_, err = a.points.UpdateStatus(ctx, pod.Namespace, point.Name, func(c *v1alpha1.Checkpoint) error {
		if !identity.Claimable(c, pod.UID) {
			return errTaken
		}
		now, s := metav1.NowMicro(), &c.Status
		s.Epoch++
		s.Claim = &v1alpha1.Claim{
			Generation: s.Generation.Number, Epoch: s.Epoch, NodeName: a.node, PodName: pod.Name, PodUID: pod.UID, Attempts: 1, Time: now,
		}
		s.Timeline.Claimed = &now
		s.SetCondition(v1alpha1.ConditionClaimed, metav1.ConditionTrue, v1alpha1.ReasonClaimed, "by pod UID "+string(pod.UID))
		s.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionUnknown, v1alpha1.ReasonRestoreImpending, "attempt 1")
		return nil
	})
	if errors.Is(err, errTaken) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	a.events.Event(referenceTo(pod), corev1.EventTypeNormal, v1alpha1.ReasonClaimed, "restoring generation 1 of checkpoint "+point.Name)
	return point.Name, nil
}

func referenceTo(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}

// resume is the rest, with nothing to fetch and nothing to restore.
func (l *lab) resume(ctx context.Context, a *agent, pod *corev1.Pod, k key, came arrival) error {
	write := func(change func(*v1alpha1.CheckpointStatus, *metav1.MicroTime)) error {
		_, err := a.points.UpdateStatus(ctx, k.namespace, k.name, func(c *v1alpha1.Checkpoint) error {
			now := metav1.NowMicro()
			change(&c.Status, &now)
			return nil
		})
		return err
	}
	if err := write(func(s *v1alpha1.CheckpointStatus, now *metav1.MicroTime) { s.Timeline.Fetched = now }); err != nil {
		return err
	}
	if err := write(func(s *v1alpha1.CheckpointStatus, now *metav1.MicroTime) {
		s.Timeline.Resumed = now
		s.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored, "generation 1 runs on node "+a.node)
	}); err != nil {
		return err
	}
	a.events.Event(referenceTo(pod), corev1.EventTypeNormal, v1alpha1.ReasonRestored, "goes on from generation 1 of checkpoint "+k.name)
	if r := l.under(); r != nil {
		r.resumed(k, came, time.Now())
	}
	return l.runs(ctx, pod)
}
