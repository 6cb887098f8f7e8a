package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

// fetchAttempts is how often a fetch goes on before the claim is tried anew, from its beginning.
const fetchAttempts = 4

// bring checks that the generation is of such a pod, brings its state here and hands the container over.
func (p *Preparer) bring(ctx context.Context, t task, checkpoint *v1alpha1.Checkpoint) (reply handover.PrepareReply, bytes int64, err error) {
	gen := generationOf(&checkpoint.Status)
	containers, err := t.pod.match(t, gen)
	if err == nil {
		err = p.checkImage(ctx, t, gen)
	}
	if err != nil {
		return reply, 0, err
	}
	r, err := p.begin(t, gen, containers)
	if err != nil {
		return reply, 0, fmt.Errorf("%w: %w", errApply, err)
	}
	trees, bytes, err := p.fetch(ctx, t, checkpoint, r)
	if err != nil {
		return reply, 0, err
	}
	reply = p.reply(t, r)
	if err := p.adapt(ctx, t, gen, reply.ImagePath); err != nil {
		return reply, 0, err
	}
	if err := p.moment(ctx, t, func(t *v1alpha1.Timeline, now *metav1.MicroTime) { t.Fetched = now }); err != nil {
		if errors.Is(err, errNotHolder) || apierrors.IsNotFound(err) || ctx.Err() != nil {
			return reply, 0, err
		}
		// The claim stands: it is nobody else's ever after. What was fetched is not thrown away for a moment of the timeline.
		p.options.Log.Warn().Err(err).Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("fetched, moment not recorded")
	}
	if err := p.handOver(t, trees.mounted()); err != nil {
		return reply, 0, err
	}
	return reply, bytes, nil
}

// fetch brings what the container of t needs of the generation, all checked: with the first one the images of all, so that
// what is damaged is found before any of them is restored. Files of volumes are replaced once, before the first container
// that sees them is restored. It returns how many bytes of them there are.
func (p *Preparer) fetch(ctx context.Context, t task, c *v1alpha1.Checkpoint, r *restoration) (*trees, int64, error) {
	p.options.Meter.under.Inc()
	defer p.options.Meter.under.Dec()
	trees, bytes, err := p.fetchInto(ctx, t, c, r)
	return trees, bytes, diskFull(err)
}

func (p *Preparer) fetchInto(ctx context.Context, t task, c *v1alpha1.Checkpoint, r *restoration) (*trees, int64, error) {
	reader, err := p.open(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	if slices.Contains(r.Layers, t.ContainerID) {
		if err := p.resetLayer(ctx, t.PrepareRequest); err != nil {
			return nil, 0, err
		}
	}
	trees, err := p.openTrees(t)
	if err != nil {
		return nil, 0, err
	}
	defer trees.close()
	images, bytes := imageBytes(reader, trees.wants)
	done, err := p.room(ctx, t.PodUID, images)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	if err := run(ctx, reader.FetchSome(trees, trees.wants), p.forget(reader)); err != nil {
		return nil, 0, err
	}
	_, err = p.edit(t.PodUID, func(r *restoration) error {
		r.Fetched = slices.Clone(r.Containers)
		return nil
	})
	return trees, bytes, applied(err)
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

// forget returns what drops the packs of a generation from the cache.
func (p *Preparer) forget(reader *store.Reader) func() {
	return func() {
		if p.options.Packs != nil {
			for pack := range reader.Packs() {
				p.options.Packs.Forget(pack.Key)
			}
		}
	}
}

// run runs a fetch, a few times where something other than this node stands in its way: what came before is not fetched
// again. What was read ahead is forgotten after a failure: it may be the disk that has damaged it.
func run(ctx context.Context, fetch *store.Fetch, forget func()) error {
	wait := tryEvery
	for range fetchAttempts - 1 {
		err := fetch.Run(ctx)
		if err == nil || errors.Is(err, errApply) {
			return err
		}
		forget()
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
			wait *= 2
		}
	}
	return fetch.Run(ctx)
}

// reasonOf is the condition reason for a failed fetch.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errDiskFull):
		return v1alpha1.ReasonNodeDiskFull
	case errors.Is(err, errImage):
		return v1alpha1.ReasonImageChanged
	case errors.Is(err, errContainers):
		return v1alpha1.ReasonContainersChanged
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
