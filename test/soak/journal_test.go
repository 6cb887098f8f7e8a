package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// record is what stands on the workload's Checkpoint, and what went wrong.
type record struct {
	PodUID   string
	Epoch    int64
	Deadline time.Time
	Failed   string
	Final    *snapshot.Committed
	Safety   []snapshot.Committed
	// Leaving says that the pod is being deleted.
	Leaving bool
	// Broken are promises that the agent broke.
	Broken []string
}

// journal keeps the record in a file, for all lives of the agent and the test. It implements snapshot.Journal and
// snapshot.Board in the place of an API server.
type journal struct {
	path string
	list func(ctx context.Context) ([]snapshot.Container, error)
}

// update changes the record, one at a time.
func (j journal) update(change func(r *record)) (record, error) {
	var r record
	lock, err := os.OpenFile(j.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return r, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return r, err
	}
	text, err := os.ReadFile(j.path)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if change == nil {
		return r, nil
	}
	change(&r)
	if text, err = json.Marshal(r); err == nil {
		err = os.WriteFile(j.path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(j.path+".new", j.path)
	}
	return r, err
}

// of is update for what is said of t.
func (j journal) of(t snapshot.Target, change func(r *record)) error {
	fault := error(nil)
	_, err := j.update(func(r *record) {
		if r.PodUID != t.PodUID {
			fault = fmt.Errorf("%w: it is of pod %s", snapshot.ErrUnprotected, r.PodUID)
			return
		}
		change(r)
	})
	return errors.Join(err, fault)
}

func (j journal) Targets(ctx context.Context) ([]snapshot.Target, error) {
	containers, err := j.list(ctx)
	if err != nil {
		return nil, err
	}
	r, err := j.update(nil)
	if err != nil {
		return nil, err
	}
	var targets []snapshot.Target
	for _, c := range containers {
		if c.PodUID == r.PodUID && c.Status != snapshot.StatusStopped {
			c.NeverRestarts = true
			targets = append(targets, snapshot.Target{
				Namespace: c.Namespace, Pod: c.Pod, PodUID: c.PodUID, Containers: []snapshot.Container{c},
				Checkpoint: podName, CheckpointUID: checkpointUID, Epoch: r.Epoch,
				Final: r.Final != nil, Deadline: r.Deadline, Failed: r.Failed != "",
			})
		}
	}
	return targets, nil
}

func (j journal) Begun(_ context.Context, t snapshot.Target, m snapshot.Moments) error {
	return j.of(t, func(r *record) { r.Deadline, r.Failed = m.Deadline, "" })
}

func (j journal) Final(ctx context.Context, t snapshot.Target, g snapshot.Committed, _ snapshot.Moments) error {
	containers, err := j.list(ctx)
	if err != nil {
		return err
	}
	return j.of(t, func(r *record) {
		for _, c := range containers {
			if t.Has(c.ID) && c.Status != snapshot.StatusPaused {
				r.Broken = append(r.Broken, fmt.Sprintf("generation %d is recorded as final while %s is %s", g.Number, c.ID, c.Status))
			}
		}
		r.Final = &g
	})
}

func (j journal) Leaving(context.Context, snapshot.Target) (bool, error) {
	r, err := j.update(nil)
	return r.Leaving, err
}

func (j journal) Failed(_ context.Context, t snapshot.Target, reason, message string) error {
	return j.of(t, func(r *record) {
		r.Failed = reason + ": " + message
		if r.Final != nil {
			r.Broken = append(r.Broken, "recorded as failed after it was final: "+r.Failed)
		}
	})
}

func (j journal) Safety(_ context.Context, t snapshot.Target, g snapshot.Committed, _ time.Time) error {
	return j.of(t, func(r *record) { r.Safety = append(r.Safety, g) })
}

func (j journal) Judged(context.Context, snapshot.Target, snapshot.Verdict, snapshot.Prediction) error {
	return nil
}

// watched is a Runtime that sees a final source thawed.
type watched struct {
	snapshot.Runtime
	journal journal
}

func (w watched) Resume(ctx context.Context, id string) error {
	_, err := w.journal.update(func(r *record) {
		if r.Final != nil && r.PodUID == id {
			r.Broken = append(r.Broken, "thawed although it may run elsewhere")
		}
	})
	return errors.Join(err, w.Runtime.Resume(ctx, id))
}

var _ snapshot.Runtime = watched{}

func newJournal(list func(context.Context) ([]snapshot.Container, error)) journal {
	return journal{path: filepath.Join(base, "journal"), list: list}
}
