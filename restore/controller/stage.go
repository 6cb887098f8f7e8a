package controller

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Stage is how far the newest interruption of a Checkpoint has come.
type Stage string

// The stages in their order. StageFailed leads nowhere: the pod was thawed, or died with its node.
const (
	// StageNone: no interruption is under way.
	StageNone Stage = "None"
	// StageEvacuating: the notice has come for the pod that bears the identity; nothing final is durable yet.
	StageEvacuating Stage = "Evacuating"
	// StageFailed: the evacuation ended without a final generation.
	StageFailed Stage = "Failed"
	// StageFinal: the final generation is durable; its source has still to leave.
	StageFinal Stage = "Final"
	// StageWaiting: the source is gone, the generation waits for a pod to claim it.
	StageWaiting Stage = "Waiting"
	// StageClaimed: a pod holds the claim and neither runs again nor has started clean.
	StageClaimed Stage = "Claimed"
)

// StageOf reads the stage off a status. A pod whose end was recorded before its notice has no interruption.
func StageOf(s *v1alpha1.CheckpointStatus) Stage {
	switch {
	case ended(s):
		return StageNone
	case s.WaitingGeneration() != nil:
		return StageWaiting
	case s.FinalGeneration() != nil:
		return StageFinal
	case claimIsNewest(s) && !claimSettled(s):
		return StageClaimed
	case !noticed(s) || claimIsNewest(s):
		return StageNone
	case isFalse(s, v1alpha1.ConditionEvacuated):
		return StageFailed
	}
	return StageEvacuating
}

// ended tells whether the end of the bearer was recorded: it exited, or was deleted with no interruption under way.
func ended(s *v1alpha1.CheckpointStatus) bool {
	c := s.Condition(v1alpha1.ConditionProtectable)
	return c != nil && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonPodEnded
}

// noticed tells whether the notice has come for the pod that bears the identity now.
func noticed(s *v1alpha1.CheckpointStatus) bool {
	return s.Timeline != nil && s.Timeline.Notice != nil && s.Pod != nil && s.Timeline.PodUID == s.Pod.UID
}

// claimIsNewest tells whether the claim is for the newest interruption's generation.
func claimIsNewest(s *v1alpha1.CheckpointStatus) bool {
	return s.Claim != nil && s.Generation != nil && s.Timeline != nil &&
		s.Claim.Generation == s.Generation.Number && s.Timeline.PodUID == s.Generation.PodUID
}

// claimSettled tells whether the claiming pod runs: restored, or started clean after every attempt failed. The claim
// and Restored=Unknown/Restoring come in one write, so an older outcome is not mistaken for this one.
func claimSettled(s *v1alpha1.CheckpointStatus) bool {
	c := s.Condition(v1alpha1.ConditionRestored)
	return c != nil && (c.Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonStartedClean)
}

func isFalse(s *v1alpha1.CheckpointStatus, conditionType string) bool {
	c := s.Condition(conditionType)
	return c != nil && c.Status == metav1.ConditionFalse
}
