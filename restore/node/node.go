// Package node is the restoring side of a node: it answers lifeboat-runtime, which asks before every container it
// creates whether a generation waits for it.
//
// The way down is prepare: which Checkpoint concerns this pod (package identity), which rung of the ladder is it on
// (ladder.go), claim, fence, fetch, apply, hand over. What holds:
//
//   - Claim is one optimistic update of the Checkpoint's status. It is the step that makes at most one pod restore a
//     generation; the fence in the bucket behind it keeps the older epoch from committing any more.
//   - A generation is handed to CRIU at most once without a known failure: the handover is written down (restoration.go)
//     before the wrapper is answered, and a handover whose outcome is not known counts as a restore that ran.
//   - Of a pod with several containers none runs before all are restored, and either all go on or none does (held.go).
//   - Nothing reaches CRIU or the pod's files that did not pass authenticated decryption, bound to this Checkpoint.
//   - Of the generation come file contents and CRIU images only; mounts, devices, capabilities and paths are the new
//     pod's own.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
	"github.com/lifeboat-dev/lifeboat/store/cache"
)

const (
	// prepareTime bounds one answer; lifeboat-runtime waits a little longer, and the kubelet gives a create two minutes.
	prepareTime = 90 * time.Second
	// awaitTime is how much of it a pod waits for one that is being evacuated; the rest is for a restore.
	awaitTime = 60 * time.Second
	// tryEvery is the first wait between two steps, tryAtMost the longest.
	tryEvery, tryAtMost = 250 * time.Millisecond, 4 * time.Second
	// eventNotAwaited is the reason of the event on a pod that started while what it may have continued was on its way.
	eventNotAwaited = "NotAwaited"
)

// errRefused: the container must not start, and asking again makes no sense.
var errRefused = errors.New("refused")

// errElsewhere: this agent's bucket does not hold what the Checkpoint names. It is mended by its settings, so it is waited for.
var errElsewhere = errors.New("the bucket that this agent is set to is not the one that the job was stored in, or the key differs " +
	"(compare LIFEBOAT_BUCKET, LIFEBOAT_CLUSTER and Secret lifeboat-key)")

// errWait: what this pod may continue is being evacuated, or not yet judged after the loss of its node.
var errWait = errors.New("what this pod may continue is still on its way")

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
	// WorkDir is the host path below which images are fetched, one folder a pod.
	WorkDir string
	// CRIUConfig is the host path of the CRIU configuration for restores.
	CRIUConfig string
	// MountInfo is the mountinfo file of the host's pid 1, as this process sees it; empty: /proc/1/mountinfo.
	MountInfo string
	// OnHost runs a program in the mount namespace of the host's pid 1.
	OnHost func(ctx context.Context, argv ...string) error
	// Finishing tells whether this agent is recording the final generation of a pod, in which nothing may start meanwhile. Nil: it
	// never is.
	Finishing func(podUID string) bool
	// Running tells whether the OCI runtime has a live container of that id, frozen or not.
	Running func(ctx context.Context, id string) (bool, error)
	// Live returns the names of the pod's containers that the OCI runtime has live, frozen or not, by their ids. Nil: nobody asks.
	Live func(ctx context.Context, podUID string) (map[string]string, error)
	// Thaw lets a container of handover.HeldDir run, and gives it the signals that were kept back. Kill ends all processes
	// of a container, none of which runs on where it is frozen. For both one that is gone is no error.
	Thaw, Kill func(ctx context.Context, id string) error
	// Images returns the digests of a container's image. Nil: images are not compared.
	Images func(ctx context.Context, containerID string) ([]string, error)
	// Offer is what this node offers to generations.
	Offer placement.Offer
	// Packs is the cache that Store reads through, for what is prefetched. Nil: nothing is.
	Packs *cache.Bucket
	// FetchesAtOnce is how many restores are fetched at a time; 0: 4.
	FetchesAtOnce int
	// Meter counts; nil: nobody looks.
	Meter *Meter
	Log   zerolog.Logger
}

// Preparer prepares restores on this node.
type Preparer struct {
	options  Options
	arrivals *arrivals
	fetches  *fetches

	turns turns
	// mu is held while a restoration on disk is changed.
	mu sync.Mutex
	// begun are the pods for which this life of the agent has made folders; Sweep leaves those. Their times could not
	// tell: a folder may be there from an earlier life, and the kernel's clock for files lags behind time.Now.
	begun map[string]bool
	// missed are the requests, by pod, whose containers were refused to the kubelet.
	missed map[string][]handover.PrepareRequest
}

// New returns a Preparer.
func New(options Options) *Preparer {
	options.MountInfo = cmp.Or(options.MountInfo, "/proc/1/mountinfo")
	if options.Meter == nil {
		options.Meter = NewMeter()
	}
	if options.Finishing == nil {
		options.Finishing = func(string) bool { return false }
	}
	p := &Preparer{options: options, fetches: newFetches(options.FetchesAtOnce), begun: map[string]bool{}, missed: map[string][]handover.PrepareRequest{}}
	if options.Packs != nil {
		options.Meter.packs.Store(options.Packs)
		p.arrivals = newArrivals(&p.options)
	}
	return p
}

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
			p.miss(req)
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
	if p.options.Finishing(req.PodUID) { // asked before the Checkpoint is read, which says how that has ended
		return handover.PrepareReply{}, fmt.Errorf("pod %s/%s is frozen, and its final generation is just being recorded", req.Namespace, req.Pod)
	}
	pod, err := p.live(ctx, req)
	if err != nil {
		return handover.PrepareReply{}, err
	}
	r, err := p.underWay(ctx, req, pod.DeletionTimestamp != nil)
	if err != nil {
		return handover.PrepareReply{}, err
	}
	points, err := p.options.Checkpoints.Of(ctx, pod)
	if err != nil {
		return handover.PrepareReply{}, err
	}
	relation, checkpoint := identity.Find(pod, points, nil, time.Now())
	if name := missedBy(pod, points); name != "" {
		return handover.PrepareReply{}, fmt.Errorf("%w: pod %s/%s is being deleted, and another pod goes on from Checkpoint %s",
			errRefused, req.Namespace, req.Pod, name)
	}
	wish := wishesOf(pod)
	t := task{PrepareRequest: req, KeepIPs: wish.keepIPs, pod: shapeOf(pod)}
	next, last := rungCreate, outcomeOf(r, req.Container)
	if relation != identity.Nothing {
		t.Checkpoint, t.CheckpointUID = checkpoint.Name, checkpoint.UID
		next = choose(relation, &checkpoint.Status, pod.UID, last, wish)
	}
	if slices.Contains(t.pod.inits, req.Container) && next != rungEvacuated {
		return p.create(), nil // it runs again in every pod
	}
	if next == rungCreate && r == nil {
		if name, err := p.unjudged(ctx, pod, points); err != nil || name != "" {
			return handover.PrepareReply{}, cmp.Or(err, fmt.Errorf("checkpoint %s/%s: %w", req.Namespace, name, errWait))
		}
	}
	if next, err = p.beside(ctx, next, relation, t, r, wish); err != nil {
		return handover.PrepareReply{}, err
	}
	if next == rungFallBack && r.whole(next, req.Container) && r.stays(req.Container) {
		next = rungStartClean // its containers cannot be made once more
	}
	if next == rungRestore && p.incomplete(t.pod, req) {
		if r == nil {
			return handover.PrepareReply{}, fmt.Errorf("pod %s/%s: %w", req.Namespace, req.Pod, errIncomplete)
		}
		return handover.PrepareReply{}, errors.Join(errIncomplete, p.abandon(ctx, req.PodUID, false))
	}
	others := r != nil && len(r.others(req.Container)) > 0
	if next == rungRestore && others && (relation != identity.Own || r.Task.CheckpointUID != t.CheckpointUID) {
		next = rungStartClean // what its other containers were restored from is not there any more
	}
	t.joins = others && last == outcomeNone
	if next == rungRestore && last == outcomeInVain {
		if err := p.again(ctx, t, r); err != nil {
			return handover.PrepareReply{}, err
		}
	}
	return p.take(ctx, next, t, r, checkpoint)
}

// missedBy names the Checkpoint that a pod would go on from, or wait for, if it were not being deleted; empty for none. In its last
// moments it must not begin from the beginning what another pod continues.
func missedBy(pod *corev1.Pod, points []v1alpha1.Checkpoint) string {
	if pod.DeletionTimestamp == nil {
		return ""
	}
	stays := pod.DeepCopy()
	stays.DeletionTimestamp = nil
	if relation, point := identity.Find(stays, points, nil, time.Now()); relation != identity.Nothing && relation != identity.Own {
		return point.Name
	}
	return ""
}

// underWay settles what is known of the restore that is under way in the pod and returns it; nil for none.
func (p *Preparer) underWay(ctx context.Context, req handover.PrepareRequest, leaving bool) (*restoration, error) {
	leave, err := p.turns.enter(ctx, req.PodUID)
	if err != nil {
		return nil, err
	}
	defer leave()
	if _, err := p.settleNow(ctx, req.PodUID); err != nil {
		return nil, err
	}
	return p.enter(ctx, req, leaving)
}

// take does what a rung says.
func (p *Preparer) take(ctx context.Context, next rung, t task, r *restoration, checkpoint *v1alpha1.Checkpoint) (handover.PrepareReply, error) {
	var none handover.PrepareReply
	if r.whole(next, t.Container) {
		if err := p.inVain(ctx, t, r, checkpoint); err != nil {
			return none, err
		}
		if err := p.abandon(ctx, t.PodUID, next == rungFail); err != nil {
			return none, err
		}
		if next != rungFail {
			return none, fmt.Errorf("pod %s/%s has to begin anew as a whole", t.Namespace, t.Pod)
		}
	}
	switch next {
	case rungFallBack:
		if err := p.fallBack(ctx, t); err != nil {
			return none, err
		}
	case rungCreate:
		return p.create(), nil
	case rungEvacuated:
		return none, fmt.Errorf("%w: pod %s/%s has been evacuated from this node and must not start again", errRefused, t.Namespace, t.Pod)
	case rungWait:
		return none, fmt.Errorf("checkpoint %s/%s: %w", t.Namespace, t.Checkpoint, errWait)
	case rungFail:
		p.options.Meter.ended(outcomeRefused)
		return none, fmt.Errorf("%w: generation of pod %s/%s cannot be restored and annotation %s forbids a clean start: %s", errRefused,
			t.Namespace, t.Pod, v1alpha1.AnnotationOnRestoreFailure, checkpoint.Status.Condition(v1alpha1.ConditionRestored).Message)
	case rungStartClean:
		return p.startClean(ctx, t, r)
	}
	return p.restore(ctx, t)
}

// live returns the pod of a request; errRefused where it is gone.
func (p *Preparer) live(ctx context.Context, req handover.PrepareRequest) (*corev1.Pod, error) {
	pod, err := p.options.Client.CoreV1().Pods(req.Namespace).Get(ctx, req.Pod, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get pod %s/%s: %w", req.Namespace, req.Pod, err)
	}
	if err != nil || string(pod.UID) != req.PodUID {
		return nil, fmt.Errorf("%w: pod %s/%s of UID %s is gone", errRefused, req.Namespace, req.Pod, req.PodUID)
	}
	return pod, nil
}

func (p *Preparer) create() handover.PrepareReply {
	return handover.PrepareReply{Action: handover.ActionCreate}
}

// restore claims the waiting generation, or goes on under the claim that the pod holds, and brings its state here. Where
// another pod was first, the next step finds what else waits.
func (p *Preparer) restore(ctx context.Context, t task) (handover.PrepareReply, error) {
	// The place comes before the claim: a pod whose time runs out while it waits leaves the generation to the next.
	waited, err := p.fetches.enter(ctx)
	if err != nil {
		return handover.PrepareReply{}, err
	}
	defer p.fetches.leave()
	if waited {
		if _, err := p.live(ctx, t.PrepareRequest); err != nil {
			return handover.PrepareReply{}, err
		}
	}
	p.arrivals.enough(types.UID(t.PodUID))
	checkpoint, err := p.claim(ctx, t)
	if errors.Is(err, errNothing) {
		return handover.PrepareReply{}, fmt.Errorf("pod %s/%s: another pod has claimed checkpoint %s in this moment", t.Namespace, t.Pod, t.Checkpoint)
	}
	if err != nil {
		return handover.PrepareReply{}, err
	}
	gen := generationOf(&checkpoint.Status)
	log := p.options.Log.With().Str("namespace", t.Namespace).Str("pod", t.Pod).Str("container", t.Container).Str("checkpoint", t.Checkpoint).
		Int64("generation", gen.Number).Int64("epoch", checkpoint.Status.Epoch).Logger()
	log.Info().Int32("attempt", checkpoint.Status.Claim.Attempts).Msg("claimed")
	if !t.joins {
		p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeNormal, v1alpha1.ReasonClaimed,
			fmt.Sprintf("restoring generation %d of checkpoint %s", gen.Number, t.Checkpoint))
	}
	begin := time.Now()
	reply, bytes, err := p.bring(ctx, t, checkpoint)
	if errors.Is(err, errRefused) {
		return handover.PrepareReply{}, err
	}
	if err != nil {
		return handover.PrepareReply{}, errors.Join(err, p.failed(ctx, t, reasonOf(err), err.Error()), p.takeBack(t, ""))
	}
	p.options.Meter.fetchedIn(time.Since(begin), bytes)
	log.Info().Dur("seconds", time.Since(begin)).Int64("raw_bytes", bytes).Msg("fetched")
	return reply, nil
}

// startClean gives up on the generation: the files brought for it go, and the pod starts as Kubernetes would start it.
func (p *Preparer) startClean(ctx context.Context, t task, r *restoration) (handover.PrepareReply, error) {
	if err := p.clear(ctx, t, r); err != nil {
		return handover.PrepareReply{}, err
	}
	var cause string
	err := p.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		if err := p.letGo(t, generationOf(&c.Status)); err != nil {
			return err
		}
		cause = c.Status.Condition(v1alpha1.ConditionRestored).Message
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonStartedClean, cause)
		return nil
	})
	if err != nil {
		return handover.PrepareReply{}, err
	}
	p.options.Meter.ended(outcomeStartedClean)
	p.arrivals.end(types.UID(t.PodUID))
	p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeWarning, v1alpha1.ReasonStartedClean,
		"started from the beginning, for its generation could not be restored: "+cause)
	return p.create(), p.drop(t.PodUID)
}

// clear removes what was brought to the volumes of the pod and to the container's writable layer.
func (p *Preparer) clear(ctx context.Context, t task, r *restoration) error {
	if r == nil {
		return nil
	}
	if err := p.clearVolumes(r); err != nil || !slices.Contains(r.Layers, t.ContainerID) {
		return err
	}
	return p.resetLayer(ctx, t.PrepareRequest)
}

func (p *Preparer) event(uid types.UID, req handover.PrepareRequest, kind, reason, message string) {
	p.options.Events.Event(&corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: req.Namespace, Name: req.Pod, UID: uid,
	}, kind, reason, message)
}
