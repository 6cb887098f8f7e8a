package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Node is this node's object.
type Node struct {
	Name   string
	Client kubernetes.Interface
}

// Taint puts the evacuation taint on the node, or takes it off. It is no error where nothing is to be changed.
func (n Node) Taint(ctx context.Context, evacuating bool) error {
	err := n.update(ctx, func(node *corev1.Node) bool {
		i := slices.IndexFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintEvacuating })
		if (i >= 0) == evacuating {
			return false
		}
		if evacuating {
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{
				Key: v1alpha1.TaintEvacuating, Effect: corev1.TaintEffectNoSchedule,
			})
		} else {
			node.Spec.Taints = slices.Delete(node.Spec.Taints, i, i+1)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("taint node %s: %w", n.Name, err)
	}
	return nil
}

// Publish labels the node as able to restore, which the RuntimeClass selects, and with what it offers. Of the latter a
// label with an empty value is removed.
func (n Node) Publish(ctx context.Context, offers map[string]string) error {
	err := n.update(ctx, func(node *corev1.Node) bool {
		before := maps.Clone(node.Labels)
		metav1.SetMetaDataLabel(&node.ObjectMeta, v1alpha1.LabelRuntimeReady, "true")
		for label, value := range offers {
			if value == "" {
				delete(node.Labels, label)
			} else {
				node.Labels[label] = value
			}
		}
		return !maps.Equal(before, node.Labels)
	})
	if err != nil {
		return fmt.Errorf("label node %s: %w", n.Name, err)
	}
	return nil
}

// HasHandler reports whether the node's kubelet lists our runtime handler.
func (n Node) HasHandler(ctx context.Context) (bool, error) {
	node, err := n.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("get node %s: %w", n.Name, err)
	}
	return slices.ContainsFunc(node.Status.RuntimeHandlers, func(h corev1.NodeRuntimeHandler) bool {
		return h.Name == v1alpha1.RuntimeClassName
	}), nil
}

// Follow watches the node's object until ctx ends, and tells whether it is to be doubted that the cluster counts on this node:
// the object is gone, or its kubelet is not heard of, or it was declared to be out of service. renewed is called when another
// object has taken its place, which has none of the labels that were published. Both return at once.
func (n Node) Follow(ctx context.Context, tell func(doubted bool), renewed func()) error {
	informer := coreinformers.NewFilteredNodeInformer(n.Client, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.Name).String()
	})
	var known types.UID // an informer calls one handler at a time
	seen := func(o any) {
		node, ok := o.(*corev1.Node)
		if !ok {
			return
		}
		if known != "" && known != node.UID {
			renewed()
		}
		known = node.UID
		tell(doubtful(node))
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, o any) { seen(o) }, DeleteFunc: func(any) { tell(true) },
	})
	if err != nil {
		return fmt.Errorf("watch node %s: %w", n.Name, err)
	}
	informer.RunWithContext(ctx)
	return nil
}

func doubtful(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) ||
		slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
		})
}

// update reads, changes and writes the node, anew on conflict, where change says that there is something to write.
func (n Node) update(ctx context.Context, change func(*corev1.Node) bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := n.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil || !change(node) {
			return err
		}
		_, err = n.Client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
		return err
	})
}

// taintEvery is the wait between tries.
const taintEvery = time.Second

// Tainter keeps the node's evacuation taint as wanted.
type Tainter struct {
	node Node
	log  zerolog.Logger

	mu     sync.Mutex
	wanted *bool
	wake   chan struct{}
}

// NewTainter returns a Tainter of node; Run makes it work.
func NewTainter(node Node, log zerolog.Logger) *Tainter {
	return &Tainter{node: node, log: log, wake: make(chan struct{}, 1)}
}

// Want says how the taint should be. It does not block; the newest wish counts.
func (t *Tainter) Want(evacuating bool) {
	t.mu.Lock()
	t.wanted = &evacuating
	t.mu.Unlock()
	t.lookAgain()
}

// Ensure taints the node before it returns, whatever is wanted: Run then takes the taint off again where the notice has
// been withdrawn meanwhile.
func (t *Tainter) Ensure(ctx context.Context) error {
	defer t.lookAgain()
	return t.node.Taint(ctx, true)
}

func (t *Tainter) lookAgain() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Run does what is wanted, again and again until it has succeeded, until ctx ends.
func (t *Tainter) Run(ctx context.Context) error {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
		case <-again:
		}
		again = nil
		t.mu.Lock()
		wanted := t.wanted
		t.mu.Unlock()
		if wanted == nil {
			continue
		}
		if err := t.node.Taint(ctx, *wanted); err != nil {
			t.log.Warn().Err(err).Msg("node not tainted as wanted, trying again")
			again = time.After(taintEvery)
		}
	}
}
