package resume

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// moments are when pods were seen to come about.
type moments struct {
	mu  sync.Mutex
	all map[types.UID]*moment
}

// moment is when a pod was first seen, bound to a node, and ready.
type moment struct{ created, bound, ready time.Time }

// follow watches pods until ctx ends.
func follow(ctx context.Context, client kubernetes.Interface) (*moments, error) {
	m := &moments{all: map[types.UID]*moment{}}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceDefault))
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { m.see(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { m.see(o.(*corev1.Pod)) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return nil, fmt.Errorf("watch pods: %w", ctx.Err())
	}
	return m, nil
}

func (m *moments) see(pod *corev1.Pod) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.all[pod.UID]
	if at == nil {
		at = &moment{created: now}
		m.all[pod.UID] = at
	}
	if at.bound.IsZero() && pod.Spec.NodeName != "" {
		at.bound = now
	}
	if at.ready.IsZero() && deploy.PodReady(pod) {
		at.ready = now
	}
}

// of is what was seen of a pod.
func (m *moments) of(uid types.UID) moment {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.all[uid]; at != nil {
		return *at
	}
	return moment{}
}
