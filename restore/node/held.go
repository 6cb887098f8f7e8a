package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// The kubelet creates the containers of a pod one after another. None of those that a generation holds may run an instruction
// before the last of them is restored, so each is restored frozen. Two steps, each one write of the restoration on this
// node's disk, exclude each other: Released, after which all are thawed, and Ending, after which all are killed.

// errOver: the pod begins anew as a whole, in another sandbox.
var errOver = fmt.Errorf("%w: its containers that were restored are ended without having run, and the pod begins anew as a whole", errRefused)

// errLeaves: the same, of a pod that cannot begin anew.
var errLeaves = errors.New("its containers that were restored are ended without having run, and with restartPolicy Never the pod cannot " +
	"begin anew: it is to leave, for its owner to make another one")

// errEnding: the pod begins anew once that container is gone.
var errEnding = errors.New("it was killed, and is not gone yet")

// errIncomplete: the pod can never be whole, so nothing of it is restored, and what it was to go on from is not claimed for it.
var errIncomplete = fmt.Errorf("%w: another container of the pod could not be created, and with restartPolicy Never it is not created again", errRefused)

// errReleased: the containers of the pod run, or are about to.
var errReleased = errors.New("all containers of the pod have been restored")

// settleHeld thaws the containers of a pod once all are restored. Only the restoration decides: no answer of API server or
// bucket is needed.
func (p *Preparer) settleHeld(ctx context.Context, r *restoration) error {
	if !r.Released {
		all, err := p.allHeld(ctx, r)
		if err != nil {
			return err
		}
		if !all {
			return p.endStranded(ctx, r)
		}
		r, err = p.edit(r.Task.PodUID, func(r *restoration) error {
			if r.Over || r.Ending {
				return errOver
			}
			r.Released = true
			return nil
		})
		if err != nil {
			return err
		}
		p.options.Log.Info().Str("namespace", r.Task.Namespace).Str("pod", r.Task.Pod).Int("containers", len(r.Containers)).Msg("thawing")
	}
	for _, h := range r.others("") {
		if err := p.options.Thaw(ctx, h.ID); err != nil {
			return fmt.Errorf("thaw restored container %s of pod %s/%s: %w", h.ID, r.Task.Namespace, r.Task.Pod, err)
		}
	}
	return p.restored(ctx, r.Task)
}

// allHeld tells whether every container of the generation is restored and only wants thawing.
func (p *Preparer) allHeld(ctx context.Context, r *restoration) (bool, error) {
	for _, name := range r.Containers {
		h, handed := r.Handed[name]
		if !handed {
			return false, nil
		}
		lives, err := p.heldLives(ctx, r, h)
		if err != nil || !lives {
			return false, err
		}
	}
	return true, nil
}

// heldLives tells whether the container stands restored and frozen. Its file comes when nothing is left to do but to thaw.
func (p *Preparer) heldLives(ctx context.Context, r *restoration, h handed) (bool, error) {
	path := filepath.Join(p.options.HostRoot, handover.HeldDir, filepath.Base(r.Task.PodUID), filepath.Base(h.ID))
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look for held container: %w", err)
	}
	return p.options.Running(ctx, h.ID)
}

// endStranded ends a restoration that cannot become whole: one of its containers has ended and is not started again. Where
// containers are started again, the kubelet has them created once more.
func (p *Preparer) endStranded(ctx context.Context, r *restoration) error {
	for name, h := range r.Handed {
		if !r.stays(name) || time.Since(h.Time) < restoring {
			continue
		}
		lives, err := p.options.Running(ctx, h.ID)
		if err != nil {
			return err
		}
		if !lives {
			return p.beginAnew(ctx, r.Task.PodUID, false)
		}
	}
	return nil
}

// endIncomplete ends a restoration that cannot become whole: one of the pod's containers was refused or not restored, and its kubelet
// has it for ended and does not create it again. That is told by nobody but the API.
func (p *Preparer) endIncomplete(ctx context.Context, pod *corev1.Pod) error {
	leave, err := p.turns.enter(ctx, string(pod.UID))
	if err != nil {
		return err
	}
	defer leave()
	r, err := p.load(string(pod.UID))
	if err != nil || r == nil || !r.several() || r.Released || r.Over || r.Ending {
		return err
	}
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		_, handed := r.Handed[s.Name]
		if s.State.Terminated != nil && !handed && r.stays(s.Name) && slices.Contains(r.Containers, s.Name) {
			return p.beginAnew(ctx, r.Task.PodUID, false)
		}
	}
	return nil
}

// again makes sure that nothing is left of a container of the pod that was restored, and ended before it was thawed.
func (p *Preparer) again(ctx context.Context, t task, r *restoration) error {
	if err := p.options.Kill(ctx, r.Handed[t.Container].ID); err != nil {
		return fmt.Errorf("end container %s of pod %s/%s: %w", r.Handed[t.Container].ID, t.Namespace, t.Pod, err)
	}
	return p.takeBack(t, "")
}

// inVain records that the last attempt of the pod is over where a container ended before it was thawed: that is known of the handover,
// which goes when the pod begins anew.
func (p *Preparer) inVain(ctx context.Context, t task, r *restoration, checkpoint *v1alpha1.Checkpoint) error {
	was := checkpoint.Status.Condition(v1alpha1.ConditionRestored)
	if outcomeOf(r, t.Container) != outcomeInVain || was == nil || was.Reason != v1alpha1.ReasonRestoreImpending {
		return nil
	}
	return p.failed(ctx, t, v1alpha1.ReasonRestoreFailed, fmt.Sprintf("container %s ended before all of its pod were restored", t.Container))
}

// beginAnew ends the containers that were restored in the pod so far, none of which has run: a rung of the ladder is taken by
// the pod as a whole. The pod then begins anew, init containers included, for its sandbox is killed; one with restartPolicy
// Never leaves. With stay nothing is created in place of them, and sandbox and pod stay.
func (p *Preparer) beginAnew(ctx context.Context, podUID string, stay bool) error {
	r, err := p.edit(podUID, func(r *restoration) error {
		if r.Released {
			return errReleased
		}
		r.Ending = true
		if !stay {
			r.Over, r.Leaving = true, r.Never
		}
		if r.several() {
			for _, h := range r.others("") {
				r.Doomed = append(r.Doomed, h.ID)
			}
			r.Handed = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.options.Log.Warn().Str("namespace", r.Task.Namespace).Str("pod", r.Task.Pod).Int("containers", len(r.Doomed)).
		Bool("leaves", r.Leaving).Msg("restored containers are ended, the pod begins anew")
	return p.end(ctx, r)
}

// end does what beginAnew has decided. The sandbox is the last: with it the kubelet begins anew, in empty volumes.
func (p *Preparer) end(ctx context.Context, r *restoration) error {
	for _, id := range r.Doomed {
		if err := p.options.Kill(ctx, id); err != nil {
			return fmt.Errorf("end restored container %s of pod %s/%s: %w", id, r.Task.Namespace, r.Task.Pod, err)
		}
	}
	for _, id := range r.Doomed {
		if err := p.ended(ctx, id); err != nil {
			return fmt.Errorf("end restored container %s of pod %s/%s: %w", id, r.Task.Namespace, r.Task.Pod, err)
		}
	}
	if err := p.clearVolumes(r); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(p.folder(r.Task.PodUID), imagesName)); err != nil {
		return fmt.Errorf("remove fetched images: %w", err)
	}
	if r.Over && !r.Never {
		if err := p.options.Kill(ctx, r.Task.SandboxID); err != nil {
			return fmt.Errorf("end sandbox of pod %s/%s: %w", r.Task.Namespace, r.Task.Pod, err)
		}
	}
	r, err := p.edit(r.Task.PodUID, func(r *restoration) error {
		r.Ending, r.Doomed, r.Fetched, r.Volumes = false, nil, nil, map[string]volume{}
		return nil
	})
	if err != nil || !r.Leaving {
		return err
	}
	return p.tellLeaving(ctx, r)
}

// ended waits a moment for a container that was killed.
func (p *Preparer) ended(ctx context.Context, id string) error {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		lives, err := p.options.Running(ctx, id)
		if err != nil || !lives {
			return err
		}
		if wait > 500*time.Millisecond {
			return errEnding
		}
		select {
		case <-ctx.Done():
			return errors.Join(errEnding, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// tellLeaving writes on the Checkpoint that the pod is to leave. The controller evicts it, so that its owner does not hold
// it against it.
func (p *Preparer) tellLeaving(ctx context.Context, r *restoration) error {
	err := p.update(ctx, r.Task, func(c *v1alpha1.Checkpoint) error {
		var cause string
		if was := c.Status.Condition(v1alpha1.ConditionRestored); was != nil && was.Reason != v1alpha1.ReasonNotRestartable {
			cause = ": " + was.Message
		}
		if r.Failed != "" {
			cause = ": " + r.Failed
		}
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonNotRestartable, errLeaves.Error()+cause)
		return nil
	})
	if err != nil && !errors.Is(err, errNotHolder) && !apierrors.IsNotFound(err) {
		return err
	}
	_, err = p.edit(r.Task.PodUID, func(r *restoration) error {
		r.Leaving, r.Failed = false, ""
		return nil
	})
	return err
}

// enter looks at the restoration that is under way in the pod of a container about to be created; nil where there is none
// in its sandbox. With another sandbox the pod has begun anew.
func (p *Preparer) enter(ctx context.Context, req handover.PrepareRequest, leaving bool) (*restoration, error) {
	r, err := p.load(req.PodUID)
	if err != nil || r == nil {
		return nil, err
	}
	if r.Task.SandboxID == req.SandboxID {
		switch {
		case !r.Over:
			return r, nil
		case r.Never && !leaving:
			return nil, fmt.Errorf("pod %s/%s: %w", req.Namespace, req.Pod, errLeaves)
		}
		return nil, fmt.Errorf("pod %s/%s: %w", req.Namespace, req.Pod, errOver)
	}
	if !r.Over {
		if err := p.beginAnew(ctx, req.PodUID, true); err != nil {
			return nil, err
		}
	}
	if r.several() {
		return nil, p.drop(req.PodUID)
	}
	// Whether the one container has run may be unknown, and must not be forgotten.
	return p.edit(req.PodUID, func(r *restoration) error {
		r.Task.SandboxID, r.Over = req.SandboxID, false
		return nil
	})
}

// whole tells whether the pod has to begin anew before it takes that rung: it takes it with all of its containers, and its init
// containers have to write into empty volumes once more where it starts from the beginning.
func (r *restoration) whole(next rung, container string) bool {
	switch {
	case r == nil || next == rungRestore || next == rungEvacuated:
		return false
	case r.several() && len(r.others(container)) > 0:
		return true
	}
	return next == rungStartClean && r.Inits && len(r.Volumes) > 0
}

// miss remembers that the kubelet was refused a container: where it is not created again, the pod is never whole.
func (p *Preparer) miss(req handover.PrepareRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missed[req.PodUID] = append(p.missed[req.PodUID], req)
}

// incomplete tells whether a container of the pod was refused that is not created again.
func (p *Preparer) incomplete(s shape, req handover.PrepareRequest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.never && len(s.containers) > 1 && slices.ContainsFunc(p.missed[req.PodUID], func(refused handover.PrepareRequest) bool {
		return slices.Contains(s.containers, refused.Container) && !slices.Contains(s.sidecars, refused.Container)
	})
}
