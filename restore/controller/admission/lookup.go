package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Finder is a Lookup on a cache of Checkpoints, labelled pods and nodes.
type Finder struct {
	Reader client.Reader
	Now    func() time.Time
}

// Waiting implements Lookup.
func (f Finder) Waiting(ctx context.Context, pod *corev1.Pod) (*v1alpha1.Checkpoint, error) {
	id, err := identity.Of(pod)
	if errors.Is(err, identity.ErrUnnamed) {
		return nil, nil // its name will be one that no pod has had
	}
	if err != nil {
		return nil, err
	}
	var points v1alpha1.CheckpointList
	err = f.Reader.List(ctx, &points, client.InNamespace(pod.Namespace), client.MatchingLabels{v1alpha1.LabelIdentity: identity.Key(id)})
	if err != nil {
		return nil, fmt.Errorf("list checkpoints of the pod's identity: %w", err)
	}
	if len(points.Items) == 0 {
		return nil, nil
	}
	taken, err := f.taken(ctx, pod.Namespace)
	if err != nil {
		return nil, err
	}
	relation, point := identity.Find(pod, points.Items, taken, f.Now())
	if relation == identity.Waiting || relation == identity.Coming {
		return point, nil
	}
	return nil, nil
}

// taken are the Checkpoints that other pods have been sent after and have not claimed yet.
func (f Finder) taken(ctx context.Context, namespace string) (map[string]bool, error) {
	var pods corev1.PodList
	if err := f.Reader.List(ctx, &pods, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list labelled pods: %w", err)
	}
	taken := map[string]bool{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		name, _, found := strings.Cut(pod.Annotations[v1alpha1.AnnotationRestoreFrom], "/")
		if found && pod.DeletionTimestamp == nil && !identity.Started(pod) {
			taken[name] = true
		}
	}
	return taken, nil
}

// Nodes implements Lookup.
func (f Finder) Nodes(ctx context.Context) ([]map[string]string, error) {
	var nodes corev1.NodeList
	if err := f.Reader.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	labels := make([]map[string]string, len(nodes.Items))
	for i := range nodes.Items {
		labels[i] = nodes.Items[i].Labels
	}
	return labels, nil
}
