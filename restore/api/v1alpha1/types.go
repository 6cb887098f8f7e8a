// Package v1alpha1 is the Kubernetes API of Lifeboat: the Checkpoint kind, its conditions, and the labels and
// annotations that mean something to Lifeboat. It holds types alone; both snapshot and restore import it.
//
// One Checkpoint exists for each protected pod and its continuations. Its spec is the controller's; of its status the agent of the
// source node, the agent that claims, and the controller each own parts, told apart by the comments below. The bucket
// says which generations exist; the Checkpoint says who may use them.
//
// +kubebuilder:object:generate=true
// +groupName=lifeboat.dev
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Checkpoint is the state of protection of one pod and of those that continue it. It bears the name of the first of them,
// with the identity's key behind it where a Checkpoint of another identity has that name.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=ckpt
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.status.pod.name`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.pod.nodeName`
// +kubebuilder:printcolumn:name="Gen",type=integer,JSONPath=`.status.generation.number`,description="newest durable generation"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.status.generation.time`,description="age of the recovery point"
// +kubebuilder:printcolumn:name="Safety",type=date,JSONPath=`.status.safety.time`,description="age of the newest safety generation: what the loss of the node would cost"
// +kubebuilder:printcolumn:name="Dirty",type=string,JSONPath=`.status.protection.dirty`,description="what a notice would find unsent"
// +kubebuilder:printcolumn:name="Window",type=string,JSONPath=`.status.protection.window`,description="time from a notice until all would be durable"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Protectable")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Protectable")].reason`
// +kubebuilder:printcolumn:name="Verdict",type=string,JSONPath=`.status.protection.level`,description="Safe, AtRisk or Unprotected: what a notice that came now would find"
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.conditions[?(@.type=="Current")].reason`
// +kubebuilder:printcolumn:name="Restored",type=string,JSONPath=`.status.conditions[?(@.type=="Restored")].reason`,description="Waiting, Restoring, Restored, StartedClean, or why not: what became of GEN"
// +kubebuilder:printcolumn:name="Evacuated",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Evacuated")].reason`
// +kubebuilder:selectablefield:JSONPath=`.status.pod.uid`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == self.spec.identity.name || (self.metadata.name.size() > 17 && self.spec.identity.name.startsWith(self.metadata.name.substring(0, self.metadata.name.size() - 17)))",message="a Checkpoint bears the name of its first pod: metadata.name must be spec.identity.name, or that with a dash and the identity's key of 16 characters"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || has(self.status)",message="status cannot be taken away: it holds the epoch that fences older claims"
type Checkpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CheckpointSpec   `json:"spec"`
	Status CheckpointStatus `json:"status,omitempty"`
}

// CheckpointList is what the API server answers to a list.
//
// +kubebuilder:object:root=true
type CheckpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Checkpoint `json:"items"`
}

// CheckpointSpec is written by the controller alone.
//
// +kubebuilder:validation:XValidation:rule="self.identity.kind == 'Pod' || !has(self.template)",message="only a bare pod has a template: its owner makes the replacement of any other"
type CheckpointSpec struct {
	// Identity names who may restore the generations of this Checkpoint. It never changes.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the identity never changes: delete the Checkpoint and let the controller make a new one"
	Identity Identity `json:"identity"`
	// Template is the pod to create in place of a bare pod that has been released: metadata (labels and annotations)
	// and spec, as the API server once accepted them. Empty where an owner makes the replacement.
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Template *runtime.RawExtension `json:"template,omitempty"`
}

// Identity says which pods may continue one another: those of equal key (package identity). Docs/design.md section 5.
type Identity struct {
	// Kind says what makes the pods that continue one another, and so which of the fields below count.
	// +kubebuilder:validation:Enum=Pod;StatefulSet;IndexedJob;Job;ReplicaSet;Other
	Kind string `json:"kind"`
	// Name is the name of the pod that first bore the identity. It counts for bare pods and StatefulSets.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Owner is the pod's controller; absent for a bare pod. Its UID counts.
	Owner *Owner `json:"owner,omitempty"`
	// Index is the completion index of a pod of an Indexed Job.
	// +kubebuilder:validation:Minimum=0
	Index *int32 `json:"index,omitempty"`
	// Program is what the pod runs, where its owner may change that: the controller revision of a StatefulSet's pod, a
	// hash of images, commands and arguments for kind Other.
	Program string `json:"program,omitempty"`
	// Labels are the stable labels of the pod, for kind Other.
	Labels map[string]string `json:"labels,omitempty"`
}

// Owner is the controller of a pod.
type Owner struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
}

// Kinds of identities.
const (
	// KindPod: a bare pod, continued by a pod of the same name.
	KindPod = "Pod"
	// KindStatefulSet: continued by a pod of the same name, set and revision.
	KindStatefulSet = "StatefulSet"
	// KindIndexedJob: continued by a pod of the same Job and completion index.
	KindIndexedJob = "IndexedJob"
	// KindJob and KindReplicaSet: any pod of the same Job or ReplicaSet.
	KindJob        = "Job"
	KindReplicaSet = "ReplicaSet"
	// KindOther: a pod of the same owner that has the same stable labels and runs the same program.
	KindOther = "Other"
)

// CheckpointStatus is what is known of the pod and its generations.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.generation) || (has(self.generation) && self.generation.number >= oldSelf.generation.number)",message="the generation number never decreases"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.generation) || oldSelf.generation.final || !has(self.generation) || self.generation.podUID != oldSelf.generation.podUID || (self.generation.number == oldSelf.generation.number && !self.generation.final)",message="the pod was given up with its node and goes on from its safety generation: another generation of it comes too late"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.claim) || (has(self.claim) && self.claim.generation >= oldSelf.claim.generation)",message="a claim is never taken back: it stays until a newer generation is claimed"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.claim) || !has(self.claim) || self.claim.generation != oldSelf.claim.generation || (self.claim.podUID == oldSelf.claim.podUID && self.claim.nodeName == oldSelf.claim.nodeName && self.claim.epoch == oldSelf.claim.epoch)",message="this generation is claimed by another pod: a generation is restored at most once"
type CheckpointStatus struct {
	// Pod is the pod that bears the identity now: after an interruption the one that claimed, once the source is gone.
	// Written by the controller.
	Pod *PodReference `json:"pod,omitempty"`
	// Epoch fences: the number of claims ever made. A generation bears the epoch of the pod that wrote it.
	// Written by the agent that claims, together with Claim.
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:XValidation:rule="self >= oldSelf",message="the epoch never decreases"
	Epoch int64 `json:"epoch"`
	// Generation is the newest durable generation that may be restored. Written by the agent of the source node; where that
	// node is gone, the controller writes a copy of Safety here (Promoted).
	Generation *GenerationReference `json:"generation,omitempty"`
	// Safety is the newest safety generation: durable, its source ran on. Nobody restores it before it is promoted. Written by
	// the agent of the source node.
	Safety *GenerationReference `json:"safety,omitempty"`
	// Silence is there while the node of the pod does not answer, and nobody knows whether it is gone. Written by the
	// controller.
	Silence *Silence `json:"silence,omitempty"`
	// Protection is what a notice would find. Written by the agent of the source node, when it changes materially.
	Protection *Protection `json:"protection,omitempty"`
	// Claim is the newest claim. Written by the agent that claims: the one optimistic update that decides who restores.
	Claim *Claim `json:"claim,omitempty"`
	// Evicted says that somebody else evicted the bearer before its notice was heard. Written by the controller.
	Evicted *Evicted `json:"evicted,omitempty"`
	// Timeline holds the moments of the newest interruption. Each is written by the one who was there.
	Timeline *Timeline `json:"timeline,omitempty"`
	// Conditions are of the types and reasons of this package, no others.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:XValidation:rule="self.all(c, c.type in ['Protectable', 'Dumpable', 'SettingsValid', 'Current', 'Evacuated', 'Durable', 'Released', 'Claimed', 'Restored', 'Tolerated'])",message="condition types are Protectable, Dumpable, SettingsValid, Current, Evacuated, Durable, Released, Claimed, Restored, Tolerated"
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PodReference names one pod object.
type PodReference struct {
	Name     string    `json:"name"`
	UID      types.UID `json:"uid"`
	NodeName string    `json:"nodeName,omitempty"`
}

// GenerationReference names one committed generation in the bucket.
type GenerationReference struct {
	// Number counts the generations of a Checkpoint from 1.
	// +kubebuilder:validation:Minimum=1
	Number int64 `json:"number"`
	// Epoch is the epoch under which it was written.
	Epoch int64 `json:"epoch"`
	// PodUID is the pod whose state it is.
	PodUID types.UID `json:"podUID"`
	// NodeName is the node it was taken on.
	NodeName string `json:"nodeName"`
	// Final says that its source was left frozen and never ran again. In status.generation it is false for a promoted safety
	// generation alone.
	Final bool `json:"final"`
	// Containers are the names of the containers whose state it holds, native sidecars included, in ascending order. Empty:
	// the one container of the pod, written by an agent that knew of no others.
	// +listType=set
	// +kubebuilder:validation:MaxItems=128
	Containers []string `json:"containers,omitempty"`
	// PodIPs are the addresses of the pod whose state it is, and those that it kept of pods before it. Nobody vouches for
	// them.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	PodIPs []string `json:"podIPs,omitempty"`
	// StoredBytes is what the bucket took for it; RSSBytes what the containers held in memory.
	StoredBytes int64 `json:"storedBytes"`
	RSSBytes    int64 `json:"rssBytes"`
	// WindowBytes is what of StoredBytes was uploaded after the notice; 0 where that is not known.
	WindowBytes int64 `json:"windowBytes,omitempty"`
	// Requirements are what a node must offer to restore it; package placement has their names and how they are compared.
	// +kubebuilder:validation:MaxProperties=32
	Requirements map[string]string `json:"requirements,omitempty"`
	// Time is when it became durable.
	Time metav1.MicroTime `json:"time"`
}

// Silence says that the node of a pod that was there and had not ended was found silent.
type Silence struct {
	// PodUID is the pod, NodeName its node.
	PodUID   types.UID `json:"podUID"`
	NodeName string    `json:"nodeName"`
	// Since is when the control plane called the node unreachable. As long as its condition Ready bears the same time, no
	// kubelet has answered in between.
	Since metav1.Time `json:"since"`
	// Alive is the node's last sign of life.
	Alive metav1.MicroTime `json:"alive"`
	// Recoverable says that the pod has a safety generation and that its owner lets it go back to that.
	Recoverable bool `json:"recoverable,omitempty"`
}

// Protection is the verdict on a pod with its figures. The condition Current has reason and message.
type Protection struct {
	// PodUID is the pod that it is about.
	PodUID types.UID `json:"podUID"`
	// Level says how well the pod is protected.
	// +kubebuilder:validation:Enum=Safe;AtRisk;Unprotected
	Level string `json:"level"`
	// Dirty is how many bytes would be left to upload if a notice came at the worst moment, Window how long it would take
	// until the pod were durable. Both are missing where nothing is predicted, for a pod that is not copied.
	Dirty  *resource.Quantity `json:"dirty,omitempty"`
	Window *metav1.Duration   `json:"window,omitempty"`
}

// Claim is the sole right to restore one generation.
type Claim struct {
	// +kubebuilder:validation:Minimum=1
	Generation int64 `json:"generation"`
	// +kubebuilder:validation:Minimum=1
	Epoch int64 `json:"epoch"`
	// +kubebuilder:validation:MinLength=1
	NodeName string    `json:"nodeName"`
	PodName  string    `json:"podName,omitempty"`
	PodUID   types.UID `json:"podUID"`
	// Attempts counts the restores tried of the claimed generation, or of the fallback once there is one.
	Attempts int32            `json:"attempts"`
	Time     metav1.MicroTime `json:"time"`
	// Fallback is what is restored under this claim in place of the claimed generation, which could not be.
	Fallback *Fallback `json:"fallback,omitempty"`
}

// Evicted is the removal of a pod by the Eviction API, by preemption or for a taint, before its node's agent has heard of an
// interruption. Who evicts may have heard earlier: drain handlers act on the same notice.
type Evicted struct {
	PodUID types.UID        `json:"podUID"`
	Time   metav1.MicroTime `json:"time"`
}

// Fallback is the generation before the claimed one: an older state of the same process.
type Fallback struct {
	Generation GenerationReference `json:"generation"`
	// Reason is why the claimed generation was given up, as on condition Restored.
	Reason string `json:"reason"`
}

// Timeline holds the moments of one interruption, nil where not reached. A new notice starts a new one, and so does the loss
// of a node without one.
type Timeline struct {
	// PodUID is the pod that was interrupted.
	PodUID   types.UID         `json:"podUID"`
	Notice   *metav1.MicroTime `json:"notice,omitempty"`
	Deadline *metav1.MicroTime `json:"deadline,omitempty"`
	Frozen   *metav1.MicroTime `json:"frozen,omitempty"`
	Dumped   *metav1.MicroTime `json:"dumped,omitempty"`
	Durable  *metav1.MicroTime `json:"durable,omitempty"`
	Released *metav1.MicroTime `json:"released,omitempty"`
	Claimed  *metav1.MicroTime `json:"claimed,omitempty"`
	Fetched  *metav1.MicroTime `json:"fetched,omitempty"`
	Resumed  *metav1.MicroTime `json:"resumed,omitempty"`
	// Lost is when the node was found to be gone for certain, without a final generation of the pod. Alive is its last sign of
	// life before.
	Lost  *metav1.MicroTime `json:"lost,omitempty"`
	Alive *metav1.MicroTime `json:"alive,omitempty"`
}

// Levels of Protection: a notice is answered in time; it may not be, and then the work since the newest safety generation is
// lost; it ends the pod for good.
const (
	LevelSafe        = "Safe"
	LevelAtRisk      = "AtRisk"
	LevelUnprotected = "Unprotected"
)

// Condition types of a Checkpoint.
const (
	// ConditionProtectable: the pod can be checkpointed and restored as it stands. It sums up what the controller sees (the
	// pod's spec, its node) and ConditionDumpable. Owner: controller.
	ConditionProtectable = "Protectable"
	// ConditionDumpable: neither the running tasks nor the files of the pod hold anything that keeps it from being dumped
	// and restored. Its message has a line for each reason (package obstacle). Owner: source agent.
	ConditionDumpable = "Dumpable"
	// ConditionSettingsValid: the annotations of the pod that set something are understood. False: the message has a line
	// for each that is not, and the node's default holds in its place. Missing where there are no such annotations. Owner:
	// controller.
	ConditionSettingsValid = "SettingsValid"
	// ConditionCurrent: a notice that came now would be answered in time (True: Safe), or not for certain (False: the
	// message begins with AtRisk or Unprotected). Owner: source agent.
	ConditionCurrent = "Current"
	// ConditionEvacuated: the node is going and the pod has been dumped for good; False with a reason where that
	// failed and the pod was thawed, or where the node was gone before. Unknown while it is under way. Owner: source agent;
	// the controller says NodeLost, after which the agent may say no more.
	ConditionEvacuated = "Evacuated"
	// ConditionDurable: status.generation was committed and read back. Owner: source agent.
	ConditionDurable = "Durable"
	// ConditionReleased: the source pod is gone from the API, so a replacement may bear its name, and a pod that has
	// claimed meanwhile becomes the bearer. Owner: controller.
	ConditionReleased = "Released"
	// ConditionClaimed: status.claim holds for status.generation. Owner: claiming agent.
	ConditionClaimed = "Claimed"
	// ConditionRestored: the claimed generation runs again; False with the reason of the rung that failed. Unknown from the
	// moment at which there is a generation to be claimed. Owner: claiming agent, from the claim on.
	ConditionRestored = "Restored"
	// ConditionTolerated: the pod's Job does not count an interruption as a failure; False where it does. It says nothing
	// of whether the pod can be saved. On pods of Jobs alone. Owner: controller.
	ConditionTolerated = "Tolerated"
)

// Reasons of ConditionProtectable. Each False one names an obstacle; the condition's message names the mend.
const (
	ReasonProtected        = "Protected"
	ReasonHostPID          = "HostPID"
	ReasonHostIPC          = "HostIPC"
	ReasonHostNetwork      = "HostNetwork"
	ReasonSharedPID        = "ShareProcessNamespace"
	ReasonHostPathVolume   = "HostPathVolume"
	ReasonContainerEnded   = "ContainerEnded"
	ReasonContainerWaiting = "ContainerWaiting"
	ReasonNodeBound        = "NodeBound"
	ReasonDevices          = "DevicesRequested"
	ReasonPodEnded         = "PodEnded"
	ReasonNodeNotReady     = "NodeWithoutAgent"
	ReasonRuntimeClass     = "RuntimeClassUnsupported"
	ReasonNotScheduled     = "NotScheduled"
	ReasonNameTaken        = "NameTaken"
	ReasonPodLost          = "PodLost"
	ReasonExclusionInvalid = "ExclusionInvalid"
	ReasonRecoverNever     = "RecoverNever"
)

// Reasons of ConditionDumpable, which ConditionProtectable and ConditionCurrent take over. Only the pod's running tasks and
// its files show them, so they are looked for on its node.
const (
	ReasonIOUring              = "IOUring"
	ReasonMPTCP                = "MPTCP"
	ReasonSocketUnsupported    = "SocketUnsupported"
	ReasonFileUnsupported      = "FileUnsupported"
	ReasonDeviceOpen           = "DeviceOpen"
	ReasonMessageQueue         = "MessageQueueOpen"
	ReasonSemaphoreEventfd     = "SemaphoreEventfd"
	ReasonUnlinkedFileTooLarge = "UnlinkedFileTooLarge"
	ReasonNestedNamespace      = "NestedNamespace"
	ReasonTraced               = "Traced"
	ReasonTaskStopped          = "TaskStopped"
	ReasonContainersConnected  = "ContainersConnected"
	ReasonSystemVIPC           = "SystemVIPC"
	ReasonPodAddressBound      = "PodAddressBound"
	ReasonFilesTooLarge        = "FilesTooLarge"
)

// Reasons of ConditionCurrent: those of package snapshot's Verdict, whose comments and docs/policy.md explain them.
const (
	ReasonWithinShare    = "WithinShare"
	ReasonOff            = "Off"
	ReasonFactsRefused   = "FactsRefused"
	ReasonFirstRound     = "FirstRound"
	ReasonNoSafetyDump   = "NoSafetyDump"
	ReasonFreezeTooLong  = "FreezeTooLong"
	ReasonRoundsLate     = "RoundsLate"
	ReasonNeighbours     = "Neighbours"
	ReasonMemoryTooLarge = "MemoryTooLarge"
	ReasonChangesTooFast = "ChangesTooFast"
)

// Reasons of the other conditions.
const (
	ReasonNothingFound     = "NothingFound"
	ReasonSettingsTaken    = "Taken"
	ReasonSettingInvalid   = "SettingInvalid"
	ReasonEvacuating       = "Evacuating"
	ReasonFinalGeneration  = "FinalGeneration"
	ReasonDumpFailed       = "DumpFailed"
	ReasonBucketFailed     = "BucketUnavailable"
	ReasonDeadlinePassed   = "DeadlinePassed"
	ReasonThawed           = "ThawedAfterRestart"
	ReasonNodeLost         = "NodeLost"
	ReasonNoInterruption   = "NoInterruption"
	ReasonCommitted        = "Committed"
	ReasonEvicting         = "Evicting"
	ReasonSourceGone       = "SourceGone"
	ReasonForcedRemoval    = "ForcedRemoval"
	ReasonClaimed          = "Claimed"
	ReasonRestored         = "Restored"
	ReasonManifestCorrupt  = "ManifestCorrupt"
	ReasonPackMissing      = "PackMissing"
	ReasonPackCorrupt      = "PackCorrupt"
	ReasonImageChanged     = "ImageChanged"
	ReasonRestoreFailed    = "RestoreFailed"
	ReasonNodeDiskFull     = "NodeDiskFull"
	ReasonStartedClean     = "StartedClean"
	ReasonRestoreImpending = "Restoring"
	// ReasonContainersChanged: the pod has other containers than the generation holds. ReasonNotRestartable: the restore of a
	// pod with several containers was given up midway, and with restartPolicy Never it cannot begin anew: it is to leave.
	ReasonContainersChanged = "ContainersChanged"
	ReasonNotRestartable    = "PodNotRestartable"
	ReasonWaiting           = "Waiting"
	// ReasonDisruptionsIgnored and ReasonDisruptionsCounted are those of ConditionTolerated.
	ReasonDisruptionsIgnored = "DisruptionsIgnored"
	ReasonDisruptionsCounted = "DisruptionsCounted"
)

// Labels, annotations and the like.
const (
	GroupName = "lifeboat.dev"

	// LabelProtect with the value "true" opts a pod in.
	LabelProtect = GroupName + "/protect"
	// LabelRuntimeReady with the value "true" is on nodes whose runtime has passed the self-test; the RuntimeClass selects it.
	LabelRuntimeReady = GroupName + "/runtime"
	// LabelIdentity on a Checkpoint is the key of its identity (package identity).
	LabelIdentity = GroupName + "/identity"
	// AnnotationRestoreFrom on a replacement pod names its Checkpoint and generation, "name/number". The wrapper
	// refuses to start such a pod clean while its agent is not there to say so.
	AnnotationRestoreFrom = GroupName + "/restore-from"
	// AnnotationOnRestoreFailure: "start" (default) or "fail": what happens after every restore attempt has failed.
	AnnotationOnRestoreFailure = GroupName + "/on-restore-failure"
	// AnnotationOnWaiting: "wait" (default) or "start": what a new pod does while the source that it may continue is still
	// being evacuated.
	AnnotationOnWaiting = GroupName + "/on-waiting"
	// AnnotationExclude on a pod lists files that are no part of its generations; package exclude says how.
	AnnotationExclude = GroupName + "/exclude"
	// LabelCPULevel, LabelCPUFeatures, LabelKernel and LabelCRIU are on nodes and say what they offer; package placement
	// writes and reads them.
	LabelCPULevel    = GroupName + "/cpu-level"
	LabelCPUFeatures = GroupName + "/cpu-features"
	LabelKernel      = GroupName + "/kernel"
	LabelCRIU        = GroupName + "/criu"
	// AnnotationRecoveryPoint, AnnotationInterval and AnnotationMaxFreeze on a pod are durations, AnnotationMaxCPU is a
	// quantity of cores, AnnotationRecover says what may be restored: what its owner asks for in place of the node's
	// defaults. Package settings says how.
	AnnotationRecoveryPoint = GroupName + "/recovery-point"
	AnnotationInterval      = GroupName + "/interval"
	AnnotationMaxFreeze     = GroupName + "/max-freeze"
	AnnotationMaxCPU        = GroupName + "/max-cpu"
	AnnotationRecover       = GroupName + "/recover"
	// AnnotationKeepPodIPAlias with the value "true" on a pod has the pod that continues it know the addresses of the one
	// before as its own, for sockets that are bound to them.
	AnnotationKeepPodIPAlias = GroupName + "/keep-pod-ip-alias"
	// TaintEvacuating (NoSchedule) is on nodes under notice.
	TaintEvacuating = GroupName + "/evacuating"
	// RuntimeClassName is the RuntimeClass and the handler behind it.
	RuntimeClassName = "lifeboat"
)
