// Package handover is the contract between lifeboat-runtime (the OCI wrapper) and the agent of the same node: JSON over
// HTTP on a unix socket, and three marker folders (RestoredDir, HoldDir, HeldDir). It imports nothing but the standard
// library, for lifeboat-runtime is small and knows neither network nor Kubernetes.
package handover

// Paths on the host.
const (
	// Socket is where the agent listens, root only (0600).
	Socket = "/run/lifeboat/agent.sock"
	// RestoredDir holds an empty file named after the container id for every container that `create` restored and
	// `start` has not seen yet.
	RestoredDir = "/run/lifeboat/restored"
	// HoldDir holds a file named after the container id while its evacuation is under way. Signals other than KILL
	// that arrive meanwhile are appended to it, one decimal number a line, and not delivered: they would lie pending in
	// the frozen process, be dumped with it and stop it after the restore. The agent delivers them if it thaws.
	HoldDir = "/run/lifeboat/hold"
	// HeldDir holds <pod UID>/<container id> for every container that `create` has restored and left frozen
	// (ActionRestoreHeld): the file has its name from when nothing is left to do but to thaw. Signals other than KILL are
	// kept in it as in HoldDir. The agent removes it when it thaws, `delete` when the container goes before.
	HeldDir = "/run/lifeboat/held"
)

// PrepareRequest is POST /v1/prepare: a container is about to be created.
type PrepareRequest struct {
	ContainerID string `json:"containerID"`
	// Bundle is the absolute path of the OCI bundle on the host.
	Bundle string `json:"bundle"`
	// Namespace, Pod, PodUID, Container and SandboxID as containerd's CRI plugin writes them into the bundle.
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	PodUID    string `json:"podUID"`
	Container string `json:"container"`
	SandboxID string `json:"sandboxID"`
	// RestoreFrom is the annotation lifeboat.dev/restore-from of the pod, empty where there is none.
	RestoreFrom string `json:"restoreFrom"`
}

// AwaitRequest is POST /v1/await: the sandbox of a pod is about to be created. The reply has no body. Status 503 with a
// text/plain reason says that what the pod goes on from is still too far away for its containers to be created in the time
// that the kubelet gives them: the wrapper fails the create, and the kubelet makes a sandbox later, as often as it takes. The
// create of a container that fails is the end of a pod that must not restart.
type AwaitRequest struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	PodUID    string `json:"podUID"`
}

// Actions that the agent may answer with.
const (
	ActionCreate  = "create"
	ActionRestore = "restore"
	// ActionRestoreHeld restores a container of which nothing is to run before the other ones of its pod are restored: it is
	// left frozen, and the agent thaws it. An action of its own, for a wrapper that does not know of it must not restore.
	ActionRestoreHeld = "restore-held"
)

// PrepareReply tells the wrapper what to do. An HTTP status other than 200 has a text/plain body with the reason: the
// wrapper fails the create with it, and the kubelet tries again later.
type PrepareReply struct {
	// Action is ActionCreate, ActionRestore or ActionRestoreHeld.
	Action string `json:"action"`
	// ImagePath is the host path of the flat CRIU image folder, files already applied. Restore only.
	ImagePath string `json:"imagePath,omitempty"`
	// WorkPath is the host path for CRIU's logs. Restore only.
	WorkPath string `json:"workPath,omitempty"`
	// CRIUConfig is the host path of a CRIU configuration file for this restore alone. Restore only.
	CRIUConfig string `json:"criuConfig,omitempty"`
}

// ResultRequest is POST /v1/result: how the runc restore ended. The reply has no body.
type ResultRequest struct {
	ContainerID string `json:"containerID"`
	// Error is empty where the process runs again, or stands in HeldDir; otherwise runc's message and the last lines of CRIU's log.
	Error string `json:"error,omitempty"`
}
