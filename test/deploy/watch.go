package deploy

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// WatchCheckpoints hands every state of the namespace's Checkpoints that it sees to see, until ctx ends. It outlives an API server
// that is down; a state may then come twice, or be missed.
func (k *Kube) WatchCheckpoints(ctx context.Context, namespace string, see func(*v1alpha1.Checkpoint)) {
	const pause = 200 * time.Millisecond
	for ctx.Err() == nil {
		_ = k.watchCheckpoints(ctx, namespace, see) // whatever it was, the next try tells
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (k *Kube) watchCheckpoints(ctx context.Context, namespace string, see func(*v1alpha1.Checkpoint)) error {
	these := k.dynamic.Resource(Checkpoints).Namespace(namespace)
	list, err := these.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	hand := func(object *unstructured.Unstructured) error {
		var c v1alpha1.Checkpoint
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &c); err != nil {
			return fmt.Errorf("read checkpoint %s: %w", object.GetName(), err)
		}
		see(&c)
		return nil
	}
	for i := range list.Items {
		if err := hand(&list.Items[i]); err != nil {
			return err
		}
	}
	watching, err := these.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	if err != nil {
		return err
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok || object.GetKind() != "Checkpoint" {
			return fmt.Errorf("watch: %v", event)
		}
		if err := hand(object); err != nil {
			return err
		}
	}
	return nil
}
