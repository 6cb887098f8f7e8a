package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// kubeletFinalizer keeps a deleted pod in the fake API as a kubelet would.
const kubeletFinalizer = "test/kubelet"

var (
	testScheme = sync.OnceValues(NewScheme)

	subject  = types.NamespacedName{Namespace: "work", Name: "train"}
	errCrash = errors.New("the process died")
)

// world is an API server with nodes a and b, for one namespace; the short methods are of the pod and the Checkpoint called
// subject. Its writes pass through fault and are counted.
type world struct {
	t    *testing.T
	raw  client.WithWatch
	api  client.WithWatch
	now  time.Time
	uids int
	// point is the Checkpoint that the acts of agents are about.
	point   string
	applied int
	// fault is asked before and after every write of the controller; an error is a crash at that point.
	fault func(applied bool) error
	// admits: the webhook answers.
	admits bool
	// budgetBlocks makes evictions end in 429.
	budgetBlocks bool
	// created are the pods that the controller created, evictions the UIDs it evicted.
	created   []*corev1.Pod
	evictions []types.UID
}

func newWorld(t *testing.T) *world {
	scheme, err := testScheme()
	require.NoError(t, err)
	log.SetLogger(logr.Discard())
	w := &world{t: t, point: subject.Name, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), fault: func(bool) error { return nil }}
	// The tracker that is the default keeps managed fields, which takes most of the time of these tests.
	tracker := clienttesting.NewObjectTracker(scheme, serializer.NewCodecFactory(scheme).UniversalDecoder())
	w.raw = fake.NewClientBuilder().WithScheme(scheme).WithObjectTracker(tracker).WithStatusSubresource(&v1alpha1.Checkpoint{}, &corev1.Pod{}, &corev1.Node{}).
		WithIndex(&v1alpha1.Checkpoint{}, indexPods, podsOf).
		WithIndex(&v1alpha1.Checkpoint{}, indexIdentity, indexes[indexIdentity]).Build()
	w.api = interceptor.NewClient(w.raw, interceptor.Funcs{
		Create: w.create, Delete: w.remove, Patch: w.patch, SubResourcePatch: w.patchStatus, SubResourceCreate: w.evict,
	})
	for _, name := range []string{"a", "b"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelRuntimeReady: "true"}}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		require.NoError(t, w.raw.Create(t.Context(), node))
	}
	return w
}

func (w *world) reconciler() *Reconciler {
	return &Reconciler{Client: w.api, Live: w.api, Now: func() time.Time { return w.now }, Instance: "test"}
}

func (w *world) write(do func() error) error {
	if err := w.fault(false); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	w.applied++
	return w.fault(true)
}

func (w *world) uid() types.UID {
	w.uids++
	return types.UID(fmt.Sprintf("uid-%d", w.uids))
}

func (w *world) create(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	if len((&client.CreateOptions{}).ApplyOptions(opts).DryRun) > 0 {
		if pod, ok := o.(*corev1.Pod); ok && w.admits {
			pod.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName)
		}
		return nil
	}
	return w.write(func() error {
		o.SetUID(w.uid())
		pod, isPod := o.(*corev1.Pod)
		if isPod {
			o.SetCreationTimestamp(metav1.NewTime(w.now))
			controllerutil.AddFinalizer(o, kubeletFinalizer)
		}
		if err := c.Create(ctx, o, opts...); err != nil {
			return err
		}
		if isPod {
			status := &w.checkpoint().Status
			anew := (StageOf(status) == StageLost && status.Released() || gaveUp(status)) && pod.Annotations[v1alpha1.AnnotationRestoreFrom] == ""
			require.True(w.t, anew || status.WaitingGeneration() != nil, "a replacement before release or after a claim")
			w.created = append(w.created, pod.DeepCopy())
		}
		return nil
	})
}

// remove is the API server's delete with the kubelet's finalizer: a grace of zero takes the pod away at once.
func (w *world) remove(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
	return w.write(func() error {
		options := (&client.DeleteOptions{}).ApplyOptions(opts)
		pod, isPod := o.(*corev1.Pod)
		if !isPod {
			return c.Delete(ctx, o, opts...)
		}
		return w.deletePod(ctx, pod, options.GracePeriodSeconds, options.Preconditions)
	})
}

func (w *world) deletePod(ctx context.Context, o *corev1.Pod, grace *int64, only *metav1.Preconditions) error {
	pod := &corev1.Pod{}
	if err := w.raw.Get(ctx, client.ObjectKeyFromObject(o), pod); err != nil {
		return err
	}
	require.NotNil(w.t, only, "removal without a UID")
	if *only.UID != pod.UID {
		return apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errors.New("UID differs"))
	}
	if err := w.raw.Delete(ctx, pod); err != nil {
		return err
	}
	if *grace == 0 {
		w.kubeletOf(o.Name)
		return nil
	}
	pod = w.podNamed(o.Name)
	pod.DeletionGracePeriodSeconds = grace
	return w.raw.Update(ctx, pod)
}

// kubelet lets go of a pod that is being deleted.
func (w *world) kubelet() { w.kubeletOf(subject.Name) }

func (w *world) kubeletOf(name string) {
	pod := w.podNamed(name)
	if pod != nil && pod.DeletionTimestamp != nil {
		controllerutil.RemoveFinalizer(pod, kubeletFinalizer)
		require.NoError(w.t, w.raw.Update(w.t.Context(), pod))
	}
}

func (w *world) patch(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	return w.write(func() error { return c.Patch(ctx, o, p, opts...) })
}

func (w *world) patchStatus(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	return w.write(func() error {
		if _, isPod := o.(*corev1.Pod); isPod {
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		}
		data, err := p.Data(o)
		require.NoError(w.t, err)
		require.Contains(w.t, string(data), `"resourceVersion"`, "a status write without its version loses updates")
		if err := c.SubResource(sub).Patch(ctx, o, p, opts...); err != nil {
			return err
		}
		for _, have := range w.checkpointNamed(o.GetName()).Status.Conditions {
			require.True(w.t, v1alpha1.KnownReason(have.Type, have.Reason), "%s/%s", have.Type, have.Reason)
		}
		return nil
	})
}

func (w *world) evict(ctx context.Context, _ client.Client, sub string, o, body client.Object, _ ...client.SubResourceCreateOption) error {
	require.Equal(w.t, "eviction", sub)
	return w.write(func() error {
		if w.budgetBlocks {
			return apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
		}
		options := body.(*policyv1.Eviction).DeleteOptions
		w.evictions = append(w.evictions, o.GetUID())
		return w.deletePod(ctx, o.(*corev1.Pod), options.GracePeriodSeconds, options.Preconditions)
	})
}

func (w *world) pod() *corev1.Pod { return w.podNamed(subject.Name) }

func (w *world) podNamed(name string) *corev1.Pod {
	pod, err := get(context.Background(), w.raw, types.NamespacedName{Namespace: subject.Namespace, Name: name}, &corev1.Pod{})
	require.NoError(w.t, err)
	return pod
}

func (w *world) checkpoint() *v1alpha1.Checkpoint { return w.checkpointNamed(subject.Name) }

func (w *world) checkpointNamed(name string) *v1alpha1.Checkpoint {
	ck, err := get(context.Background(), w.raw, types.NamespacedName{Namespace: subject.Namespace, Name: name}, &v1alpha1.Checkpoint{})
	require.NoError(w.t, err)
	return ck
}

// reasons lists the reasons of all events on one kind of object.
func (w *world) reasons(kind string) []string {
	var list eventsv1.EventList
	require.NoError(w.t, w.raw.List(w.t.Context(), &list))
	var out []string
	for i := range list.Items {
		if list.Items[i].Regarding.Kind == kind {
			out = append(out, list.Items[i].Reason)
		}
	}
	return out
}

// settle reconciles until nothing more is asked for. A crash starts a new process; time passes as the reconciler asks.
func (w *world) settle() { w.settleWithin(24 * time.Hour) }

// settleWithin is settle, but for looks that are to come later than that.
func (w *world) settleWithin(limit time.Duration) {
	end := w.now.Add(limit)
	for range 200 {
		before, next := w.applied, time.Duration(0)
		crashed := false
		for _, name := range w.names() {
			result, err := w.reconciler().Reconcile(w.t.Context(), ctrl.Request{NamespacedName: name})
			if crashed = errors.Is(err, errCrash); crashed {
				break
			}
			require.NoError(w.t, err)
			if result.RequeueAfter > 0 && (next == 0 || result.RequeueAfter < next) {
				next = result.RequeueAfter
			}
		}
		switch {
		case crashed:
		case next > 0 && !w.now.Add(next).After(end):
			w.now = w.now.Add(next)
		case w.applied == before:
			return
		}
	}
	require.Fail(w.t, "the reconciler never comes to rest")
}

// names lists what requests there may be: the subject, and all pods and Checkpoints.
func (w *world) names() []types.NamespacedName {
	var pods corev1.PodList
	var points v1alpha1.CheckpointList
	require.NoError(w.t, w.raw.List(w.t.Context(), &pods))
	require.NoError(w.t, w.raw.List(w.t.Context(), &points))
	out := []types.NamespacedName{subject}
	for i := range pods.Items {
		out = append(out, client.ObjectKeyFromObject(&pods.Items[i]))
	}
	for i := range points.Items {
		if name := client.ObjectKeyFromObject(&points.Items[i]); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return slices.Compact(out)
}
