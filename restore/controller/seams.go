package controller

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Indexes are those that the Reconciler asks its cache by; Setup adds them to a manager's.
func Indexes() map[string]client.IndexerFunc { return maps.Clone(indexes) }

// Wakes lists what is to be looked at when the object has changed; Setup has a manager ask.
func (r *Reconciler) Wakes(ctx context.Context, changed client.Object) []reconcile.Request {
	switch changed.(type) {
	case *corev1.Pod:
		return r.checkpointsOf(ctx, changed)
	case *corev1.Node:
		return r.checkpointsOn(ctx, changed)
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(changed)}}
}
