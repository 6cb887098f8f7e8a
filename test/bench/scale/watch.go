package scale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// players is how many kubelets and agents are at work at a time; most wait.
const players = 512

// one asks for one object, so that the answer says how many more there are.
var one = metav1.ListOptions{Limit: 1}

// world is what this process sees of the pods, and the kubelets that it plays on it.
type world struct {
	lab *lab
	// work is what kubelets and agents have to do; players do it.
	work chan func(context.Context)

	mu     sync.Mutex
	byNode map[string]map[types.UID]*corev1.Pod
	owned  map[types.UID]bool
	// seen are the pods that came since the watch began, dying those that are being ended.
	seen  map[types.UID]*arrival
	dying map[types.UID]bool
	// faults are what went wrong with players.
	faults []error
}

// arrival says when a new pod was seen first, and when it was seen bound.
type arrival struct{ created, bound time.Time }

// watchWorld watches all pods until ctx ends.
func watchWorld(ctx context.Context, l *lab) (*world, error) {
	w := &world{
		lab: l, work: make(chan func(context.Context), 1<<16), byNode: map[string]map[types.UID]*corev1.Pod{}, owned: map[types.UID]bool{},
		seen: map[types.UID]*arrival{}, dying: map[types.UID]bool{},
	}
	factory := informers.NewSharedInformerFactory(l.api, 0)
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    func(o any, first bool) { w.see(o.(*corev1.Pod), first) },
		UpdateFunc: func(_, o any) { w.see(o.(*corev1.Pod), false) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			w.forget(o.(*corev1.Pod))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	for range players {
		go w.play(ctx)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return nil, fmt.Errorf("watch pods: %w", ctx.Err())
	}
	return w, nil
}

func (w *world) play(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case do := <-w.work:
			do(ctx)
		}
	}
}

// fault notes what went wrong, unless it is the end of all.
func (w *world) fault(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, err)
}

// see is what kubelets do when they see a pod: end one that is to go, start one that has come.
func (w *world) see(pod *corev1.Pod, first bool) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if metav1.GetControllerOf(pod) != nil {
		w.owned[pod.UID] = true
	}
	node := pod.Spec.NodeName
	if node != "" {
		if w.byNode[node] == nil {
			w.byNode[node] = map[types.UID]*corev1.Pod{}
		}
		w.byNode[node][pod.UID] = pod
	}
	if pod.DeletionTimestamp != nil && node != "" && !w.dying[pod.UID] {
		w.dying[pod.UID] = true
		w.work <- func(ctx context.Context) { w.fault(w.bury(ctx, pod)) }
	}
	if first || pod.Status.Phase != corev1.PodPending || pod.DeletionTimestamp != nil {
		return
	}
	a := w.seen[pod.UID]
	if a == nil {
		a = &arrival{created: now}
		w.seen[pod.UID] = a
	}
	if node != "" && a.bound.IsZero() {
		a.bound = now
		came := *a
		w.work <- func(ctx context.Context) { w.fault(w.lab.goOn(ctx, pod, came)) }
	}
}

func (w *world) forget(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byNode[pod.Spec.NodeName], pod.UID)
	delete(w.owned, pod.UID)
}

// bury is the kubelet's last word on a pod that has ended.
func (w *world) bury(ctx context.Context, pod *corev1.Pod) error {
	err := w.lab.api.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To(int64(0)), Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// of are the pods of a node.
func (w *world) of(node string) []*corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*corev1.Pod
	for _, pod := range w.byNode[node] {
		all = append(all, pod)
	}
	return all
}

// awaitAdopted waits until ReplicaSets have taken over the pods that are meant for them.
func (w *world) awaitAdopted(ctx context.Context, pods int) error {
	return deploy.Until(ctx, "adoption of pods", func(context.Context) (bool, string, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.owned) >= pods/2, fmt.Sprintf("%d of %d adopted", len(w.owned), pods/2), errors.Join(w.faults...)
	})
}
