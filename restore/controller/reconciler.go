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

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// conflictDelay gives the cache time to catch up with the write that got there first.
const conflictDelay = 20 * time.Millisecond

// Reconciler carries one identity (namespace and name) from protection over release to replacement.
type Reconciler struct {
	// Client reads Checkpoints, labelled pods and nodes from a cache, and writes.
	Client client.Client
	// Live reads past the cache, where acting on an old view would be wrong.
	Live client.Reader
	// Now is the clock; events and the timeline bear its time.
	Now func() time.Time
	// Instance names this process in events.
	Instance string
}

// observation is what one reconciliation looks at. Phases keep it current as they write.
type observation struct {
	types.NamespacedName
	// checkpoint and pod are nil where there is none.
	checkpoint *v1alpha1.Checkpoint
	pod        *corev1.Pod
	// notes are the events to be written.
	notes []note
}

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
		{"end", r.end},
		{"follow", r.follow},
		{"protect", r.protect},
		{"release", r.release},
		{"replace", r.replace},
	}
}

// Reconcile brings the Checkpoint of one identity one look further. A conflict is no error: somebody else wrote, and
// the next look sees it.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	o, err := r.observe(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	if o.checkpoint != nil && o.checkpoint.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	defer func() { r.writeEvents(ctx, o.notes) }()
	for _, p := range r.phases() {
		v, err := p.run(ctx, o)
		switch {
		case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
			log.FromContext(ctx).V(1).Info("view was stale", "phase", p.name, "cause", err.Error())
			return ctrl.Result{RequeueAfter: conflictDelay}, nil
		case err != nil:
			return ctrl.Result{}, fmt.Errorf("%s %s: %w", p.name, req, err)
		case v.stop:
			return ctrl.Result{RequeueAfter: v.after}, nil
		}
	}
	return ctrl.Result{}, nil
}

// observe reads Checkpoint and pod. The cache holds labelled pods only, so a pod that it does not know is asked for once
// more where a Checkpoint makes the answer matter.
func (r *Reconciler) observe(ctx context.Context, key types.NamespacedName) (*observation, error) {
	o := &observation{NamespacedName: key}
	var err error
	if o.checkpoint, err = get(ctx, r.Client, key, &v1alpha1.Checkpoint{}); err != nil {
		return nil, err
	}
	if o.pod, err = get(ctx, r.Client, key, &corev1.Pod{}); err != nil {
		return nil, err
	}
	if o.pod == nil && o.checkpoint != nil {
		o.pod, err = get(ctx, r.Live, key, &corev1.Pod{})
	}
	return o, err
}

// refresh reads both once more, past the cache: for steps that no resourceVersion guards. The pod comes first: no claim in
// a Checkpoint read later means that this pod had none.
func (r *Reconciler) refresh(ctx context.Context, o *observation) error {
	var err error
	if o.pod, err = get(ctx, r.Live, o.NamespacedName, &corev1.Pod{}); err != nil {
		return err
	}
	o.checkpoint, err = get(ctx, r.Live, o.NamespacedName, &v1alpha1.Checkpoint{})
	return err
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
