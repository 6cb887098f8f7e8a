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

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name     string
		relation identity.Relation
		status   *v1alpha1.CheckpointStatus
		pod      string
		last     outcome
		fail     bool
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
	} {
		t.Run(c.name, func(t *testing.T) {
			onFailure := "start"
			if c.fail {
				onFailure = "fail"
			}
			if c.relation == identity.Nothing {
				c.relation = identity.Own
			}
			require.Equal(t, c.want, choose(c.relation, c.status, types.UID(c.pod), c.last, onFailure))
		})
	}
}
