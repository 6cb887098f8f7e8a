package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// eventFallback is the reason of the event on a pod that goes on from the generation before the claimed one.
const eventFallback = "OlderGeneration"

// fallBack takes the generation before in place of the claimed one, under the same claim. That claim is why at most one copy
// of the job runs: nobody else may restore what it stands for nor anything older, the older generation's source is the one that
// the claimed generation left frozen, and nothing of the claimed one is known to have run.
func (p *Preparer) fallBack(ctx context.Context, t task) error {
	var message string
	err := p.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		status := &c.Status
		older, failed := before(status), status.Condition(v1alpha1.ConditionRestored)
		if older == nil || failed == nil {
			return errors.New("there is no older generation any more")
		}
		message = fmt.Sprintf("generation %d could not be restored, trying generation %d instead: %s",
			status.Claim.Generation, older.Number, failed.Message)
		status.Claim.Fallback = &v1alpha1.Fallback{Generation: *older.DeepCopy(), Reason: failed.Reason}
		status.Claim.Attempts = 0
		status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionUnknown, v1alpha1.ReasonRestoreImpending, message)
		return nil
	})
	if err != nil {
		return fmt.Errorf("fall back to an older generation: %w", err)
	}
	p.options.Log.Warn().Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("fallen back to an older generation")
	p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeWarning, eventFallback, message)
	return nil
}

// inPlaceOf is the part of a message that says what the fallback stands for and what it costs; empty without one.
func inPlaceOf(status *v1alpha1.CheckpointStatus) string {
	f := status.Claim.Fallback
	if f == nil {
		return ""
	}
	return fmt.Sprintf(", in place of generation %d (%s); what the job did in the %s between them is done again",
		status.Claim.Generation, f.Reason, lost(status).Round(time.Second))
}

// lost is the time between the moment that the fallback shows and the one that the claimed generation does.
func lost(status *v1alpha1.CheckpointStatus) time.Duration {
	var end time.Time
	switch l, g := status.Timeline, status.Generation; {
	case l != nil && l.Frozen != nil:
		end = l.Frozen.Time
	case g != nil:
		end = g.Time.Time
	}
	return max(end.Sub(status.Claim.Fallback.Generation.Time.Time), 0)
}
