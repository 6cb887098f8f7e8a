package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/dir"
)

// errApply marks failures of this node while the state was written to the pod.
var errApply = errors.New("the state could not be applied")

// trees are the places of a new container that a generation is applied to, by the first parts of an entry's path. They
// are a store.Sink whose errors are all errApply. What it may touch is bounded by their roots.
type trees struct {
	container string
	images    tree
	layer     tree
	shm       tree
	volumes   map[string]tree
}

// tree is one place; the zero value is one that the pod does not have.
type tree struct {
	root *os.Root
	sink *dir.Sink
}

// openTrees opens the image folder, the root file system, the emptyDir volumes and /dev/shm of the container of req,
// and empties the latter two.
func (p *Preparer) openTrees(req handover.PrepareRequest, imagePath string) (_ *trees, err error) {
	t := &trees{container: req.Container, volumes: map[string]tree{}}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	bundle := filepath.Join(p.options.HostRoot, req.Bundle)
	mounts, err := layout.ReadStateMounts(bundle)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errApply, err)
	}
	open := func(seen string, sink func(*os.Root) *dir.Sink) (opened tree) {
		if err == nil {
			opened.root, err = os.OpenRoot(seen)
		}
		if err == nil {
			opened.sink = sink(opened.root)
		}
		return opened
	}
	t.images = open(filepath.Join(p.options.HostRoot, imagePath), dir.New)
	t.layer = open(filepath.Join(bundle, "rootfs"), dir.NewLayer)
	for name, source := range mounts.Volumes {
		t.volumes[name] = open(filepath.Join(p.options.HostRoot, source), dir.New)
	}
	if mounts.SHM != "" {
		t.shm = open(filepath.Join(p.options.HostRoot, mounts.SHM), dir.New)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: open folders of the pod: %w", errApply, err)
	}
	for name, volume := range t.volumes {
		if err := empty(volume.root); err != nil {
			return nil, fmt.Errorf("%w: empty volume %s: %w", errApply, name, err)
		}
	}
	if t.shm.root != nil {
		// An attempt before this one may have left what another generation holds.
		if err := empty(t.shm.root); err != nil {
			return nil, fmt.Errorf("%w: empty /dev/shm: %w", errApply, err)
		}
	}
	return t, nil
}

// clearVolumes empties the emptyDir volumes and /dev/shm of the container of req.
func (p *Preparer) clearVolumes(req handover.PrepareRequest) error {
	mounts, err := layout.ReadStateMounts(filepath.Join(p.options.HostRoot, req.Bundle))
	if err != nil {
		return err
	}
	for name, source := range mounts.Volumes {
		if err := emptyFolder(filepath.Join(p.options.HostRoot, source)); err != nil {
			return fmt.Errorf("empty volume %s: %w", name, err)
		}
	}
	if mounts.SHM == "" {
		return nil
	}
	if err := emptyFolder(filepath.Join(p.options.HostRoot, mounts.SHM)); err != nil {
		return fmt.Errorf("empty /dev/shm: %w", err)
	}
	return nil
}

// resetLayer empties the container's writable layer after a failed attempt. An overlay's layer must not be changed beneath
// it, so it is unmounted meanwhile; nothing of the container runs.
func (p *Preparer) resetLayer(ctx context.Context, req handover.PrepareRequest) error {
	rootfs := filepath.Join(req.Bundle, "rootfs")
	overlay, err := layout.FindOverlay(p.options.MountInfo, rootfs)
	if err != nil {
		return fmt.Errorf("%w: %w", errApply, err)
	}
	if err := p.options.OnHost(ctx, "umount", rootfs); err != nil {
		return fmt.Errorf("%w: unmount the root file system: %w", errApply, err)
	}
	emptied := emptyFolder(filepath.Join(p.options.HostRoot, overlay.Upper))
	// containerd may name the layers below relative to the folder of its snapshots.
	snapshots := filepath.Dir(filepath.Dir(overlay.Upper))
	err = p.options.OnHost(ctx, "env", "-C", snapshots, "mount", "-t", "overlay", "-o", overlay.Options, "overlay", rootfs)
	if err := errors.Join(emptied, err); err != nil {
		return fmt.Errorf("%w: empty the writable layer: %w", errApply, err)
	}
	return nil
}

func emptyFolder(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	return errors.Join(empty(root), root.Close())
}

func empty(root *os.Root) error {
	names, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := root.RemoveAll(n.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (t *trees) close() {
	for _, volume := range t.volumes {
		volume.close()
	}
	t.images.close()
	t.layer.close()
	t.shm.close()
}

func (t tree) close() {
	if t.root != nil {
		t.root.Close()
	}
}

// Make implements store.Sink.
func (t *trees) Make(entry store.Entry) error {
	return t.apply(entry, func(sink *dir.Sink, e store.Entry) error { return sink.Make(e) })
}

// Open implements store.Sink.
func (t *trees) Open(entry store.Entry) (store.File, error) {
	var file store.File
	err := t.apply(entry, func(sink *dir.Sink, e store.Entry) (err error) {
		file, err = sink.Open(e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return appliedFile{file}, nil
}

// Finish implements store.Sink.
func (t *trees) Finish(entry store.Entry) error {
	return t.apply(entry, func(sink *dir.Sink, e store.Entry) error { return sink.Finish(e) })
}

func (t *trees) apply(entry store.Entry, do func(*dir.Sink, store.Entry) error) error {
	sink, e, err := t.locate(entry)
	if err == nil {
		err = do(sink, e)
	}
	return applied(err)
}

// applied marks what went wrong on this node.
func applied(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errApply, err)
}

type appliedFile struct{ store.File }

// WriteAt implements store.File.
func (f appliedFile) WriteAt(p []byte, offset int64) (int, error) {
	n, err := f.File.WriteAt(p, offset)
	return n, applied(err)
}

// Close implements store.File.
func (f appliedFile) Close() error { return applied(f.File.Close()) }

// locate finds the tree that an entry belongs to, and the entry as it is in there.
func (t *trees) locate(entry store.Entry) (*dir.Sink, store.Entry, error) {
	found, name, err := t.find(entry.Path)
	if err == nil && found.root == t.images.root && (entry.Type != store.TypeRegular || entry.HardlinkTo != "") {
		// CRIU would follow it, as root.
		err = errors.New("an image must be a file of its own")
	}
	if err != nil {
		return nil, entry, fmt.Errorf("%s %s: %w", entry.Type, entry.Path, err)
	}
	if entry.HardlinkTo != "" {
		target, first, err := t.find(entry.HardlinkTo)
		if err == nil && target.root != found.root {
			err = errors.New("a hard link leaves its tree")
		}
		if err != nil {
			return nil, entry, fmt.Errorf("%s %s: %w", entry.Type, entry.Path, err)
		}
		entry.HardlinkTo = first
	}
	entry.Path = name
	return found.sink, entry, nil
}

// find finds the tree of a path and the name in there.
func (t *trees) find(entryPath string) (tree, string, error) {
	first, rest, _ := strings.Cut(entryPath, "/")
	switch first {
	case layout.Images:
		container, image, _ := strings.Cut(rest, "/")
		if container != t.container || image == "" || strings.Contains(image, "/") {
			return tree{}, "", fmt.Errorf("the generation is of container %q", container)
		}
		return t.images, image, nil
	case layout.Layers:
		container, name, _ := strings.Cut(rest, "/")
		if container != t.container {
			return tree{}, "", fmt.Errorf("the generation is of container %q", container)
		}
		return t.layer, path.Clean("./" + name), nil
	case layout.SHM:
		if t.shm.root == nil {
			return tree{}, "", errors.New("the pod has no /dev/shm of its own")
		}
		return t.shm, path.Clean("./" + rest), nil
	case layout.Volumes:
		volume, name, _ := strings.Cut(rest, "/")
		found, ok := t.volumes[volume]
		if !ok {
			return tree{}, "", fmt.Errorf("the pod has no emptyDir volume %q", volume)
		}
		return found, path.Clean("./" + name), nil
	}
	return tree{}, "", fmt.Errorf("unknown tree %q", first)
}
