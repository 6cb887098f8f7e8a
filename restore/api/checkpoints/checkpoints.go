// Package checkpoints is the typed client of the Checkpoint kind for the agent: get, find, and the one way in which an
// agent writes, an optimistic update of the status.
package checkpoints

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const resource = "checkpoints"

// Client reads and updates Checkpoints.
type Client struct{ rest rest.Interface }

// New returns a Client of the API server that config names.
func New(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register checkpoint kind: %w", err)
	}
	c := rest.CopyConfig(config)
	c.GroupVersion = &v1alpha1.GroupVersion
	c.APIPath = "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make client of checkpoints: %w", err)
	}
	return &Client{rest: client}, nil
}

// Get returns one Checkpoint; the error is the API server's.
func (c *Client) Get(ctx context.Context, namespace, name string) (*v1alpha1.Checkpoint, error) {
	out := &v1alpha1.Checkpoint{}
	err := c.rest.Get().Namespace(namespace).Resource(resource).Name(name).Do(ctx).Into(out)
	if err != nil {
		return nil, fmt.Errorf("get checkpoint %s/%s: %w", namespace, name, err)
	}
	return out, nil
}

// Of returns the Checkpoints that the pod may have to do with, for identity.Find: those of its key, and the one that it
// bears, also where its owner or its labels have changed since and its key with them.
func (c *Client) Of(ctx context.Context, pod *corev1.Pod) ([]v1alpha1.Checkpoint, error) {
	var points []v1alpha1.Checkpoint
	if id, err := identity.Of(pod); err == nil {
		selector := labels.Set{v1alpha1.LabelIdentity: identity.Key(id)}.String()
		if points, err = c.list(ctx, pod.Namespace, metav1.ListOptions{LabelSelector: selector}); err != nil {
			return nil, err
		}
	}
	for i := range points {
		if p := points[i].Status.Pod; p != nil && p.UID == pod.UID {
			return points, nil
		}
	}
	selector := fields.OneTermEqualSelector("status.pod.uid", string(pod.UID)).String()
	own, err := c.list(ctx, pod.Namespace, metav1.ListOptions{FieldSelector: selector})
	return append(points, own...), err
}

func (c *Client) list(ctx context.Context, namespace string, options metav1.ListOptions) ([]v1alpha1.Checkpoint, error) {
	out := &v1alpha1.CheckpointList{}
	err := c.rest.Get().Namespace(namespace).Resource(resource).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(out)
	if err != nil {
		return nil, fmt.Errorf("list checkpoints of namespace %s: %w", namespace, err)
	}
	return out.Items, nil
}

// UpdateStatus reads the Checkpoint, lets change alter its status, and writes it on condition that nobody wrote in
// between; otherwise it reads and calls change anew. Whatever change decides, it has decided on the state that is
// replaced. An error from change ends it unwritten and is returned as it is.
func (c *Client) UpdateStatus(ctx context.Context, namespace, name string, change func(*v1alpha1.Checkpoint) error) (*v1alpha1.Checkpoint, error) {
	var written *v1alpha1.Checkpoint
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		current, err := c.Get(ctx, namespace, name)
		if err != nil {
			return err
		}
		if err := change(current); err != nil {
			return err
		}
		out := &v1alpha1.Checkpoint{}
		err = c.rest.Put().Namespace(namespace).Resource(resource).Name(name).SubResource("status").
			VersionedParams(&metav1.UpdateOptions{}, metav1.ParameterCodec).Body(current).Do(ctx).Into(out)
		if err != nil {
			return fmt.Errorf("update status of checkpoint %s/%s: %w", namespace, name, err)
		}
		written = out
		return nil
	})
	return written, err
}
