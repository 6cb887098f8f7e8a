package controller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// concurrency is how many identities are looked at side by side: workers wait for the API server most of the time, and nodes under
// notice release all their pods at once.
const concurrency = 32

// NewScheme returns a scheme with Kubernetes' kinds and ours.
func NewScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	return scheme, nil
}

// CacheOptions keeps pods without LabelProtect out of memory.
func CacheOptions() (cache.Options, error) {
	labelled, err := labels.NewRequirement(v1alpha1.LabelProtect, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, fmt.Errorf("select labelled pods: %w", err)
	}
	return cache.Options{ByObject: map[client.Object]cache.ByObject{
		&corev1.Pod{}: {Label: labels.NewSelector().Add(*labelled)},
	}}, nil
}

// indexPods finds Checkpoints by the pods that they name: by UID those that bear or have claimed, by name those that bear.
// indexIdentity finds them by the key of their identity: a list by label would look at every one of the namespace.
const indexPods, indexIdentity = "pods", "identity"

// indexes are what Setup adds to the cache.
var indexes = map[string]client.IndexerFunc{
	indexPods:     podsOf,
	indexIdentity: func(o client.Object) []string { return []string{o.GetLabels()[v1alpha1.LabelIdentity]} },
}

func podsOf(o client.Object) []string {
	ck, ok := o.(*v1alpha1.Checkpoint)
	if !ok {
		return nil
	}
	var out []string
	if pod := ck.Status.Pod; pod != nil {
		out = append(out, string(pod.UID), pod.Name)
	}
	if claim := ck.Status.Claim; claim != nil {
		out = append(out, string(claim.PodUID))
	}
	return out
}

// Setup hangs the Reconciler into the manager. A pod wakes its namesake, where a Checkpoint is made, and the Checkpoints that
// name it; a node wakes the Checkpoints whose pods it bears.
func (r *Reconciler) Setup(mgr ctrl.Manager) error {
	for name, of := range indexes {
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.Checkpoint{}, name, of); err != nil {
			return fmt.Errorf("index checkpoints by %s: %w", name, err)
		}
	}
	warm := true // a stand-in's cache is filled before it leads, so that it acts at once
	err := ctrl.NewControllerManagedBy(mgr).
		Named("checkpoint").
		For(&v1alpha1.Checkpoint{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.checkpointsOf)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.checkpointsOn), builder.WithPredicates(nodeMatters())).
		WithOptions(ctrlcontroller.Options{MaxConcurrentReconciles: concurrency, EnableWarmup: &warm}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up checkpoint controller: %w", err)
	}
	return nil
}

// checkpointsOf lists the pod's namesake and the Checkpoints that name the pod.
func (r *Reconciler) checkpointsOf(ctx context.Context, pod client.Object) []reconcile.Request {
	out := []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(pod)}}
	for _, value := range []string{string(pod.GetUID()), pod.GetName()} {
		var list v1alpha1.CheckpointList
		if err := r.Client.List(ctx, &list, client.InNamespace(pod.GetNamespace()), client.MatchingFields{indexPods: value}); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "checkpoints of pod not listed", "pod", pod.GetName())
		}
		for i := range list.Items {
			request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])}
			if !slices.Contains(out, request) {
				out = append(out, request)
			}
		}
	}
	return out
}

// checkpointsOn lists the identities whose bearer is on the node. Without an answer from the cache nobody is woken, and
// the next change of the node tries again.
func (r *Reconciler) checkpointsOn(ctx context.Context, node client.Object) []reconcile.Request {
	var list v1alpha1.CheckpointList
	if err := r.Client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "checkpoints of node not listed", "node", node.GetName())
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		ck := &list.Items[i]
		if ck.Status.Pod != nil && ck.Status.Pod.NodeName == node.GetName() {
			out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: ck.Namespace, Name: ck.Name}})
		}
	}
	return out
}

// nodeMatters lets through what phases look at: labels, readiness and whether a node is out of service, not heartbeats.
func nodeMatters() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*corev1.Node)
		after, ok2 := e.ObjectNew.(*corev1.Node)
		return !ok || !ok2 || readiness(before) != readiness(after) || outOfService(before) != outOfService(after) ||
			!equality.Semantic.DeepEqual(before.Labels, after.Labels)
	}}
}

func readiness(node *corev1.Node) corev1.ConditionStatus {
	if c := readyOf(node); c != nil {
		return c.Status
	}
	return corev1.ConditionUnknown
}

func readyOf(node *corev1.Node) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == corev1.NodeReady {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}
