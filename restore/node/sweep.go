package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// restoring is how long after a handover CRIU may be reading images: longer than the wrapper waits for it.
const restoring = 2 * time.Minute

// Sweep settles restorations, and removes images that nobody reads any more: those of an earlier life of the agent, and those
// of pods that are gone. Records of handovers with an unknown outcome stay as long as their pod. It is to be called again
// and again.
func (p *Preparer) Sweep(ctx context.Context) error {
	fault := p.Reconcile(ctx)
	dir := filepath.Join(p.options.HostRoot, p.options.WorkDir)
	folders, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fault, fmt.Errorf("list fetched images: %w", err))
	}
	for _, f := range folders {
		fault = errors.Join(fault, p.sweepFolder(ctx, f.Name()))
	}
	return errors.Join(fault, p.sweepMissed(ctx))
}

// sweepMissed forgets what was refused to pods that are gone.
func (p *Preparer) sweepMissed(ctx context.Context) error {
	p.mu.Lock()
	all := maps.Clone(p.missed)
	p.mu.Unlock()
	var faults []error
	for podUID, requests := range all {
		pod, err := p.there(ctx, requests[0])
		if faults = append(faults, err); err == nil && pod == nil {
			p.mu.Lock()
			delete(p.missed, podUID)
			p.mu.Unlock()
		}
	}
	return errors.Join(faults...)
}

// sweepFolder removes what is stale of a pod's folder.
func (p *Preparer) sweepFolder(ctx context.Context, podUID string) error {
	r, err := p.load(podUID)
	if err != nil {
		return err
	}
	if r != nil {
		pod, err := p.there(ctx, r.Task.PrepareRequest)
		if err != nil {
			return err
		}
		if pod == nil {
			return p.drop(podUID)
		}
		if err := p.endIncomplete(ctx, pod); err != nil {
			return err
		}
	}
	return p.dropStale(podUID)
}

// dropStale removes images that an earlier life of the agent has left, and the whole folder where they are of no restoration.
func (p *Preparer) dropStale(podUID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.load(podUID)
	if err != nil || p.begun[podUID] || r != nil && (r.several() || mayBeRead(r)) {
		return err
	}
	stale := p.folder(podUID)
	if r != nil {
		stale = filepath.Join(stale, imagesName)
		if len(r.Fetched) > 0 {
			r.Fetched = nil
			if err := p.save(r); err != nil {
				return fmt.Errorf("forget images of pod %s/%s: %w", r.Task.Namespace, r.Task.Pod, err)
			}
		}
	}
	if err := os.RemoveAll(stale); err != nil {
		return fmt.Errorf("remove fetched images: %w", err)
	}
	return nil
}

// there returns the pod of a request, nil where it is not in the API any more.
func (p *Preparer) there(ctx context.Context, req handover.PrepareRequest) (*corev1.Pod, error) {
	pod, err := p.options.Client.CoreV1().Pods(req.Namespace).Get(ctx, req.Pod, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get pod %s/%s: %w", req.Namespace, req.Pod, err)
	}
	if err != nil || string(pod.UID) != req.PodUID {
		return nil, nil
	}
	return pod, nil
}

// mayBeRead says whether a container was handed to CRIU so lately that CRIU may still be at it.
func mayBeRead(r *restoration) bool {
	for _, h := range r.Handed {
		if time.Since(h.Time) < restoring {
			return true
		}
	}
	return false
}
