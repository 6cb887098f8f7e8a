package node

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// waiting is the status of a Checkpoint whose final generation waits for a replacement of pod "old".
func waiting() *v1alpha1.CheckpointStatus {
	released := metav1.NewMicroTime(time.Unix(1, 0))
	s := &v1alpha1.CheckpointStatus{
		Generation: &v1alpha1.GenerationReference{Number: 1, PodUID: "old", Final: true},
		Timeline:   &v1alpha1.Timeline{PodUID: "old", Released: &released},
	}
	for _, c := range []struct{ kind, reason string }{
		{v1alpha1.ConditionDurable, v1alpha1.ReasonCommitted},
		{v1alpha1.ConditionEvacuated, v1alpha1.ReasonFinalGeneration},
		{v1alpha1.ConditionReleased, v1alpha1.ReasonSourceGone},
	} {
		s.SetCondition(c.kind, metav1.ConditionTrue, c.reason, "")
	}
	return s
}

// claimed is waiting after the claim of pod "new", with that reason on its Restored condition.
func claimed(reason string, attempts int32) *v1alpha1.CheckpointStatus {
	s := waiting()
	s.Epoch = 1
	s.Claim = &v1alpha1.Claim{Generation: 1, Epoch: 1, PodUID: "new", Attempts: attempts}
	status := metav1.ConditionFalse
	switch reason {
	case v1alpha1.ReasonRestored:
		status = metav1.ConditionTrue
	case v1alpha1.ReasonRestoreImpending:
		status = metav1.ConditionUnknown
	}
	s.SetCondition(v1alpha1.ConditionRestored, status, reason, "")
	return s
}

// withSafety is claimed of a source that had a safety generation before its final one, the second.
func withSafety(reason string, attempts int32) *v1alpha1.CheckpointStatus {
	s := claimed(reason, attempts)
	s.Generation.Number, s.Claim.Generation = 2, 2
	s.Safety = &v1alpha1.GenerationReference{Number: 1, PodUID: "old"}
	return s
}

func fellBack(reason string, attempts int32) *v1alpha1.CheckpointStatus {
	s := withSafety(reason, attempts)
	s.Claim.Fallback = &v1alpha1.Fallback{Generation: *s.Safety, Reason: v1alpha1.ReasonPackMissing}
	return s
}

func safetyOf(s *v1alpha1.CheckpointStatus, number int64, pod types.UID) *v1alpha1.CheckpointStatus {
	s.Safety.Number, s.Safety.PodUID = number, pod
	return s
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name     string
		relation identity.Relation
		status   *v1alpha1.CheckpointStatus
		pod      string
		last     outcome
		fail     bool
		noBack   bool
		want     rung
	}{
		{name: "nothing known", status: &v1alpha1.CheckpointStatus{}, pod: "new", want: rungCreate},
		{name: "generation waits", relation: identity.Waiting, status: waiting(), pod: "new", want: rungRestore},
		{name: "source is being evacuated", relation: identity.Coming, status: &v1alpha1.CheckpointStatus{}, pod: "new", want: rungWait},
		{name: "the source itself starts again", status: waiting(), pod: "old", want: rungEvacuated},
		{name: "claimed by another pod", status: claimed(v1alpha1.ReasonRestored, 1), pod: "third", want: rungCreate},
		{name: "restored, then exited", status: claimed(v1alpha1.ReasonRestored, 1), pod: "new", want: rungCreate},
		{name: "first attempt failed", status: claimed(v1alpha1.ReasonRestoreFailed, 1), pod: "new", want: rungRestore},
		{name: "all attempts failed", status: claimed(v1alpha1.ReasonRestoreFailed, 2), pod: "new", want: rungStartClean},
		{name: "all attempts failed, user forbids a clean start", status: claimed(v1alpha1.ReasonRestoreFailed, 2), pod: "new", fail: true, want: rungFail},
		{name: "bucket was down", status: claimed(v1alpha1.ReasonBucketFailed, 1), pod: "new", want: rungRestore},
		{name: "pack missing", status: claimed(v1alpha1.ReasonPackMissing, 1), pod: "new", want: rungStartClean},
		{name: "manifest corrupt, user forbids a clean start", status: claimed(v1alpha1.ReasonManifestCorrupt, 1), pod: "new", fail: true, want: rungFail},
		{name: "started clean before", status: claimed(v1alpha1.ReasonStartedClean, 2), pod: "new", fail: true, want: rungCreate},
		{name: "agent ended before the handover", status: claimed(v1alpha1.ReasonRestoreImpending, 1), pod: "new", want: rungRestore},
		{
			name:   "handed over, outcome unknown: never restored again",
			status: claimed(v1alpha1.ReasonRestoreImpending, 1), pod: "new", last: outcomeUnknown, want: rungStartClean,
		},
		{name: "pack missing, there is an older one", status: withSafety(v1alpha1.ReasonPackMissing, 1), pod: "new", want: rungFallBack},
		{name: "pack corrupt, there is an older one", status: withSafety(v1alpha1.ReasonPackCorrupt, 1), pod: "new", fail: true, want: rungFallBack},
		{name: "manifest corrupt, there is an older one", status: withSafety(v1alpha1.ReasonManifestCorrupt, 1), pod: "new", want: rungFallBack},
		{name: "CRIU failed once: the newest once more", status: withSafety(v1alpha1.ReasonRestoreFailed, 1), pod: "new", want: rungRestore},
		{name: "CRIU failed twice", status: withSafety(v1alpha1.ReasonRestoreFailed, 2), pod: "new", want: rungFallBack},
		{name: "older, but its owner wants none", status: withSafety(v1alpha1.ReasonPackMissing, 1), pod: "new", noBack: true, want: rungStartClean},
		{name: "older, of another pod", status: safetyOf(withSafety(v1alpha1.ReasonPackMissing, 1), 1, "older"), pod: "new", want: rungStartClean},
		{name: "a safety generation that is not older", status: safetyOf(withSafety(v1alpha1.ReasonPackMissing, 1), 2, "old"), pod: "new", want: rungStartClean},
		{name: "another image: the older is of the same", status: withSafety(v1alpha1.ReasonImageChanged, 1), pod: "new", want: rungStartClean},
		{
			name:   "handed over, outcome unknown: nothing older either",
			status: withSafety(v1alpha1.ReasonRestoreImpending, 1), pod: "new", last: outcomeUnknown, want: rungStartClean,
		},
		{name: "fallen back, the agent ended", status: fellBack(v1alpha1.ReasonRestoreImpending, 0), pod: "new", want: rungRestore},
		{name: "fallen back, bucket down", status: fellBack(v1alpha1.ReasonBucketFailed, 1), pod: "new", want: rungRestore},
		{name: "fallen back, CRIU failed once", status: fellBack(v1alpha1.ReasonRestoreFailed, 1), pod: "new", want: rungRestore},
		{name: "fallen back, CRIU failed twice", status: fellBack(v1alpha1.ReasonRestoreFailed, 2), pod: "new", want: rungStartClean},
		{name: "fallen back, damaged too", status: fellBack(v1alpha1.ReasonPackCorrupt, 1), pod: "new", fail: true, want: rungFail},
		{name: "the disk is full: once more", status: withSafety(v1alpha1.ReasonNodeDiskFull, 1), pod: "new", want: rungRestore},
		{name: "the disk stays full: an older one is no smaller", status: withSafety(v1alpha1.ReasonNodeDiskFull, 2), pod: "new", want: rungStartClean},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.relation == identity.Nothing {
				c.relation = identity.Own
			}
			require.Equal(t, c.want, choose(c.relation, c.status, types.UID(c.pod), c.last, wishes{fail: c.fail, back: !c.noBack}))
		})
	}
}
