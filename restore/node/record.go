package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// recordName is the file beside the fetched images that says for whom they were handed to CRIU. It exists from before
// the wrapper is answered until the outcome is on the Checkpoint.
const recordName = "handed-over.json"

// imagesName and workName are the folders for CRIU's images and logs beside it.
const imagesName, workName = "images", "work"

func (p *Preparer) recordPath(containerID string) string {
	return filepath.Join(p.options.HostRoot, p.options.WorkDir, filepath.Base(containerID), recordName)
}

// handOver writes the record, durably: after a crash it alone tells that CRIU may have been started.
func (p *Preparer) handOver(t task) error {
	content, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode handover: %w", err)
	}
	f, err := os.OpenFile(p.recordPath(t.ContainerID), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("record handover: %w", diskFull(err))
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		// Nobody has been answered, so there is no handover, and half a record would be in the way of all others.
		return fmt.Errorf("record handover: %w", diskFull(errors.Join(err, os.Remove(f.Name()))))
	}
	return nil
}

// handedOver reads the records of this node.
func (p *Preparer) handedOver() ([]task, error) {
	names, err := filepath.Glob(filepath.Join(p.options.HostRoot, p.options.WorkDir, "*", recordName))
	if err != nil {
		return nil, fmt.Errorf("list handovers: %w", err)
	}
	var records []task
	for _, name := range names {
		content, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read handover: %w", err)
		}
		var t task
		if err := json.Unmarshal(content, &t); err != nil {
			return nil, fmt.Errorf("decode handover %s: %w", name, err)
		}
		records = append(records, t)
	}
	return records, nil
}

// outcome tells whether a handover for that pod is on record. A container that runs is settled as restored before.
func (p *Preparer) outcome(ctx context.Context, podUID string) (outcome, error) {
	if err := p.Reconcile(ctx); err != nil {
		return outcomeNone, err
	}
	records, err := p.handedOver()
	if err != nil {
		return outcomeNone, err
	}
	for _, r := range records {
		if r.PodUID == podUID {
			return outcomeUnknown, nil
		}
	}
	return outcomeNone, nil
}

// Reconcile settles handovers whose result was never posted (this agent was away): a container that runs was restored.
func (p *Preparer) Reconcile(ctx context.Context) error {
	records, err := p.handedOver()
	if err != nil {
		return err
	}
	for _, r := range records {
		running, err := p.options.Running(ctx, r.ContainerID)
		if err != nil {
			return err
		}
		if !running {
			continue
		}
		if err := p.restored(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// restoring is how long after a handover CRIU may be reading images: longer than the wrapper waits for it.
const restoring = 2 * time.Minute

// Sweep settles what an earlier life of the agent left: handovers whose containers run are recorded as restored, and images
// that nobody reads any more are removed. Records of handovers with an unknown outcome stay as long as their pod. It says
// whether it is done; where CRIU may still be reading, it is to be called again.
func (p *Preparer) Sweep(ctx context.Context) (done bool, err error) {
	if err := p.Reconcile(ctx); err != nil {
		return false, err
	}
	keep, err := p.awaited(ctx)
	if err != nil {
		return false, err
	}
	dir := filepath.Join(p.options.HostRoot, p.options.WorkDir)
	folders, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("list fetched images: %w", err)
	}
	done = true
	for _, f := range folders {
		stale := filepath.Join(dir, f.Name())
		if keep[f.Name()] {
			if p.mayBeRead(f.Name()) {
				done = false
				continue
			}
			stale = filepath.Join(stale, imagesName)
		}
		if err := p.sweepFolder(f.Name(), stale); err != nil {
			return false, err
		}
	}
	return done, nil
}

// awaited are the containers with an unknown outcome whose pods are still there.
func (p *Preparer) awaited(ctx context.Context) (map[string]bool, error) {
	records, err := p.handedOver()
	if err != nil {
		return nil, err
	}
	awaited := map[string]bool{}
	for _, r := range records {
		pod, err := p.options.Client.CoreV1().Pods(r.Namespace).Get(ctx, r.Pod, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("get pod %s/%s: %w", r.Namespace, r.Pod, err)
		}
		awaited[r.ContainerID] = err == nil && string(pod.UID) == r.PodUID
	}
	return awaited, nil
}

// mayBeRead says whether the container was handed to CRIU so lately that CRIU may still be at it.
func (p *Preparer) mayBeRead(containerID string) bool {
	info, err := os.Stat(p.recordPath(containerID))
	return err == nil && time.Since(info.ModTime()) < restoring
}

// sweepFolder removes what is stale of a container's folder, unless a restore into it has begun.
func (p *Preparer) sweepFolder(containerID, stale string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun[containerID] {
		return nil
	}
	if err := os.RemoveAll(stale); err != nil {
		return fmt.Errorf("remove fetched images: %w", err)
	}
	return nil
}

// Result takes the outcome of a runc restore. One that is posted again, because the first answer was lost, changes nothing.
func (p *Preparer) Result(ctx context.Context, res handover.ResultRequest) error {
	content, err := os.ReadFile(p.recordPath(res.ContainerID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read handover of container %s: %w", res.ContainerID, err)
	}
	var t task
	if err := json.Unmarshal(content, &t); err != nil {
		return fmt.Errorf("decode handover of container %s: %w", res.ContainerID, err)
	}
	if res.Error == "" {
		return p.restored(ctx, t)
	}
	p.options.Log.Error().Str("namespace", t.Namespace).Str("pod", t.Pod).Str("cause", res.Error).Msg("restore failed")
	if err := p.failed(ctx, t, v1alpha1.ReasonRestoreFailed, res.Error); err != nil {
		return err
	}
	return p.dropImages(t.ContainerID)
}

// restored records that the pod runs again, and removes its images, which CRIU has read to the end.
func (p *Preparer) restored(ctx context.Context, t task) error {
	now := metav1.NowMicro()
	number, outcome := int64(0), outcomeRestored
	var instead string
	var again time.Duration
	err := p.update(ctx, t, func(c *v1alpha1.Checkpoint) error {
		number, instead = c.Status.Claim.Generation, inPlaceOf(&c.Status)
		if f := c.Status.Claim.Fallback; f != nil {
			number, outcome, again = f.Generation.Number, outcomeFallback, lost(&c.Status)
		}
		if l := c.Status.Timeline; l != nil && l.Resumed == nil {
			l.Resumed = &now
		}
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored,
			fmt.Sprintf("generation %d runs on node %s%s", number, p.options.NodeName, instead))
		return nil
	})
	if err != nil {
		return err
	}
	p.arrivals.end(types.UID(t.PodUID))
	p.options.Meter.ended(outcome)
	if outcome == outcomeFallback {
		p.options.Meter.again(again)
	}
	p.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Int64("generation", number).Msg("restored")
	p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeNormal, v1alpha1.ReasonRestored,
		fmt.Sprintf("goes on from generation %d of checkpoint %s%s", number, t.Checkpoint, instead))
	return p.dropImages(t.ContainerID)
}
