package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// namespace is where everything happens.
const namespace = "work"

// key names an object: its kind and its name.
type key struct{ kind, name string }

// version is an object from a moment on; nil: it was gone.
type version struct {
	at     time.Time
	object client.Object
}

// api is the API server: objects with their past, so that caches can be behind. All of it is under the world's lock.
type api struct {
	w        *world
	objects  map[key][]version
	order    []key // of creation
	versions int
	uids     int
	feeds    []*feed
	// admit is the webhook.
	admit func(pod *corev1.Pod, user string)
}

// feed tells one watcher what has changed.
type feed struct {
	changed []key
	poke    chan struct{}
}

func newAPI(w *world) *api { return &api{w: w, objects: map[key][]version{}} }

func (a *api) watch() *feed {
	f := &feed{poke: make(chan struct{}, 1)}
	a.feeds = append(a.feeds, f)
	return f
}

func kindOf(o any) string {
	switch o.(type) {
	case *corev1.Pod, *corev1.PodList:
		return "pods"
	case *corev1.Node, *corev1.NodeList:
		return "nodes"
	case *v1alpha1.Checkpoint, *v1alpha1.CheckpointList:
		return "checkpoints"
	case *batchv1.Job:
		return "jobs"
	case *appsv1.StatefulSet:
		return "statefulsets"
	case *appsv1.ReplicaSet:
		return "replicasets"
	}
	return fmt.Sprintf("%T", o)
}

func resource(k key) schema.GroupResource { return schema.GroupResource{Resource: k.kind} }

// at returns the object as it was then, not to be changed; nil where there was none.
func (a *api) at(k key, when time.Time) client.Object {
	past := a.objects[k]
	for i := len(past) - 1; i >= 0; i-- {
		if !past[i].at.After(when) {
			return past[i].object
		}
	}
	return nil
}

func (a *api) now(k key) client.Object {
	if past := a.objects[k]; len(past) > 0 {
		return past[len(past)-1].object
	}
	return nil
}

func (a *api) pod(name string) *corev1.Pod {
	pod, _ := a.now(key{"pods", name}).(*corev1.Pod)
	return pod
}

func (a *api) node(name string) *corev1.Node {
	node, _ := a.now(key{"nodes", name}).(*corev1.Node)
	return node
}

// list returns the objects of a kind as they were then, not to be changed.
func (a *api) list(kind string, when time.Time) []client.Object {
	var out []client.Object
	for _, k := range a.order {
		if k.kind != kind {
			continue
		}
		if o := a.at(k, when); o != nil {
			out = append(out, o)
		}
	}
	return out
}

func (a *api) pods() []*corev1.Pod {
	var out []*corev1.Pod
	for _, o := range a.list("pods", time.Now()) {
		out = append(out, o.(*corev1.Pod))
	}
	return out
}

func (a *api) checkpoints() []*v1alpha1.Checkpoint {
	var out []*v1alpha1.Checkpoint
	for _, o := range a.list("checkpoints", time.Now()) {
		out = append(out, o.(*v1alpha1.Checkpoint))
	}
	return out
}

// put makes o the newest version of k; nil removes it.
func (a *api) put(k key, o client.Object) {
	if len(a.objects[k]) == 0 && !slices.Contains(a.order, k) {
		a.order = append(a.order, k)
	}
	a.versions++
	if o != nil {
		o.SetResourceVersion(strconv.Itoa(a.versions))
	}
	a.objects[k] = append(a.objects[k], version{time.Now(), o})
	for _, f := range a.feeds {
		f.changed = append(f.changed, k)
		select {
		case f.poke <- struct{}{}:
		default:
		}
	}
}

// create stores a copy of o, and fills o in with what the server adds.
func (a *api) create(o client.Object, user string) error {
	a.uids++
	if pod, ok := o.(*corev1.Pod); ok && a.admit != nil {
		a.admit(pod, user)
	}
	if o.GetName() == "" {
		o.SetName(fmt.Sprintf("%s%d", o.GetGenerateName(), a.uids))
	}
	k := key{kindOf(o), o.GetName()}
	if a.now(k) != nil {
		return apierrors.NewAlreadyExists(resource(k), k.name)
	}
	o.SetUID(types.UID(fmt.Sprintf("%s-%d", k.name, a.uids)))
	o.SetCreationTimestamp(now())
	stored := o.DeepCopyObject().(client.Object)
	switch s := stored.(type) {
	case *corev1.Pod:
		s.Status = corev1.PodStatus{Phase: corev1.PodPending}
		a.w.note("api", "pod %s (%s) created by %s %v", s.Name, s.UID, user, s.Annotations)
	case *v1alpha1.Checkpoint:
		s.Status = v1alpha1.CheckpointStatus{}
		a.w.note("api", "checkpoint %s (%s) created", s.Name, s.UID)
	}
	a.put(k, stored)
	o.SetResourceVersion(stored.GetResourceVersion())
	return nil
}

// update replaces an object, or its status alone. An object without a resourceVersion is written whatever there is.
func (a *api) update(o client.Object, status bool) error {
	k := key{kindOf(o), o.GetName()}
	old := a.now(k)
	if old == nil || o.GetUID() != "" && o.GetUID() != old.GetUID() {
		return apierrors.NewNotFound(resource(k), k.name)
	}
	if v := o.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return apierrors.NewConflict(resource(k), k.name, errors.New("the object has been modified"))
	}
	stored := o.DeepCopyObject().(client.Object)
	switch s := stored.(type) {
	case *v1alpha1.Checkpoint:
		was := old.(*v1alpha1.Checkpoint)
		if !status {
			s.Status = *was.Status.DeepCopy()
			break
		}
		next := was.DeepCopy()
		next.Status, stored = s.Status, next
		if err := a.w.checkpointWritten(was, next); err != nil {
			return apierrors.NewInvalid(schema.GroupKind{Kind: "Checkpoint"}, k.name, nil)
		}
	case *corev1.Pod:
		next := old.(*corev1.Pod).DeepCopy()
		if status {
			next.Status, stored = s.Status, next
		} else {
			s.Status = next.Status
		}
	}
	a.put(k, stored)
	o.SetResourceVersion(stored.GetResourceVersion())
	return nil
}

// patch applies a patch as the API server does.
func (a *api) patch(o client.Object, p client.Patch, data []byte, status bool) error {
	k := key{kindOf(o), o.GetName()}
	old := a.now(k)
	if old == nil {
		return apierrors.NewNotFound(resource(k), k.name)
	}
	before, err := json.Marshal(old)
	if err != nil {
		return err
	}
	var after []byte
	if p.Type() == types.StrategicMergePatchType {
		after, err = strategicpatch.StrategicMergePatch(before, data, o)
	} else {
		after, err = jsonpatch.MergePatch(before, data)
	}
	if err != nil {
		return err
	}
	next := old.DeepCopyObject().(client.Object)
	switch n := next.(type) {
	case *v1alpha1.Checkpoint:
		*n = v1alpha1.Checkpoint{}
	case *corev1.Pod:
		*n = corev1.Pod{}
	}
	if err := json.Unmarshal(after, next); err != nil {
		return err
	}
	if err := a.update(next, status); err != nil {
		return err
	}
	o.SetResourceVersion(next.GetResourceVersion())
	return nil
}

// remove deletes an object on conditions. A pod that a kubelet has is marked, and gone with the kubelet's word; grace 0 is that
// word.
func (a *api) remove(k key, only *metav1.Preconditions, grace *int64) error {
	old := a.now(k)
	if old == nil {
		return apierrors.NewNotFound(resource(k), k.name)
	}
	if only != nil && (only.UID != nil && *only.UID != old.GetUID() || only.ResourceVersion != nil && *only.ResourceVersion != old.GetResourceVersion()) {
		return apierrors.NewConflict(resource(k), k.name, errors.New("the precondition does not hold"))
	}
	pod, isPod := old.(*corev1.Pod)
	if !isPod {
		a.w.note("api", "%s %s deleted", k.kind, k.name)
		a.put(k, nil)
		return nil
	}
	seconds := int64(30)
	if grace != nil {
		seconds = *grace
	}
	over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if seconds == 0 || over || pod.Spec.NodeName == "" {
		a.w.note("api", "pod %s (%s) is gone", k.name, pod.UID)
		a.put(k, nil)
		return nil
	}
	next := pod.DeepCopy()
	if next.DeletionGracePeriodSeconds != nil && *next.DeletionGracePeriodSeconds <= seconds {
		return nil
	}
	at := metav1.NewTime(now().Add(time.Duration(seconds) * time.Second))
	next.DeletionTimestamp, next.DeletionGracePeriodSeconds = &at, &seconds
	a.w.note("api", "pod %s (%s) is to leave within %d s", k.name, pod.UID, seconds)
	a.put(k, next)
	return nil
}

// now is the time as objects have it: whole seconds.
func now() metav1.Time {
	t := metav1.NewTime(time.Now())
	return t.Rfc3339Copy()
}

// disrupted is the mark of an eviction.
func disrupted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	})
}

// evict marks a pod and deletes it.
func (a *api) evict(name string, options *metav1.DeleteOptions) error {
	pod := a.pod(name)
	if pod == nil {
		return apierrors.NewNotFound(resource(key{"pods", name}), name)
	}
	if only := options.Preconditions; only != nil && only.UID != nil && *only.UID != pod.UID {
		return apierrors.NewConflict(resource(key{"pods", name}), name, errors.New("the UID differs"))
	}
	if !disrupted(pod) {
		marked := pod.DeepCopy()
		marked.Status.Conditions = append(marked.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI",
		})
		a.put(key{"pods", name}, marked)
	}
	return a.remove(key{"pods", name}, options.Preconditions, options.GracePeriodSeconds)
}
