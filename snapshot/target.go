package snapshot

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/store"
)

// Status is an OCI container status.
type Status string

// The statuses that matter here. A container that the runtime no longer knows counts as stopped; one that is created has not
// begun: what is in there is the runtime's, not the job's.
const (
	StatusCreated Status = "created"
	StatusRunning Status = "running"
	StatusPaused  Status = "paused"
	StatusStopped Status = "stopped"
)

// Errors that a Runtime tells apart.
var (
	// ErrGone: the container has ended.
	ErrGone = errors.New("the container has ended")
	// ErrNotFrozen: the container should be frozen and is not; what was dumped may not be used as a final generation.
	ErrNotFrozen = errors.New("the container did not stay frozen")
	// ErrUnprotected: there is no Checkpoint of this very pod any more.
	ErrUnprotected = errors.New("the pod has no Checkpoint any more")
	// ErrSuperseded: the pod was given up with its node, and another one goes on in its place. It may never run again here.
	ErrSuperseded = errors.New("the pod was given up with its node")
)

// Container is a running Kubernetes container of this node, as the OCI runtime knows it.
type Container struct {
	ID     string
	PID    int
	Status Status
	// Bundle is the OCI bundle's path on the host.
	Bundle                       string
	Namespace, Pod, PodUID, Name string

	// What follows the runtime does not know; a Target's containers have it.

	// Image and ImageDigest are the container's image as the pod names it and as the node resolved it.
	Image, ImageDigest string
	// NeverRestarts says that the kubelet starts nothing in the place of the container when it ends.
	NeverRestarts bool
}

// Target is a pod that we protect, with all that an evacuation needs to know of it. PodUID tells targets apart.
type Target struct {
	Namespace, Pod, PodUID string
	// Containers are those of the pod that run or stand still, native sidecars among them, by name in ascending order.
	// They are copied, frozen, dumped, thawed and given up together.
	Containers []Container
	// Missing are the names of others that it takes to be whole: not started yet, or ended. Such a target is neither copied
	// nor evacuated; what an earlier life of the agent has left frozen of it is thawed.
	Missing []string
	// Checkpoint is the name of the pod's Checkpoint (in Namespace), CheckpointUID its UID.
	Checkpoint, CheckpointUID string
	// Epoch is the epoch that the pod runs under: status.epoch of the Checkpoint.
	Epoch int64
	// Damaged says that what was written under older epochs could not be restored, in this pod at least: nothing is built on it.
	Damaged bool
	// Final says that the Checkpoint already names a final generation of this very pod.
	Final bool
	// Superseded says that the Checkpoint gives this very pod up with its node.
	Superseded bool
	// Deadline is that of the newest evacuation of this pod that the Checkpoint knows of; zero where there is none. Failed
	// says that it came to nothing.
	Deadline time.Time
	Failed   bool
	// Priority is the pod's, Settings what its owner asks for.
	Priority int32
	Settings TargetSettings
	// Unjudged says that its Checkpoint has no verdict, or no more.
	Unjudged bool
	// Obstacles are what keeps it from being dumped as long as they stand, as its Checkpoint names them.
	Obstacles []obstacle.Obstacle
	// LeaveOut are the files that are no part of its generations.
	LeaveOut exclude.Patterns
	// PodIPs are the pod's addresses, those that it keeps of pods before it among them. KeepsIPs says that the pod that
	// continues it has them as well, so that sockets may be bound to them.
	PodIPs   []string
	KeepsIPs bool
}

// Has says whether the container of that id is one of t's.
func (t Target) Has(id string) bool {
	return slices.ContainsFunc(t.Containers, func(c Container) bool { return c.ID == id })
}

// Runs says whether all containers of t are there and run.
func (t Target) Runs() bool {
	return len(t.Missing) == 0 && len(t.Containers) > 0 &&
		!slices.ContainsFunc(t.Containers, func(c Container) bool { return c.Status != StatusRunning })
}

// Names are those of t's containers, in their order.
func (t Target) Names() []string {
	names := make([]string, len(t.Containers))
	for i, c := range t.Containers {
		names[i] = c.Name
	}
	return names
}

// Folder is the target's folder in the bucket.
func (t Target) Folder(cluster string) store.Target {
	return store.Target{Cluster: cluster, Namespace: t.Namespace, Name: t.Checkpoint, UID: t.CheckpointUID}
}

// Dump is a full dump of a container on this node's disk.
type Dump struct {
	// Images is the folder of CRIU images, as this process sees it.
	Images string
	// RSSBytes is how much memory CRIU wrote.
	RSSBytes int64
	// ReadTime is how long memory was read for the sink; 0 for a full dump.
	ReadTime time.Duration
	// Memory says what the images that hold pages are made of. One that it leaves out is stored as any other file.
	Memory []Memory
	// OnDisk says, by the name of an image of Memory, which of its pages the file has, in their order; all others have
	// been handed to the sink. Nil for a full dump: the files have all pages.
	OnDisk map[string][]store.Run
	// NotLazy says why this is a full dump although there was a sink; nil where it is none, or was asked for.
	NotLazy error
}

// Sink takes pages of a task of one container (Memory.Task), from address on. pages may not be used afterwards. Calls for
// different tasks may come at the same time.
type Sink = func(ctx context.Context, task string, address uint64, pages []byte) error

// Memory is that of a process, or what processes share, in one image of a Dump.
type Memory struct {
	// Image is the file's name.
	Image string
	// Task names the memory, as well as can be by the same name in every dump of the container.
	Task string
	// Runs are the addresses of the pages in the order in which the image has them for a restore. Together they have its
	// size.
	Runs []store.Run
}

// Runtime freezes and dumps containers. snapshot/criu is the one for runc.
type Runtime interface {
	// Status returns the container's status; StatusStopped where there is no such container.
	Status(ctx context.Context, id string) (Status, error)
	// Pause freezes; a frozen container is no error, an ended one is ErrGone.
	Pause(ctx context.Context, id string) error
	// Resume thaws; a running container is no error, an ended one is ErrGone.
	Resume(ctx context.Context, id string) error
	// Dump dumps a frozen container below dir (a host path) and leaves it frozen. It returns ErrNotFrozen where it did
	// not stay so. With a sink it may hand memory to that instead of writing it; errors of sink are returned.
	Dump(ctx context.Context, id, dir string, sink Sink) (Dump, error)
	// Signal sends a signal to the container's init; an ended container is ErrGone.
	Signal(ctx context.Context, id string, signal syscall.Signal) error
}

// FileWriter takes files. A *store.Writer is one; its documentation says what the methods do.
type FileWriter interface {
	Add(ctx context.Context, e store.Entry, r io.Reader) error
	Preload(ctx context.Context, path string, size int64, r io.Reader) error
	Keep(path string, size int64, version string) error
	Kept(path string) string
	AddKept(ctx context.Context, e store.Entry, version string) error
}

// Files reads the file trees of a pod, each once: the writable layers of its containers, its emptyDir volumes and shared
// memory. snapshot/files is behind it.
type Files interface {
	// Preload hands contents of a running pod's files to w, so that Add need not, and takes no more than share
	// cores. What changes meanwhile may be missed.
	Preload(ctx context.Context, t Target, share float64, w FileWriter) (FilePass, error)
	// Add hands every entry of a frozen pod's trees to w.
	Add(ctx context.Context, t Target, w FileWriter) (FilePass, error)
}

// FilePass is what a reader of files did.
type FilePass struct {
	// Bytes is the size of the files, BytesRead what of them was read.
	Bytes, BytesRead int64
	CPU              time.Duration
}

// Moments are the steps of one evacuation so far; zero where not reached.
type Moments struct {
	Notice, Deadline, Frozen, Dumped, Durable time.Time
}

// Committed is a generation that the bucket holds for good.
type Committed struct {
	Number, Epoch         int64
	StoredBytes, RSSBytes int64
	// WindowBytes is what of StoredBytes was uploaded after the notice; 0 where that is not known.
	WindowBytes int64
}

// Journal writes down where others look: on the pod's Checkpoint.
type Journal interface {
	// Targets returns the protectable pods of this node of which anything runs or stands still.
	Targets(ctx context.Context) ([]Target, error)
	// Begun records that the evacuation of t has begun, before t is frozen.
	Begun(ctx context.Context, t Target, m Moments) error
	// Final records the final generation of t: the step after which the source may never run again.
	// It may be called again with the same
	// generation. Any error but ErrUnprotected and ErrSuperseded leaves open whether it was written.
	Final(ctx context.Context, t Target, g Committed, m Moments) error
	// Leaving tells whether t's pod is being deleted or gone, so that the kubelet starts nothing in it any more.
	Leaving(ctx context.Context, t Target) (bool, error)
	// Failed records that t was not evacuated, with a reason of package v1alpha1. ErrSuperseded: t may not run on.
	Failed(ctx context.Context, t Target, reason, message string) error
}

// Succession tells of targets whose pods are gone from the API.
type Succession interface {
	// Superseded tells whether another pod goes on in t's place, as its Checkpoint says. False where there is no such
	// Checkpoint.
	Superseded(ctx context.Context, t Target) (bool, error)
}
