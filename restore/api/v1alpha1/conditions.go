package v1alpha1

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// foundOnNode are the False reasons of ConditionDumpable.
var foundOnNode = []string{
	ReasonIOUring, ReasonMPTCP, ReasonSocketUnsupported, ReasonFileUnsupported, ReasonDeviceOpen, ReasonMessageQueue,
	ReasonSemaphoreEventfd, ReasonUnlinkedFileTooLarge, ReasonNestedNamespace, ReasonTraced, ReasonTaskStopped, ReasonPodAddressBound,
	ReasonContainersConnected, ReasonSystemVIPC, ReasonFilesTooLarge,
}

// FoundOnNode tells whether a reason is one that only a pod's running tasks and files show, and the agent of its node
// therefore finds.
func FoundOnNode(reason string) bool { return slices.Contains(foundOnNode, reason) }

// closedReasons are the reasons that each condition type may bear.
var closedReasons = map[string][]string{
	ConditionProtectable: slices.Concat([]string{
		ReasonProtected, ReasonHostPID, ReasonHostIPC, ReasonHostNetwork, ReasonSharedPID, ReasonHostPathVolume,
		ReasonContainerEnded, ReasonStartOrder, ReasonContainerWaiting, ReasonNodeBound, ReasonDevices, ReasonRuntimeClass, ReasonPodEnded,
		ReasonNodeNotReady, ReasonNotScheduled, ReasonNameTaken, ReasonPodLost, ReasonExclusionInvalid, ReasonRecoverNever,
	}, foundOnNode),
	ConditionDumpable:      slices.Concat([]string{ReasonNothingFound}, foundOnNode),
	ConditionSettingsValid: {ReasonSettingsTaken, ReasonSettingInvalid},
	ConditionCurrent: slices.Concat([]string{
		ReasonWithinShare, ReasonOff, ReasonFactsRefused, ReasonFirstRound, ReasonNoSafetyDump, ReasonFreezeTooLong,
		ReasonRoundsLate, ReasonNeighbours, ReasonMemoryTooLarge, ReasonChangesTooFast,
	}, foundOnNode),
	ConditionEvacuated: {
		ReasonEvacuating, ReasonFinalGeneration, ReasonDumpFailed, ReasonBucketFailed, ReasonDeadlinePassed,
		ReasonThawed, ReasonNodeLost, ReasonNoInterruption,
	},
	ConditionDurable:  {ReasonCommitted, ReasonEvacuating, ReasonBucketFailed, ReasonManifestCorrupt, ReasonPackMissing, ReasonPackCorrupt},
	ConditionReleased: {ReasonEvicting, ReasonForcedRemoval, ReasonSourceGone, ReasonNoInterruption},
	ConditionClaimed:  {ReasonClaimed, ReasonNoInterruption},
	ConditionRestored: {
		ReasonWaiting, ReasonRestored, ReasonRestoreImpending, ReasonManifestCorrupt, ReasonPackMissing, ReasonPackCorrupt,
		ReasonBucketFailed, ReasonImageChanged, ReasonRestoreFailed, ReasonNodeDiskFull, ReasonStartedClean, ReasonNoInterruption,
		ReasonContainersChanged, ReasonNotRestartable,
	},
	ConditionTolerated: {ReasonDisruptionsIgnored, ReasonDisruptionsCounted},
}

// KnownReason tells whether conditions of that type may bear that reason. Both lists are closed: alerts and scripts
// match on them.
func KnownReason(conditionType, reason string) bool {
	return slices.Contains(closedReasons[conditionType], reason)
}

// SetCondition puts the condition in place of the former one of its type and reports whether anything changed. The
// transition time moves only where the status does.
func (s *CheckpointStatus) SetCondition(conditionType string, status metav1.ConditionStatus, reason, message string) bool {
	return meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: conditionType, Status: status, Reason: reason, Message: message,
	})
}

// Condition returns the condition of that type, nil where it was never set. It points into s.
func (s *CheckpointStatus) Condition(conditionType string) *metav1.Condition {
	return meta.FindStatusCondition(s.Conditions, conditionType)
}

// IsTrue tells whether the condition of that type is there and True.
func (s *CheckpointStatus) IsTrue(conditionType string) bool {
	return meta.IsStatusConditionTrue(s.Conditions, conditionType)
}

// UnclaimedGeneration returns the newest generation where it was the outcome of the newest interruption and nobody has claimed
// it: durable, and either final, its source evacuated and left frozen, or promoted. Nil otherwise.
func (s *CheckpointStatus) UnclaimedGeneration() *GenerationReference {
	gen := s.Generation
	switch {
	case gen == nil || !s.IsTrue(ConditionDurable) || s.Timeline == nil || s.Timeline.PodUID != gen.PodUID:
		return nil
	case !s.Promoted() && !(gen.Final && s.IsTrue(ConditionEvacuated)):
		return nil
	case s.Claim != nil && s.Claim.Generation >= gen.Number:
		return nil
	}
	return gen
}

// WaitingGeneration returns UnclaimedGeneration where its source pod is gone from the API, so that a replacement may bear its
// name.
func (s *CheckpointStatus) WaitingGeneration() *GenerationReference {
	if gen := s.UnclaimedGeneration(); gen != nil && s.Released() {
		return gen
	}
	return nil
}

// Promoted tells whether status.generation is a safety generation that was put there because its source's node was gone for
// certain.
func (s *CheckpointStatus) Promoted() bool {
	gen := s.Generation
	return gen != nil && !gen.Final && s.Lost(gen.PodUID)
}

// Lost tells whether the newest interruption is that of the pod, whose node was found to be gone for certain: what may still
// run of it there has no say any more.
func (s *CheckpointStatus) Lost(pod types.UID) bool {
	return s.Timeline != nil && s.Timeline.Lost != nil && s.Timeline.PodUID == pod
}

// Silent tells whether the node of the pod that bears the identity does not answer, while nobody knows whether it is gone, and
// the pod could go on from a safety generation if it were.
func (s *CheckpointStatus) Silent() bool {
	return s.Silence != nil && s.Silence.Recoverable && s.Pod != nil && s.Silence.PodUID == s.Pod.UID
}

// Open tells whether it is still open what becomes of the bearer: it has not ended, was not given up with its node, and nothing
// final is stored of it.
func (s *CheckpointStatus) Open() bool {
	return s.Pod != nil && !s.Ended() && !s.Lost(s.Pod.UID) && (s.Generation == nil || s.Generation.PodUID != s.Pod.UID)
}

// Unjudged tells whether the bearer could go on from a safety generation if its node were gone, which nobody has said yet.
// Where it may not (annotation AnnotationRecover), it has none; one that was called lost after a failed evacuation is judged.
func (s *CheckpointStatus) Unjudged() bool {
	c := s.Condition(ConditionProtectable)
	lost := c != nil && c.Status == metav1.ConditionFalse && c.Reason == ReasonPodLost
	return s.Open() && !lost && s.Safety != nil && s.Safety.PodUID == s.Pod.UID
}

// Released tells whether the source of the newest interruption is gone from the API. The condition alone may still speak of
// the interruption before; the timeline is of the newest.
func (s *CheckpointStatus) Released() bool {
	return s.IsTrue(ConditionReleased) && s.Timeline != nil && s.Timeline.Released != nil
}

// Ended tells whether the end of the bearer was recorded: it exited, or was deleted with no interruption under way. What is
// stored of it after that is nobody's to restore.
func (s *CheckpointStatus) Ended() bool {
	c := s.Condition(ConditionProtectable)
	return c != nil && c.Status == metav1.ConditionFalse && c.Reason == ReasonPodEnded
}

// Restoring tells whether the pod holds the claim and is being restored under it.
func (s *CheckpointStatus) Restoring(pod types.UID) bool {
	c := s.Condition(ConditionRestored)
	return s.Claim != nil && s.Claim.PodUID == pod && c != nil && c.Reason == ReasonRestoreImpending
}

// Evacuating tells whether the pod that bears the identity is being evacuated, with nothing final durable yet.
func (s *CheckpointStatus) Evacuating() bool {
	c := s.Condition(ConditionEvacuated)
	return s.Timeline != nil && s.Timeline.Notice != nil && s.Pod != nil && s.Timeline.PodUID == s.Pod.UID &&
		c != nil && c.Status == metav1.ConditionUnknown
}
