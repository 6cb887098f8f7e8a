package sim

import (
	"bytes"
	"context"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

// Files and memory of running containers.

// stateFile is the file that a container writes in its writable layer, how far its work has come.
const stateFile = "state"

// Preload implements snapshot.Files. It sees files that are written to.
func (e engine) Preload(ctx context.Context, t snapshot.Target, _ float64, w snapshot.FileWriter) (pass snapshot.FilePass, err error) {
	for _, c := range t.Containers {
		content, err := e.file(ctx, c.ID)
		if err == nil {
			err = w.Preload(ctx, layout.LayerPath(c.Name)+"/"+stateFile, int64(len(content)), bytes.NewReader(content))
		}
		if err != nil {
			return pass, err
		}
		pass.Bytes += int64(len(content))
	}
	return pass, nil
}

// Add implements snapshot.Files.
func (e engine) Add(ctx context.Context, t snapshot.Target, w snapshot.FileWriter) (pass snapshot.FilePass, err error) {
	for _, c := range t.Containers {
		content, err := e.file(ctx, c.ID)
		if err != nil {
			return pass, err
		}
		entry := store.Entry{
			Path: layout.LayerPath(c.Name) + "/" + stateFile, Type: store.TypeRegular, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0),
		}
		if err := w.Add(ctx, entry, bytes.NewReader(content)); err != nil {
			return pass, err
		}
		pass.Bytes += int64(len(content))
	}
	return pass, nil
}

func (e engine) file(ctx context.Context, id string) (content []byte, err error) {
	err = e.on(ctx, "files", id, func(c *container) error {
		content = c.content()
		return nil
	})
	return content, err
}

// Scan implements snapshot.Scanner.
func (e engine) Scan(ctx context.Context, c snapshot.Container, _ float64, sink snapshot.ScanSink) (snapshot.Scan, error) {
	var pages []byte
	err := e.on(ctx, "scan", c.ID, func(c *container) error {
		pages = c.memory()
		return nil
	})
	if err != nil {
		return snapshot.Scan{}, err
	}
	for _, run := range memoryRuns {
		n := run.Pages * store.BlockSize
		if _, err := sink(ctx, "mem/1", run.Address, pages[:n]); err != nil {
			return snapshot.Scan{}, err
		}
		pages = pages[n:]
	}
	return snapshot.Scan{Bytes: memoryPages * store.BlockSize, CPU: time.Millisecond}, nil
}

// Vitals implements snapshot.Scanner.
func (e engine) Vitals(c snapshot.Container) (v snapshot.Vitals, err error) {
	err = e.l.w.locked(func() error {
		if e.m.container(c.ID) == nil {
			return snapshot.ErrGone
		}
		v = snapshot.Vitals{RSSBytes: memoryPages * store.BlockSize, CPU: time.Duration(time.Now().UnixNano() / 10)}
		return nil
	})
	return v, err
}

// Forget implements snapshot.Scanner.
func (e engine) Forget(string) {}

// Containers implements kube.Lister.
func (e engine) Containers(ctx context.Context) ([]snapshot.Container, error) {
	if e.l.gone.Load() {
		return nil, e.l.park()
	}
	var out []snapshot.Container
	err := e.l.w.locked(func() error {
		for _, c := range e.m.containers {
			if c.state == ended {
				continue
			}
			out = append(out, snapshot.Container{
				ID: c.id, PID: c.pid, Status: statusOf(c), Bundle: bundleOf(c.id), Namespace: namespace, Pod: c.pod, PodUID: c.uid, Name: c.name,
			})
		}
		return nil
	})
	return out, err
}
