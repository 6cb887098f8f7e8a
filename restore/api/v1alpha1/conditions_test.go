package v1alpha1

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSetConditionMovesTheTransitionTimeWithTheStatusOnly(t *testing.T) {
	then := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	s := &CheckpointStatus{Conditions: []metav1.Condition{{
		Type: ConditionProtectable, Status: metav1.ConditionFalse, Reason: ReasonHostPID, LastTransitionTime: then,
	}}}
	require.True(t, s.SetCondition(ConditionProtectable, metav1.ConditionFalse, ReasonHostIPC, "other obstacle"))
	require.Equal(t, then, s.Condition(ConditionProtectable).LastTransitionTime)
	require.False(t, s.SetCondition(ConditionProtectable, metav1.ConditionFalse, ReasonHostIPC, "other obstacle"))
	require.True(t, s.SetCondition(ConditionProtectable, metav1.ConditionTrue, ReasonProtected, "fine"))
	require.True(t, s.Condition(ConditionProtectable).LastTransitionTime.After(then.Time))
	require.True(t, s.IsTrue(ConditionProtectable))
	require.Nil(t, s.Condition(ConditionClaimed))
}

func TestKnownReason(t *testing.T) {
	require.True(t, KnownReason(ConditionReleased, ReasonSourceGone))
	require.False(t, KnownReason(ConditionReleased, ReasonHostPID))
	require.False(t, KnownReason("Invented", ReasonSourceGone))
}

func TestWaitingGeneration(t *testing.T) {
	now := metav1.NowMicro()
	ready := func(change func(*CheckpointStatus)) *CheckpointStatus {
		s := &CheckpointStatus{
			Generation: &GenerationReference{Number: 2, PodUID: "source", Final: true},
			Claim:      &Claim{Generation: 1},
			Timeline:   &Timeline{PodUID: "source", Released: &now},
		}
		for _, c := range []string{ConditionDurable, ConditionEvacuated, ConditionReleased} {
			s.SetCondition(c, metav1.ConditionTrue, "Any", "")
		}
		change(s)
		return s
	}
	for name, tc := range map[string]struct {
		change         func(*CheckpointStatus)
		final, waiting bool
	}{
		"released and unclaimed": {func(*CheckpointStatus) {}, true, true},
		"nothing committed":      {func(s *CheckpointStatus) { s.Generation = nil }, false, false},
		"not final":              {func(s *CheckpointStatus) { s.Generation.Final = false }, false, false},
		"not durable":            {func(s *CheckpointStatus) { s.SetCondition(ConditionDurable, "False", "Any", "") }, false, false},
		"not evacuated":          {func(s *CheckpointStatus) { s.SetCondition(ConditionEvacuated, "Unknown", "Any", "") }, false, false},
		"claimed":                {func(s *CheckpointStatus) { s.Claim.Generation = 2 }, false, false},
		"source still there":     {func(s *CheckpointStatus) { s.SetCondition(ConditionReleased, "False", "Any", "") }, true, false},
		"released long ago only": {func(s *CheckpointStatus) { s.Timeline.Released = nil }, true, false},
		"a newer interruption":   {func(s *CheckpointStatus) { s.Timeline.PodUID = "restored" }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := ready(tc.change)
			require.Equal(t, tc.final, s.UnclaimedGeneration() != nil)
			require.Equal(t, tc.waiting, s.WaitingGeneration() != nil)
		})
	}
}
