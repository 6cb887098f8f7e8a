package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	informer "k8s.io/client-go/tools/cache"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/cache"
)

const (
	// lookEvery is the first wait between two looks at what a pod may continue, lookAtMost the longest.
	lookEvery, lookAtMost = 500 * time.Millisecond, 15 * time.Second
	// arrivalsAtOnce is for how many pods packs are brought at a time, packsAtOnce how many packs of one pod.
	arrivalsAtOnce, packsAtOnce = 4, 8
)

// Prefetch brings packs of generations to this node from the moment that a pod is bound to it which may continue them, until
// ctx ends. It claims nothing and decrypts no pack: the packs lie in the cache as they are in the bucket, and go when the pod
// runs or is gone. Without a cache it only waits for the end of ctx.
func (p *Preparer) Prefetch(ctx context.Context) error {
	if p.arrivals == nil {
		<-ctx.Done()
		return nil
	}
	pods := p.options.Client.CoreV1().Pods(metav1.NamespaceAll)
	ours := func(o *metav1.ListOptions) {
		o.LabelSelector = v1alpha1.LabelProtect + "=true"
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", p.options.NodeName).String()
	}
	_, controller := informer.NewInformerWithOptions(informer.InformerOptions{
		ListerWatcher: informer.ToListWatcherWithWatchListSemantics(&informer.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				ours(&o)
				return pods.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				ours(&o)
				return pods.Watch(ctx, o)
			},
		}, p.options.Client),
		ObjectType: &corev1.Pod{},
		Handler: informer.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { p.arrivals.see(ctx, o.(*corev1.Pod)) },
			UpdateFunc: func(_, o any) { p.arrivals.see(ctx, o.(*corev1.Pod)) },
			DeleteFunc: func(o any) {
				if unseen, ok := o.(informer.DeletedFinalStateUnknown); ok {
					o = unseen.Obj
				}
				if pod, ok := o.(*corev1.Pod); ok {
					p.arrivals.end(pod.UID)
				}
			},
		},
	})
	controller.RunWithContext(ctx)
	p.arrivals.running.Wait()
	return nil
}

// arrivals are the pods of this node that have not started yet. A nil one has none.
type arrivals struct {
	options *Options
	// turns bound for how many of them packs are brought at a time, and so how many manifests are in memory.
	turns   chan struct{}
	running sync.WaitGroup

	mu   sync.Mutex
	pods map[types.UID]*arrival
}

// arrival is one of them.
type arrival struct {
	pod *corev1.Pod
	// end ends all that is done for it; enough is closed when nothing more shall be begun.
	end    context.CancelFunc
	enough chan struct{}
	close  sync.Once
	// checkpoint is the name of the one that packs are brought of.
	checkpoint string
	// number and epoch are of the generation that has been brought.
	number, epoch int64
	// seen is when it came.
	seen time.Time
	progress
}

func newArrivals(options *Options) *arrivals {
	return &arrivals{options: options, turns: make(chan struct{}, arrivalsAtOnce), pods: map[types.UID]*arrival{}}
}

// concerns says whether the pod may be about to go on from something on this node.
func (a *arrivals) concerns(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == a.options.NodeName && pod.Labels[v1alpha1.LabelProtect] == "true" && pod.DeletionTimestamp == nil &&
		pod.Status.Phase == corev1.PodPending && !identity.Started(pod)
}

// see takes a pod up that has not started yet, and lets go of any other.
func (a *arrivals) see(ctx context.Context, pod *corev1.Pod) {
	if !a.concerns(pod) {
		a.end(pod.UID)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pods[pod.UID] != nil {
		return
	}
	ctx, end := context.WithCancel(ctx)
	one := &arrival{pod: pod, end: end, enough: make(chan struct{}), seen: time.Now()}
	a.pods[pod.UID] = one
	a.running.Go(func() {
		defer a.options.Packs.Release(string(pod.UID))
		a.follow(ctx, one)
		<-ctx.Done()
	})
}

// end lets go of a pod: it runs, or is gone.
func (a *arrivals) end(uid types.UID) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if one := a.pods[uid]; one != nil {
		delete(a.pods, uid)
		one.end()
	}
}

// enough has no more packs begun for a pod: its create reads them itself now. Those under way it finds sooner than by reading
// them anew.
func (a *arrivals) enough(uid types.UID) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if one := a.pods[uid]; one != nil {
		one.close.Do(func() { close(one.enough) })
	}
}

// follow looks at what a pod may continue until that is here, or nobody waits for it any more.
func (a *arrivals) follow(ctx context.Context, one *arrival) {
	for wait := lookEvery; ; wait = min(2*wait, lookAtMost) {
		here, err := a.look(ctx, one)
		a.note(one, func(p *progress) { p.fault, p.looked = err, p.looked || err == nil })
		if here {
			return
		}
		if err != nil && ctx.Err() == nil {
			a.options.Meter.notPrefetched(err)
			a.options.Log.Warn().Err(err).Str("namespace", one.pod.Namespace).Str("pod", one.pod.Name).Msg("not prefetched")
		}
		select {
		case <-ctx.Done():
			return
		case <-one.enough:
			return
		case <-time.After(wait):
		}
	}
}

// look finds the generation that the pod may continue and brings its packs. Where it is still on its way, those of the newest
// generation are brought, for most of them will be its own.
func (a *arrivals) look(ctx context.Context, one *arrival) (here bool, err error) {
	points, err := a.options.Checkpoints.Of(ctx, one.pod)
	if err != nil {
		return false, err
	}
	relation, point := identity.Find(one.pod, points, a.others(one), time.Now())
	if relation != identity.Waiting && relation != identity.Coming {
		return false, nil
	}
	folder := store.Target{Cluster: a.options.Cluster, Namespace: point.Namespace, Name: point.Name, UID: string(point.UID)}
	var number, epoch int64
	if relation == identity.Waiting {
		gen := point.Status.Generation
		if placement.Missing(gen.Requirements, a.options.Offer) != nil {
			return false, nil
		}
		number, epoch = gen.Number, gen.Epoch
	} else {
		head, err := a.options.Store.Head(ctx, folder)
		if err != nil {
			return false, err
		}
		number, epoch = head.Number, head.WrittenEpoch
	}
	if number == 0 {
		return false, nil
	}
	if one.number == number && one.epoch == epoch {
		return relation == identity.Waiting, nil
	}
	a.note(one, func(p *progress) {
		one.checkpoint = point.Name
		if g := point.Status.Generation; g != nil && p.want == 0 {
			p.want = g.RSSBytes // until its manifest has been read
		}
		p.looked, p.fault = true, nil
	})
	if err := a.bring(ctx, one, folder, number, epoch); err != nil {
		return false, fmt.Errorf("prefetch generation %d of checkpoint %s: %w", number, point.Name, err)
	}
	one.number, one.epoch = number, epoch
	return relation == identity.Waiting, nil
}

// others are the names of the Checkpoints that packs are brought of for other pods.
func (a *arrivals) others(one *arrival) map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := map[string]bool{}
	for _, other := range a.pods {
		if other != one && other.checkpoint != "" {
			taken[other.checkpoint] = true
		}
	}
	return taken
}

// bring brings the packs of a generation, in the order in which a fetch will ask for them.
func (a *arrivals) bring(ctx context.Context, one *arrival, folder store.Target, number, epoch int64) error {
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-one.enough:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	reader, err := a.options.Store.Open(ctx, folder, number, epoch)
	if err != nil {
		return err
	}
	began, before := time.Now(), a.options.Packs.Stats().Brought
	a.note(one, func(p *progress) { p.want, p.have, p.since = reader.PackBytes(), 0, began })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(packsAtOnce)
	for pack := range reader.Packs() {
		select {
		case <-one.enough:
			return group.Wait()
		case <-ctx.Done():
			return group.Wait()
		default:
		}
		group.Go(func() error {
			err := a.options.Packs.Bring(ctx, string(one.pod.UID), pack.Key, pack.Size)
			if err == nil {
				a.note(one, func(p *progress) { p.have += pack.Size })
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	a.options.Log.Info().Str("namespace", one.pod.Namespace).Str("pod", one.pod.Name).Str("checkpoint", folder.Name).
		Int64("generation", number).Dur("seconds", time.Since(began)).Int64("node_bytes", a.options.Packs.Stats().Brought-before).
		Msg("prefetched")
	return nil
}

// notPrefetched says why, for the metric.
func notPrefetched(err error) string {
	if errors.Is(err, cache.ErrNoRoom) {
		return "NoRoom"
	}
	return "Failed"
}
