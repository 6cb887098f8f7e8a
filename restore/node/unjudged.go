package node

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// unjudged names, among points, a Checkpoint that a new pod may go on from as soon as a controller has looked: its bearer went
// with its node, and has a safety generation. Empty: none. Owners replace such pods also while no controller is there.
func (p *Preparer) unjudged(ctx context.Context, pod *corev1.Pod, points []v1alpha1.Checkpoint) (string, error) {
	id, err := identity.Of(pod)
	if err != nil || id.Owner == nil || identity.Started(pod) || pod.Labels[v1alpha1.LabelProtect] != "true" ||
		settings.Never(pod.Annotations) || pod.Annotations[v1alpha1.AnnotationOnWaiting] == "start" {
		return "", nil
	}
	there := map[string]bool{} // nodes
	for i := range points {
		c := &points[i]
		if c.Labels[v1alpha1.LabelIdentity] != identity.Key(id) || c.DeletionTimestamp != nil || !c.Status.Unjudged() ||
			c.Status.Pod.UID == pod.UID || there[c.Status.Pod.NodeName] {
			continue
		}
		name := c.Status.Pod.NodeName
		_, err := p.options.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return c.Name, nil
		case err != nil:
			return "", fmt.Errorf("get node %s: %w", name, err)
		}
		there[name] = true
	}
	return "", nil
}
