package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// maxAttempts is how often one claim may try to restore.
const maxAttempts = 2

// errNothing: no generation waits for this pod, and it holds no claim.
var errNothing = errors.New("no generation waits")

// errUnfit: this node does not offer what the generation requires. It is not claimed, so that another node may; the
// controller takes the pod away from here.
var errUnfit = errors.New("this node cannot restore the generation")

// errNotHolder: the pod does not hold the claim, or not any more.
var errNotHolder = errors.New("this pod does not hold the claim")

// rung is what a create becomes.
type rung int

const (
	rungCreate rung = iota
	rungEvacuated
	rungWait
	rungRestore
	rungFallBack
	rungStartClean
	rungFail
)

// outcome is what this node knows of the pod's last handover to CRIU.
type outcome int

const (
	// outcomeNone: none was made.
	outcomeNone outcome = iota
	// outcomeUnknown: it was made and nobody reported how it ended; the process may have run.
	outcomeUnknown
	// outcomeInVain: one was made of this very container, and it ended without having run.
	outcomeInVain
)

// wishes are what the pod's owner asks for, by annotations.
type wishes struct {
	// fail: rather no start than one from the beginning. back: rather an older state than none.
	fail, back bool
	// keepIPs: the addresses of the pod before are to be kept.
	keepIPs bool
}

func wishesOf(pod *corev1.Pod) wishes {
	asked, _ := settings.Parse(pod.Annotations)
	return wishes{fail: pod.Annotations[v1alpha1.AnnotationOnRestoreFailure] == "fail", back: !asked.FinalOnly, keepIPs: asked.KeepPodIPAlias}
}

// choose picks the rung for pod from what is written down on the Checkpoint that concerns it. It is pure.
func choose(relation identity.Relation, status *v1alpha1.CheckpointStatus, pod types.UID, last outcome, wish wishes) rung {
	switch relation {
	case identity.Waiting:
		return rungRestore
	case identity.Coming:
		return rungWait
	}
	// Its state has left this node, by its final generation or, while nobody heard of the node, by a safety generation.
	if g := status.Generation; g != nil && g.PodUID == pod || status.Lost(pod) {
		return rungEvacuated
	}
	claim, restored := status.Claim, status.Condition(v1alpha1.ConditionRestored)
	if claim == nil || claim.PodUID != pod || restored == nil {
		return rungCreate
	}
	giveUp := rungStartClean
	if wish.fail {
		giveUp = rungFail
	}
	down := giveUp
	if wish.back && before(status) != nil {
		down = rungFallBack
	}
	switch restored.Reason {
	case v1alpha1.ReasonRestored, v1alpha1.ReasonStartedClean:
		return rungCreate
	case v1alpha1.ReasonBucketFailed:
		return rungRestore
	case v1alpha1.ReasonRestoreFailed:
		if claim.Attempts < maxAttempts {
			return rungRestore
		}
		return down
	case v1alpha1.ReasonManifestCorrupt, v1alpha1.ReasonPackMissing, v1alpha1.ReasonPackCorrupt:
		return down
	case v1alpha1.ReasonNodeDiskFull:
		if claim.Attempts < maxAttempts {
			return rungRestore
		}
		return giveUp // another state would take as much room
	case v1alpha1.ReasonRestoreImpending:
		// It may have run, and gone on from where nobody knows: nothing older is put in its place.
		if last == outcomeUnknown {
			return giveUp
		}
		if last == outcomeInVain && claim.Attempts >= maxAttempts {
			return down
		}
		return rungRestore
	}
	return giveUp
}

// before returns the newest safety generation of the source that is older than the claimed generation; nil where there is
// none, or it has been fallen back to.
func before(status *v1alpha1.CheckpointStatus) *v1alpha1.GenerationReference {
	claimed, safety := status.Generation, status.Safety
	if claimed == nil || safety == nil || status.Claim == nil || status.Claim.Fallback != nil ||
		safety.PodUID != claimed.PodUID || safety.Number >= claimed.Number || claimed.Number != status.Claim.Generation {
		return nil
	}
	return safety
}

// generationOf returns the generation that is restored under the claim of status.
func generationOf(status *v1alpha1.CheckpointStatus) *v1alpha1.GenerationReference {
	if f := status.Claim.Fallback; f != nil {
		return &f.Generation
	}
	return status.Generation
}

// task is a container that is to go on from a Checkpoint's generation.
type task struct {
	handover.PrepareRequest
	Checkpoint    string    `json:"checkpoint"`
	CheckpointUID types.UID `json:"checkpointUID"`
	// KeepIPs says that the pod is to keep the addresses of the pod before.
	KeepIPs bool `json:"keepIPs,omitempty"`
	// joins says that other containers of the pod were restored in the attempt that is under way.
	joins bool
	pod   shape
}

// claim takes the waiting generation for the pod of t, or counts one more attempt under the claim that it holds.
// errNothing where another pod was first.
func (p *Preparer) claim(ctx context.Context, t task) (*v1alpha1.Checkpoint, error) {
	pod := types.UID(t.PodUID)
	claimed, err := p.options.Checkpoints.UpdateStatus(ctx, t.Namespace, t.Checkpoint, func(c *v1alpha1.Checkpoint) error {
		status := &c.Status
		now := metav1.NewMicroTime(time.Now())
		if c.UID != t.CheckpointUID {
			return errNothing
		}
		if identity.Claimable(c, pod) {
			waiting := status.Generation
			if missing := placement.Missing(waiting.Requirements, p.options.Offer); missing != nil {
				return fmt.Errorf("%w: generation %d, taken on node %s, requires %s",
					errUnfit, waiting.Number, waiting.NodeName, strings.Join(missing, "; "))
			}
			status.Epoch++
			status.Claim = &v1alpha1.Claim{
				Generation: waiting.Number, Epoch: status.Epoch, NodeName: p.options.NodeName, PodName: t.Pod, PodUID: pod, Time: now,
			}
			status.Timeline.Claimed = &now
			status.SetCondition(v1alpha1.ConditionClaimed, metav1.ConditionTrue, v1alpha1.ReasonClaimed,
				fmt.Sprintf("generation %d by pod UID %s on node %s", waiting.Number, pod, p.options.NodeName))
		} else if status.Claim == nil || status.Claim.PodUID != pod || status.Generation == nil || status.Claim.Generation != status.Generation.Number {
			return errNothing
		}
		if counts(status, t.joins) {
			status.Claim.Attempts++
		}
		status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionUnknown, v1alpha1.ReasonRestoreImpending,
			fmt.Sprintf("attempt %d of %d with generation %d on node %s%s", status.Claim.Attempts, maxAttempts, generationOf(status).Number,
				p.options.NodeName, inPlaceOf(status)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim generation for pod %s/%s: %w", t.Namespace, t.Pod, err)
	}
	return claimed, nil
}

// counts tells whether this is one more attempt: the pod's, in which its containers follow one another. A dead bucket is
// waited for; only what CRIU was tried on counts. The last attempt is begun anew where it did not come to CRIU.
func counts(status *v1alpha1.CheckpointStatus, joins bool) bool {
	r := status.Condition(v1alpha1.ConditionRestored)
	switch {
	case r == nil || status.Claim.Attempts == 0:
		return true
	case status.Claim.Attempts >= maxAttempts:
		return false
	case r.Reason == v1alpha1.ReasonRestoreImpending:
		return !joins
	}
	return r.Reason != v1alpha1.ReasonBucketFailed
}

// failed records that the attempt did not bring the pod back.
func (p *Preparer) failed(ctx context.Context, t task, reason, message string) error {
	err := p.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionFalse, reason, message)
		return nil
	})
	if err != nil {
		return fmt.Errorf("record that the restore failed: %w", err)
	}
	p.options.Meter.failed(reason)
	p.event(types.UID(t.PodUID), t.PrepareRequest, "Warning", reason, "not restored: "+message)
	return nil
}

// moment writes one moment of the timeline.
func (p *Preparer) moment(ctx context.Context, t task, set func(*v1alpha1.Timeline, *metav1.MicroTime)) error {
	now := metav1.NewMicroTime(time.Now())
	return p.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		if c.Status.Timeline != nil {
			set(c.Status.Timeline, &now)
		}
		return nil
	})
}

// update changes the Checkpoint's status while the pod of t holds the claim.
func (p *Preparer) update(ctx context.Context, t task, change func(*v1alpha1.Checkpoint) error) error {
	_, err := p.options.Checkpoints.UpdateStatus(ctx, t.Namespace, t.Checkpoint, func(c *v1alpha1.Checkpoint) error {
		if c.UID != t.CheckpointUID || c.Status.Claim == nil || string(c.Status.Claim.PodUID) != t.PodUID {
			return fmt.Errorf("%w of checkpoint %s: pod %s/%s of UID %s", errNotHolder, t.Checkpoint, t.Namespace, t.Pod, t.PodUID)
		}
		return change(c)
	})
	return err
}
