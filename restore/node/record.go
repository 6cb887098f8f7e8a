package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// outcomeOf tells what is known of the handovers of r, nil for none, when a container of that name is created. What runs by
// now was settled before.
func outcomeOf(r *restoration, container string) outcome {
	switch {
	case r == nil || len(r.Handed) == 0:
		return outcomeNone
	case !r.several():
		return outcomeUnknown
	}
	if _, again := r.Handed[container]; again {
		return outcomeInVain
	}
	return outcomeNone
}

// Reconcile settles the restorations of this node: what nobody has reported yet is found out, and what was decided is done to its end.
func (p *Preparer) Reconcile(ctx context.Context) error {
	all, err := p.loadAll()
	if err != nil {
		return err
	}
	var faults []error
	for _, r := range all {
		faults = append(faults, p.reconcile(ctx, r.Task.PodUID))
	}
	return errors.Join(faults...)
}

// reconcile settles the restoration of one pod in its turn.
func (p *Preparer) reconcile(ctx context.Context, podUID string) error {
	leave, err := p.turns.enter(ctx, podUID)
	if err != nil {
		return err
	}
	defer leave()
	_, err = p.settleNow(ctx, podUID)
	return err
}

// settle brings one restoration as far as it can go by itself. It is the pod's turn, and r was read in it.
func (p *Preparer) settle(ctx context.Context, r *restoration) error {
	if r.Ending {
		return p.end(ctx, r)
	}
	if r.Failed != "" && !r.Leaving {
		if err := p.tellFailed(ctx, r); err != nil {
			return err
		}
	}
	switch {
	case r.Leaving:
		return p.tellLeaving(ctx, r)
	case r.Over:
		return nil
	case r.several():
		return p.settleHeld(ctx, r)
	}
	for _, h := range r.Handed {
		running, err := p.options.Running(ctx, h.ID)
		if err != nil || !running {
			return err
		}
		return p.restored(ctx, r.Task)
	}
	return nil
}

// Result takes the outcome of a runc restore. One that is posted again, because the first answer was lost, changes nothing.
func (p *Preparer) Result(ctx context.Context, res handover.ResultRequest) error {
	r, container, err := p.handedOver(res.ContainerID)
	if err != nil || r == nil {
		return err
	}
	t := r.Task
	t.Container, t.ContainerID = container, res.ContainerID
	log := p.options.Log.With().Str("namespace", t.Namespace).Str("pod", t.Pod).Str("container", t.Container).Logger()
	if res.Error == "" {
		log.Info().Bool("held", r.several()).Msg("restored by CRIU")
		return p.succeeded(ctx, t)
	}
	log.Error().Str("cause", res.Error).Msg("restore failed")
	if err := p.takeBack(t, res.Error); err != nil {
		return err
	}
	// The wrapper asks for the next attempt as soon as it has an answer. What cannot be told now is told then, before anything else.
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	if err := p.reconcile(ctx, t.PodUID); err != nil {
		log.Warn().Err(err).Msg("failure not told yet")
	}
	return nil
}

// tellTime is for the Checkpoint to say that a restore failed, of the time in which lifeboat-runtime wants an answer.
const tellTime = time.Second

// tellFailed writes on the Checkpoint that CRIU did not restore a container.
func (p *Preparer) tellFailed(ctx context.Context, r *restoration) error {
	cause := r.Failed
	err := p.failed(ctx, r.Task, v1alpha1.ReasonRestoreFailed, cause)
	if err != nil && !errors.Is(err, errNotHolder) && !apierrors.IsNotFound(err) {
		return err
	}
	_, err = p.edit(r.Task.PodUID, func(r *restoration) error {
		if r.Failed == cause {
			r.Failed = ""
		}
		return nil
	})
	return err
}

// succeeded goes on after a container of the pod was restored: with several it is held until the others are.
func (p *Preparer) succeeded(ctx context.Context, t task) error {
	leave, err := p.turns.enter(ctx, t.PodUID)
	if err != nil {
		return err
	}
	defer leave()
	r, err := p.load(t.PodUID)
	if err != nil || r == nil || r.Handed[t.Container].ID != t.ContainerID {
		return err
	}
	if r.several() {
		return p.settle(ctx, r)
	}
	return p.restored(ctx, t)
}

// handedOver finds the restoration that a container was handed over in; nil where it was in none.
func (p *Preparer) handedOver(containerID string) (*restoration, string, error) {
	all, err := p.loadAll()
	if err != nil {
		return nil, "", err
	}
	for _, r := range all {
		for name, h := range r.Handed {
			if h.ID == containerID {
				return r, name, nil
			}
		}
	}
	return nil, "", nil
}

// restored records that the pod runs again, and removes its images, which CRIU has read to the end.
func (p *Preparer) restored(ctx context.Context, t task) error {
	now := metav1.NowMicro()
	number, outcome := int64(0), outcomeRestored
	var instead string
	var again time.Duration
	err := p.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		number, instead = c.Status.Claim.Generation, inPlaceOf(&c.Status)
		if f := c.Status.Claim.Fallback; f != nil {
			number, outcome, again = f.Generation.Number, outcomeFallback, lost(&c.Status)
		}
		if l := c.Status.Timeline; l != nil && l.Resumed == nil {
			l.Resumed = &now
		}
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored,
			fmt.Sprintf("generation %d runs on node %s%s", number, p.options.NodeName, instead))
		return nil
	})
	if errors.Is(err, errNotHolder) || apierrors.IsNotFound(err) {
		// It runs, and there is nobody to tell.
		p.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("restored, not recorded")
		return p.drop(t.PodUID)
	}
	if err != nil {
		return err
	}
	p.arrivals.end(types.UID(t.PodUID))
	p.options.Meter.ended(outcome)
	if outcome == outcomeFallback {
		p.options.Meter.again(again)
	}
	p.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", number).Msg("restored")
	p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeNormal, v1alpha1.ReasonRestored,
		fmt.Sprintf("goes on from generation %d of checkpoint %s%s", number, t.Checkpoint, instead))
	return p.drop(t.PodUID)
}
