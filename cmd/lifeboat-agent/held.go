package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
)

// thawer is what of the OCI runtime thaw needs.
type thawer interface {
	Resume(ctx context.Context, id string) error
	Signal(ctx context.Context, id string, signal syscall.Signal) error
}

// errEvacuating: whether the container runs is the evacuation's to say.
var errEvacuating = errors.New("it is being evacuated")

// thaw lets a container that was restored with others of its pod run, and gives it the signals that lifeboat-runtime has kept
// back. It may be called again: its file goes once it runs, and where that is gone the container is left as it is, for what
// stands frozen then is an evacuation's source.
func thaw(hostRoot string, runc thawer) func(context.Context, string) error {
	return func(ctx context.Context, id string) error {
		found, err := filepath.Glob(filepath.Join(hostRoot, handover.HeldDir, "*", filepath.Base(id)))
		if err != nil || len(found) == 0 {
			return err
		}
		// The agent had thawed it and ended before it could say so.
		if _, err := os.Stat(filepath.Join(hostRoot, handover.HoldDir, filepath.Base(id))); !errors.Is(err, fs.ErrNotExist) {
			return cmp.Or(err, errEvacuating)
		}
		if err := runc.Resume(ctx, id); err != nil {
			return gone(err)
		}
		for _, path := range found {
			signals, err := snapshot.Holds{Dir: filepath.Dir(path)}.Clear(id)
			if err != nil {
				return err
			}
			_ = os.Remove(filepath.Dir(path)) // with the last one of its pod
			for _, signal := range signals {
				if err := runc.Signal(ctx, id, signal); err != nil {
					return gone(err)
				}
			}
		}
		return nil
	}
}

// liveOf lists the live containers of a pod.
func liveOf(runc interface {
	Containers(ctx context.Context) ([]snapshot.Container, error)
}) func(context.Context, string) (map[string]string, error) {
	return func(ctx context.Context, podUID string) (map[string]string, error) {
		all, err := runc.Containers(ctx)
		if err != nil {
			return nil, err
		}
		names := map[string]string{}
		for i := range all {
			if c := &all[i]; c.PodUID == podUID && (c.Status == snapshot.StatusRunning || c.Status == snapshot.StatusPaused) {
				names[c.ID] = c.Name
			}
		}
		return names, nil
	}
}

// kill ends a container.
func kill(runc *criu.Runc) func(context.Context, string) error {
	return func(ctx context.Context, id string) error {
		status, err := runc.Status(ctx, id)
		if err != nil || status == snapshot.StatusStopped {
			return err
		}
		return gone(runc.Signal(ctx, id, syscall.SIGKILL))
	}
}

// gone leaves out that a container has ended.
func gone(err error) error {
	if errors.Is(err, snapshot.ErrGone) {
		return nil
	}
	return err
}
