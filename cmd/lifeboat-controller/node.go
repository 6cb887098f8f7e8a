package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// ownNode knows whether the node of this process is being evacuated. Until its Node has been seen it says no, so that
// a name that fits no Node keeps nobody from leading.
type ownNode struct {
	mu      sync.Mutex
	leaving bool
	changed chan struct{}
}

func newOwnNode() *ownNode { return &ownNode{changed: make(chan struct{})} }

// look returns what holds now, and a channel that is closed as soon as it no longer does.
func (n *ownNode) look() (leaving bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leaving, n.changed
}

func (n *ownNode) set(leaving bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leaving != leaving {
		n.leaving = leaving
		close(n.changed)
		n.changed = make(chan struct{})
	}
}

func (n *ownNode) seen(o any) {
	if node, ok := o.(*corev1.Node); ok {
		n.set(slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintEvacuating }))
	}
}

// follow watches the one Node of that name until ctx ends.
func (n *ownNode) follow(ctx context.Context, client kubernetes.Interface, name string) error {
	informer := coreinformers.NewFilteredNodeInformer(client, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	})
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    n.seen,
		UpdateFunc: func(_, o any) { n.seen(o) },
	})
	if err != nil {
		return fmt.Errorf("watch node %s: %w", name, err)
	}
	informer.RunWithContext(ctx)
	return nil
}
