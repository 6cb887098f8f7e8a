package controller

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Stage is how far the newest interruption of a Checkpoint has come.
type Stage string

// The stages in their order. StageFailed and StageLost lead nowhere: the pod was thawed and may end, or begins anew.
const (
	// StageNone: no interruption is under way.
	StageNone Stage = "None"
	// StageEvacuating: the notice has come for the pod that bears the identity; nothing final is durable yet.
	StageEvacuating Stage = "Evacuating"
	// StageFailed: the evacuation ended without a final generation.
	StageFailed Stage = "Failed"
	// StageLost: the node is gone for certain, and there is nothing to go on from.
	StageLost Stage = "Lost"
	// StageFinal: the final generation is durable and may be claimed, or a safety generation has been promoted; its source
	// has still to leave.
	StageFinal Stage = "Final"
	// StageWaiting: the same, and the source is gone.
	StageWaiting Stage = "Waiting"
	// StageClaimed: a pod holds the claim and neither runs again nor has started clean.
	StageClaimed Stage = "Claimed"
)

// StageOf reads the stage off a status. A pod whose end was recorded before its notice has no interruption.
func StageOf(s *v1alpha1.CheckpointStatus) Stage {
	switch {
	case s.Ended():
		return StageNone
	case s.WaitingGeneration() != nil:
		return StageWaiting
	case s.UnclaimedGeneration() != nil:
		return StageFinal
	case s.Pod != nil && s.Lost(s.Pod.UID) && !s.Promoted():
		return StageLost
	case claimIsNewest(s) && !claimSettled(s):
		return StageClaimed
	case !noticed(s) || claimIsNewest(s):
		return StageNone
	case isFalse(s, v1alpha1.ConditionEvacuated):
		return StageFailed
	}
	return StageEvacuating
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

// outgoing tells whether the bearer is to be removed: frozen for good as the source of the newest interruption's final
// generation, whether somebody has claimed that by now or not, or gone with its node.
func outgoing(s *v1alpha1.CheckpointStatus) bool {
	if s.Pod != nil && s.Lost(s.Pod.UID) && !s.Ended() {
		return true
	}
	gen := s.Generation
	return gen != nil && gen.Final && s.IsTrue(v1alpha1.ConditionDurable) && s.IsTrue(v1alpha1.ConditionEvacuated) &&
		s.Timeline != nil && s.Timeline.PodUID == gen.PodUID && bears(s, gen.PodUID) && !s.Ended()
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
