package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// conflictDelay gives the cache time to catch up with the write that got there first.
const conflictDelay = 20 * time.Millisecond

// Reconciler carries one Checkpoint from protection over release to whoever continues its pod.
type Reconciler struct {
	// Client reads Checkpoints, labelled pods and nodes from a cache, and writes.
	Client client.Client
	// Live reads past the cache, where acting on an old view would be wrong.
	Live client.Reader
	// Now is the clock; events and the timeline bear its time.
	Now func() time.Time
	// Instance names this process in events.
	Instance string
	// Meter is told what the loss of nodes has cost; nil: nobody is.
	Meter *Meter
}

// observation is what one reconciliation looks at. Phases keep it current as they write.
type observation struct {
	// NamespacedName is the Checkpoint's.
	types.NamespacedName
	// checkpoint is nil where there is none.
	checkpoint *v1alpha1.Checkpoint
	// pod bears the identity, claimer holds the newest claim and does not bear it yet, other has the bearer's name and is
	// neither. Each is nil where there is none.
	pod, claimer, other *corev1.Pod
	// again is when the pod of the request's name is to be looked at again; 0: when something changes.
	again time.Duration
	// notes are the events to be written.
	notes []note
}

// bare tells whether nobody but us replaces the Checkpoint's pod.
func (o *observation) bare() bool { return o.checkpoint.Spec.Identity.Kind == v1alpha1.KindPod }

// verdict is a phase's answer: whether the phases after it have nothing to do, and when to look again.
type verdict struct {
	stop  bool
	after time.Duration
}

var (
	goOn = verdict{}
	done = verdict{stop: true}
)

func lookAgain(after time.Duration) verdict { return verdict{stop: true, after: after} }

// phase is one step of the path. It may be called at any time, any number of times.
type phase struct {
	name string
	run  func(context.Context, *observation) (verdict, error)
}

func (r *Reconciler) phases() []phase {
	return []phase{
		{"lose", r.lose},
		{"note eviction", r.noteEviction},
		{"end", r.end},
		{"follow", r.follow},
		{"leave", r.leave},
		{"protect", r.protect},
		{"tolerate", r.tolerate},
		{"release", r.release},
		{"replace", r.replace},
		{"give up", r.giveUp},
	}
}

// Reconcile brings one Checkpoint one look further, and sees to the pod of the same name, which may be in want of a
// Checkpoint. A conflict is no error: somebody else wrote, and the next look sees it.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	o, err := r.observe(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	defer func() { r.writeEvents(ctx, o.notes) }()
	v, err := r.advance(ctx, o)
	if err == nil {
		err = r.enrol(ctx, o)
	}
	switch {
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		log.FromContext(ctx).V(1).Info("view was stale", "cause", err.Error())
		return ctrl.Result{RequeueAfter: conflictDelay}, nil
	case err != nil:
		return ctrl.Result{}, err
	}
	if o.again > 0 && (v.after == 0 || o.again < v.after) {
		v.after = o.again
	}
	return ctrl.Result{RequeueAfter: v.after}, nil
}

// advance runs the phases of a Checkpoint.
func (r *Reconciler) advance(ctx context.Context, o *observation) (verdict, error) {
	for _, p := range r.phases() {
		if o.checkpoint == nil || o.checkpoint.DeletionTimestamp != nil {
			return done, nil
		}
		v, err := p.run(ctx, o)
		if err != nil {
			return done, fmt.Errorf("%s %s: %w", p.name, o.NamespacedName, err)
		}
		if v.stop {
			return v, nil
		}
	}
	return done, nil
}

// observe reads Checkpoint and pods. The cache holds labelled pods only and may be behind, so a pod that it does not know
// is asked for once more.
func (r *Reconciler) observe(ctx context.Context, key types.NamespacedName) (*observation, error) {
	o := &observation{NamespacedName: key}
	var err error
	if o.checkpoint, err = get(ctx, r.Client, key, &v1alpha1.Checkpoint{}); err != nil || o.checkpoint == nil {
		return o, err
	}
	return o, r.assign(ctx, o, r.Client, r.Live)
}

// refresh reads all once more, past the cache: for steps that no resourceVersion guards. The pods come first: no claim in
// a Checkpoint read later means that none of these pods had one.
func (r *Reconciler) refresh(ctx context.Context, o *observation) error {
	if err := r.assign(ctx, o, r.Live); err != nil {
		return err
	}
	var err error
	o.checkpoint, err = get(ctx, r.Live, o.NamespacedName, &v1alpha1.Checkpoint{})
	return err
}

// assign finds the pods that the Checkpoint is about.
func (r *Reconciler) assign(ctx context.Context, o *observation, from ...client.Reader) error {
	read := func(name string) (pod *corev1.Pod, err error) {
		for i := 0; i < len(from) && pod == nil && err == nil; i++ {
			pod, err = get(ctx, from[i], types.NamespacedName{Namespace: o.Namespace, Name: name}, &corev1.Pod{})
		}
		return pod, err
	}
	o.pod, o.claimer, o.other = nil, nil, nil
	s := &o.checkpoint.Status
	name := o.checkpoint.Spec.Identity.Name
	if s.Pod != nil {
		name = s.Pod.Name
	}
	var claimer v1alpha1.Claim
	if claimIsNewest(s) && !bears(s, s.Claim.PodUID) {
		claimer = *s.Claim
	}
	pod, err := read(name)
	switch {
	case err != nil:
		return err
	case pod == nil:
	case s.Pod == nil && keyOf(pod) == o.checkpoint.Labels[v1alpha1.LabelIdentity], bears(s, pod.UID):
		o.pod = pod
	case pod.UID == claimer.PodUID:
		o.claimer = pod
	default:
		o.other = pod
	}
	if claimer.PodName != "" && claimer.PodName != name {
		pod, err := read(claimer.PodName)
		if err != nil {
			return err
		}
		if pod != nil && pod.UID == claimer.PodUID {
			o.claimer = pod
		}
	}
	return nil
}

// keyOf is the key of a pod's identity, empty where it has none.
func keyOf(pod *corev1.Pod) string {
	id, err := identity.Of(pod)
	if err != nil {
		return ""
	}
	return identity.Key(id)
}

// get reads one object into `into`; nil without an error where it does not exist.
func get[T client.Object](ctx context.Context, from client.Reader, key types.NamespacedName, into T) (T, error) {
	var none T
	err := from.Get(ctx, key, into)
	switch {
	case apierrors.IsNotFound(err):
		return none, nil
	case err != nil:
		return none, fmt.Errorf("get %T %s: %w", into, key, err)
	}
	return into, nil
}

// patchStatus writes what change does to the status, unless it does nothing or the Checkpoint has changed meanwhile
// (then the error is a conflict). The observation holds the outcome.
func (r *Reconciler) patchStatus(ctx context.Context, o *observation, change func(*v1alpha1.CheckpointStatus) bool) error {
	after := o.checkpoint.DeepCopy()
	if !change(&after.Status) {
		return nil
	}
	patch := client.MergeFromWithOptions(o.checkpoint, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, after, patch); err != nil {
		return fmt.Errorf("patch status of checkpoint %s: %w", o.NamespacedName, err)
	}
	o.checkpoint = after
	return nil
}

// setProtectable writes the condition and, where that changed anything and the matter is decided, tells it by an event
// on the pod and the Checkpoint. What the node's agent has found, or sees no more, the agent tells.
func (r *Reconciler) setProtectable(ctx context.Context, o *observation, c protectable) error {
	changed, found := false, v1alpha1.FoundOnNode(c.reason)
	if before := o.checkpoint.Status.Condition(v1alpha1.ConditionProtectable); before != nil && c.reason == v1alpha1.ReasonProtected {
		found = v1alpha1.FoundOnNode(before.Reason)
	}
	err := r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		changed = s.SetCondition(v1alpha1.ConditionProtectable, c.status, c.reason, c.message)
		return c.silences() && forgetVerdict(s) || changed
	})
	if err == nil && changed && !found && c.status != metav1.ConditionUnknown {
		o.tell(c.eventType(), c.reason, "Protect", c.message)
	}
	return err
}
