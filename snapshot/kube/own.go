package kube

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// own remembers the names of pods' own Checkpoints. A list goes through all Checkpoints of a namespace, and every agent asks for
// each of its pods every few seconds; a get does not. A pod that has started takes no other Checkpoint any more: it has claimed before.
type own struct {
	mu    sync.Mutex
	names map[types.UID]string
}

// of returns the pod's own Checkpoint as it is now; nil where it has none.
func (o *own) of(ctx context.Context, client *checkpoints.Client, pod *corev1.Pod) (*v1alpha1.Checkpoint, error) {
	if name := o.name(pod.UID); name != "" {
		c, err := client.Get(ctx, pod.Namespace, name)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		if err == nil {
			if relation, found := identity.Find(pod, []v1alpha1.Checkpoint{*c}, nil, time.Now()); relation == identity.Own {
				return found, nil
			}
		}
		o.set(pod.UID, "")
	}
	points, err := client.Of(ctx, pod)
	if err != nil {
		return nil, err
	}
	relation, found := identity.Find(pod, points, nil, time.Now())
	if relation != identity.Own {
		return nil, nil
	}
	if identity.Started(pod) {
		o.set(pod.UID, found.Name)
	}
	return found, nil
}

func (o *own) name(pod types.UID) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.names[pod]
}

func (o *own) set(pod types.UID, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.names == nil {
		o.names = map[types.UID]string{}
	}
	o.names[pod] = name
}

// keep forgets all pods but these.
func (o *own) keep(pods []corev1.Pod) {
	there := map[types.UID]bool{}
	for i := range pods {
		there[pods[i].UID] = true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for uid := range o.names {
		if !there[uid] {
			delete(o.names, uid)
		}
	}
}
