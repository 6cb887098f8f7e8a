package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

// fetchAttempts is how often a fetch goes on before the claim is tried anew, from its beginning.
const fetchAttempts = 4

// fetch fences the bucket and brings images and files here, all checked. It returns how many bytes of them there are.
func (p *Preparer) fetch(ctx context.Context, req handover.PrepareRequest, c *v1alpha1.Checkpoint, reply handover.PrepareReply) (int64, error) {
	p.options.Meter.under.Inc()
	defer p.options.Meter.under.Dec()
	bytes, err := p.fetchInto(ctx, req, c, reply)
	return bytes, diskFull(err)
}

func (p *Preparer) fetchInto(ctx context.Context, req handover.PrepareRequest, c *v1alpha1.Checkpoint, reply handover.PrepareReply) (int64, error) {
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
	images, bytes := imageBytes(reader)
	done, err := p.room(ctx, images)
	if err != nil {
		return 0, err
	}
	defer done()
	trees, err := p.openTrees(req, reply.ImagePath)
	if err != nil {
		return 0, err
	}
	defer trees.close()
	return bytes, run(ctx, reader.Fetch(trees), p.forget(reader))
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

// makeFolders makes the folders that a restore of the container needs, without anything of an attempt that an earlier life of
// the agent left half way. From then on Sweep leaves them alone.
func (p *Preparer) makeFolders(containerID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun[filepath.Base(containerID)] = true
	for _, name := range []string{imagesName, workName} {
		path := filepath.Join(p.options.HostRoot, p.options.WorkDir, filepath.Base(containerID), name)
		if err := errors.Join(os.RemoveAll(path), os.MkdirAll(path, 0o700)); err != nil {
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

// reasonOf is the condition reason for a failed fetch.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errDiskFull):
		return v1alpha1.ReasonNodeDiskFull
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
