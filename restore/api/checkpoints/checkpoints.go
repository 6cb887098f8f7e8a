// Package checkpoints is the typed client of the Checkpoint kind for the agent: get, list, and the one way in which an
// agent writes, an optimistic update of the status.
package checkpoints

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

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

// List returns the Checkpoints of all namespaces.
func (c *Client) List(ctx context.Context) (*v1alpha1.CheckpointList, error) {
	out := &v1alpha1.CheckpointList{}
	if err := c.rest.Get().Resource(resource).Do(ctx).Into(out); err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	return out, nil
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
