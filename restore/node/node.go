// Package node is the restoring side of a node: it answers lifeboat-runtime, which asks before every container it
// creates whether a generation waits for it.
//
// The way down is prepare: which Checkpoint concerns this pod (package identity), which rung of the ladder is it on
// (ladder.go), claim, fence, fetch, apply, hand over. What holds:
//
//   - Claim is one optimistic update of the Checkpoint's status. It is the step that makes at most one pod restore a
//     generation; the fence in the bucket behind it keeps the older epoch from committing any more.
//   - A generation is handed to CRIU at most once without a known failure: the handover is written down (record.go)
//     before the wrapper is answered, and a handover whose outcome is not known counts as a restore that ran.
//   - Nothing reaches CRIU or the pod's files that did not pass authenticated decryption, bound to this Checkpoint.
//   - Of the generation come file contents and CRIU images only; mounts, devices, capabilities and paths are the new
//     pod's own.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// prepareTime bounds one answer; lifeboat-runtime waits a little longer, and the kubelet gives a create two minutes.
	prepareTime = 90 * time.Second
	// awaitTime is how much of it a pod waits for one that is being evacuated; the rest is for a restore.
	awaitTime = 60 * time.Second
	// tryEvery is the first wait between two steps, tryAtMost the longest.
	tryEvery, tryAtMost = 250 * time.Millisecond, 4 * time.Second
	// fetchAttempts is how often a fetch goes on before the claim is tried anew, from its beginning.
	fetchAttempts = 4
	// eventNotAwaited is the reason of the event on a pod that started while what it may have continued was on its way.
	eventNotAwaited = "NotAwaited"
)

// errRefused: the container must not start, and asking again makes no sense.
var errRefused = errors.New("refused")

// errElsewhere: this agent's bucket does not hold what the Checkpoint names. It is mended by its settings, so it is waited for.
var errElsewhere = errors.New("the bucket that this agent is set to is not the one that the job was stored in, or the key differs " +
	"(compare LIFEBOAT_BUCKET, LIFEBOAT_CLUSTER and Secret lifeboat-key)")

// errWait: a pod that this one may continue is being evacuated.
var errWait = errors.New("a pod that this one may continue is still being evacuated")

// EventNodeUnfit is the reason of the event that tells that a pod came to a node that cannot restore its generation.
const EventNodeUnfit = "NodeUnfit"

// Options are what a Preparer works with.
type Options struct {
	NodeName    string
	Cluster     string
	Store       *store.Store
	Client      kubernetes.Interface
	Checkpoints *checkpoints.Client
	Events      record.EventRecorder
	// HostRoot is where this process sees the host's root.
	HostRoot string
	// WorkDir is the host path below which images are fetched, one folder a container.
	WorkDir string
	// CRIUConfig is the host path of the CRIU configuration for restores.
	CRIUConfig string
	// OnHost runs a program in the mount namespace of the host's pid 1.
	OnHost func(ctx context.Context, argv ...string) error
	// Running tells whether the OCI runtime has a live container of that id.
	Running func(ctx context.Context, id string) (bool, error)
	// Images returns the digests of a container's image. Nil: images are not compared.
	Images func(ctx context.Context, containerID string) ([]string, error)
	// Offer is what this node offers to generations.
	Offer placement.Offer
	Log   zerolog.Logger
}

// Preparer prepares restores on this node.
type Preparer struct {
	options Options

	mu sync.Mutex
	// begun are the containers for which this life of the agent has made folders; Sweep leaves those. Their times could
	// not tell: a folder may be there from an earlier life, and the kernel's clock for files lags behind time.Now.
	begun map[string]bool
}

// New returns a Preparer.
func New(options Options) *Preparer { return &Preparer{options: options, begun: map[string]bool{}} }

// Prepare answers what becomes of a container about to be created. What may pass (an API server or a bucket that does
// not answer, a source not released yet) is waited for within the time that the kubelet gives a create: the error of one
// is the end of a pod that must not restart.
func (p *Preparer) Prepare(ctx context.Context, req handover.PrepareRequest) (handover.PrepareReply, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareTime)
	defer cancel()
	began, told := time.Now(), false
	for wait := tryEvery; ; wait = min(2*wait, tryAtMost) {
		reply, err := p.step(ctx, req)
		if err == nil || errors.Is(err, errRefused) {
			return reply, err
		}
		if errors.Is(err, errUnfit) && !told {
			told = true
			p.event(types.UID(req.PodUID), req, corev1.EventTypeWarning, EventNodeUnfit, err.Error())
		}
		p.options.Log.Warn().Err(err).Str("namespace", req.Namespace).Str("pod", req.Pod).Msg("not prepared yet, trying again")
		if errors.Is(err, errWait) && time.Since(began) >= awaitTime {
			return p.notAwaited(req, err), nil
		}
		select {
		case <-ctx.Done():
			return handover.PrepareReply{}, err
		case <-time.After(wait):
		}
	}
}

// notAwaited starts a pod that has waited for long enough. Nothing is claimed by it, and its owner made it to run beside or
// after the one that is evacuated.
func (p *Preparer) notAwaited(req handover.PrepareRequest, waited error) handover.PrepareReply {
	p.event(types.UID(req.PodUID), req, corev1.EventTypeWarning, eventNotAwaited,
		fmt.Sprintf("started from the beginning after %s: %s", awaitTime, waited))
	return p.create()
}

// step takes one step on the ladder: an answer, or an error that says what is still missing.
func (p *Preparer) step(ctx context.Context, req handover.PrepareRequest) (handover.PrepareReply, error) {
	pod, err := p.options.Client.CoreV1().Pods(req.Namespace).Get(ctx, req.Pod, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return handover.PrepareReply{}, fmt.Errorf("get pod %s/%s: %w", req.Namespace, req.Pod, err)
	}
	if err != nil || string(pod.UID) != req.PodUID {
		return handover.PrepareReply{}, fmt.Errorf("%w: pod %s/%s of UID %s is gone", errRefused, req.Namespace, req.Pod, req.PodUID)
	}
	points, err := p.options.Checkpoints.Of(ctx, pod)
	if err != nil {
		return handover.PrepareReply{}, err
	}
	relation, checkpoint := identity.Find(pod, points, nil, time.Now())
	if relation == identity.Nothing {
		return p.create(), nil
	}
	outcome, err := p.outcome(ctx, req.PodUID)
	if err != nil {
		return handover.PrepareReply{}, err
	}
	t := task{PrepareRequest: req, Checkpoint: checkpoint.Name, CheckpointUID: checkpoint.UID}
	switch choose(relation, &checkpoint.Status, pod.UID, outcome, wishesOf(pod)) {
	case rungCreate:
		return p.create(), nil
	case rungEvacuated:
		return handover.PrepareReply{}, fmt.Errorf("%w: pod %s/%s has been evacuated from this node and must not start again",
			errRefused, req.Namespace, req.Pod)
	case rungWait:
		return handover.PrepareReply{}, fmt.Errorf("checkpoint %s/%s: %w", req.Namespace, checkpoint.Name, errWait)
	case rungFail:
		return handover.PrepareReply{}, fmt.Errorf("%w: generation of pod %s/%s cannot be restored and annotation %s forbids a clean start: %s",
			errRefused, req.Namespace, req.Pod, v1alpha1.AnnotationOnRestoreFailure, checkpoint.Status.Condition(v1alpha1.ConditionRestored).Message)
	case rungStartClean:
		return p.startClean(ctx, t)
	case rungFallBack:
		if err := p.fallBack(ctx, t); err != nil {
			return handover.PrepareReply{}, err
		}
		return p.restore(ctx, t)
	default:
		return p.restore(ctx, t)
	}
}

func (p *Preparer) create() handover.PrepareReply {
	return handover.PrepareReply{Action: handover.ActionCreate}
}

// restore claims the waiting generation, or goes on under the claim that the pod holds, and brings its state here. Where
// another pod was first, the next step finds what else waits.
func (p *Preparer) restore(ctx context.Context, t task) (handover.PrepareReply, error) {
	checkpoint, err := p.claim(ctx, t)
	if errors.Is(err, errNothing) {
		return handover.PrepareReply{}, fmt.Errorf("pod %s/%s: another pod has claimed checkpoint %s in this moment", t.Namespace, t.Pod, t.Checkpoint)
	}
	if err != nil {
		return handover.PrepareReply{}, err
	}
	gen := generationOf(&checkpoint.Status)
	log := p.options.Log.With().Str("namespace", t.Namespace).Str("pod", t.Pod).Str("checkpoint", t.Checkpoint).
		Int64("generation", gen.Number).Int64("epoch", checkpoint.Status.Epoch).Logger()
	log.Info().Int32("attempt", checkpoint.Status.Claim.Attempts).Msg("claimed")
	p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeNormal, v1alpha1.ReasonClaimed,
		fmt.Sprintf("restoring generation %d of checkpoint %s", gen.Number, t.Checkpoint))

	dir := filepath.Join(p.options.WorkDir, filepath.Base(t.ContainerID))
	reply := handover.PrepareReply{
		Action: handover.ActionRestore, ImagePath: filepath.Join(dir, imagesName), WorkPath: filepath.Join(dir, workName),
		CRIUConfig: p.options.CRIUConfig,
	}
	begin := time.Now()
	var bytes int64
	if err = p.checkImage(ctx, t, gen); err == nil {
		bytes, err = p.fetch(ctx, t.PrepareRequest, checkpoint, reply)
	}
	if err != nil {
		reason := reasonOf(err)
		if fault := p.failed(ctx, t, reason, err.Error()); fault != nil {
			err = errors.Join(err, fault)
		}
		return handover.PrepareReply{}, errors.Join(err, p.dropImages(t.ContainerID))
	}
	log.Info().Dur("seconds", time.Since(begin)).Int64("raw_bytes", bytes).Msg("fetched")
	if err := p.moment(ctx, t, func(t *v1alpha1.Timeline, now *metav1.MicroTime) { t.Fetched = now }); err != nil {
		return handover.PrepareReply{}, errors.Join(err, p.dropImages(t.ContainerID))
	}
	if err := p.handOver(t); err != nil {
		return handover.PrepareReply{}, err
	}
	return reply, nil
}

// fetch fences the bucket and brings images and files here, all checked.
func (p *Preparer) fetch(ctx context.Context, req handover.PrepareRequest, c *v1alpha1.Checkpoint, reply handover.PrepareReply) (int64, error) {
	reader, err := p.open(ctx, c)
	if err != nil {
		return 0, err
	}
	if err := p.makeFolders(req.ContainerID); err != nil {
		return 0, err
	}
	if c.Status.Claim.Attempts > 1 || c.Status.Claim.Fallback != nil {
		if err := p.resetLayer(ctx, req); err != nil {
			return 0, err
		}
	}
	trees, err := p.openTrees(req, reply.ImagePath)
	if err != nil {
		return 0, err
	}
	defer trees.close()
	if err := run(ctx, reader.Fetch(trees)); err != nil {
		return 0, err
	}
	var bytes int64
	for entry := range reader.Entries() {
		bytes += entry.Size
	}
	return bytes, nil
}

// open fences the bucket and opens what is to be restored.
func (p *Preparer) open(ctx context.Context, c *v1alpha1.Checkpoint) (*store.Reader, error) {
	folder := store.Target{Cluster: p.options.Cluster, Namespace: c.Namespace, Name: c.Name, UID: string(c.UID)}
	claimed := c.Status.Generation
	// An agent with another bucket, cluster name or key than the source's must not take the job for lost.
	head, err := p.options.Store.Head(ctx, folder)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrWrongKey) {
		err = fmt.Errorf("%w: %w", errElsewhere, err)
	}
	if err != nil {
		return nil, fmt.Errorf("find generation %d: %w", claimed.Number, err)
	}
	if head.Number < claimed.Number {
		return nil, fmt.Errorf("%w: generation %d is awaited and the newest is %d", errElsewhere, claimed.Number, head.Number)
	}
	if err := p.options.Store.Fence(ctx, folder, c.Status.Epoch); err != nil {
		return nil, fmt.Errorf("fence generation %d: %w", claimed.Number, err)
	}
	if f := c.Status.Claim.Fallback; f != nil {
		return p.options.Store.OpenKnown(ctx, folder, f.Generation.Number, f.Generation.Epoch)
	}
	return p.options.Store.Open(ctx, folder, claimed.Number, claimed.Epoch)
}

// run runs a fetch, a few times where something other than this node stands in its way: what came before is not fetched
// again.
func run(ctx context.Context, fetch *store.Fetch) error {
	wait := tryEvery
	for range fetchAttempts - 1 {
		err := fetch.Run(ctx)
		if err == nil || errors.Is(err, errApply) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
			wait *= 2
		}
	}
	return fetch.Run(ctx)
}

// makeFolders makes the folders that a restore of the container needs. From then on Sweep leaves them alone.
func (p *Preparer) makeFolders(containerID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun[filepath.Base(containerID)] = true
	for _, name := range []string{imagesName, workName} {
		path := filepath.Join(p.options.HostRoot, p.options.WorkDir, filepath.Base(containerID), name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			return fmt.Errorf("make folder for images: %w", err)
		}
	}
	return nil
}

// dropImages removes what was fetched for a container.
func (p *Preparer) dropImages(containerID string) error {
	dir := filepath.Join(p.options.HostRoot, p.options.WorkDir, filepath.Base(containerID))
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove fetched images: %w", err)
	}
	return nil
}

// startClean gives up on the generation: the files brought for it go, and the pod starts as Kubernetes would start it.
func (p *Preparer) startClean(ctx context.Context, t task) (handover.PrepareReply, error) {
	if err := errors.Join(p.clearVolumes(t.PrepareRequest), p.resetLayer(ctx, t.PrepareRequest)); err != nil {
		return handover.PrepareReply{}, err
	}
	var cause string
	err := p.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		cause = c.Status.Condition(v1alpha1.ConditionRestored).Message
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonStartedClean, cause)
		return nil
	})
	if err != nil {
		return handover.PrepareReply{}, err
	}
	p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeWarning, v1alpha1.ReasonStartedClean,
		"started from the beginning, for its generation could not be restored: "+cause)
	return p.create(), nil
}

// reasonOf is the condition reason for a failed fetch.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errImage):
		return v1alpha1.ReasonImageChanged
	case errors.Is(err, errElsewhere):
		return v1alpha1.ReasonBucketFailed
	case errors.Is(err, store.ErrPackMissing):
		return v1alpha1.ReasonPackMissing
	case errors.Is(err, store.ErrPackCorrupt):
		return v1alpha1.ReasonPackCorrupt
	case errors.Is(err, store.ErrManifestCorrupt), errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrNotFound):
		return v1alpha1.ReasonManifestCorrupt
	case errors.Is(err, errApply), errors.Is(err, store.ErrFenced):
		return v1alpha1.ReasonRestoreFailed
	}
	return v1alpha1.ReasonBucketFailed
}

func (p *Preparer) event(uid types.UID, req handover.PrepareRequest, kind, reason, message string) {
	p.options.Events.Event(&corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: req.Namespace, Name: req.Pod, UID: uid,
	}, kind, reason, message)
}
