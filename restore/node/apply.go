package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
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
	// containers are all that the generation holds, fetched those whose images are here.
	containers, fetched []string
	images              tree
	layer               tree
	// volumes are those that the container sees, /dev/shm among them.
	volumes map[string]tree
	// foreign are the pod's other volumes.
	foreign []string
}

// tree is one place.
type tree struct {
	root *os.Root
	sink *dir.Sink
	// passed says that what comes here was applied before, or is when the container that it is of comes; it is checked
	// at most.
	passed bool
}

// openTrees opens the places of the container of t, and empties the volumes that it is the first to see.
func (p *Preparer) openTrees(t task) (_ *trees, err error) {
	bundle := filepath.Join(p.options.HostRoot, t.Bundle)
	mounts, err := layout.ReadStateMounts(bundle)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errApply, err)
	}
	if mounts.SHM != "" {
		mounts.Volumes[shmVolume] = mounts.SHM
	}
	r, err := p.touch(t, mounts.Volumes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errApply, err)
	}
	opened := &trees{container: t.Container, containers: r.Containers, fetched: r.Fetched, volumes: map[string]tree{}, foreign: t.pod.volumes}
	defer func() {
		if err != nil {
			opened.close()
			err = fmt.Errorf("%w: open folders of the pod: %w", errApply, err)
		}
	}()
	if err = opened.images.open(filepath.Join(p.folder(t.PodUID), imagesName), dir.New); err != nil {
		return nil, err
	}
	if err = opened.layer.open(filepath.Join(bundle, "rootfs"), dir.NewLayer); err != nil {
		return nil, err
	}
	for name, source := range mounts.Volumes {
		volume := tree{passed: r.Volumes[name].usedBesides(t.Container)}
		err = volume.open(filepath.Join(p.options.HostRoot, source), dir.New)
		if err == nil && !volume.passed {
			err = empty(volume.root)
		}
		opened.volumes[name] = volume
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return opened, nil
}

func (t *tree) open(seen string, sink func(*os.Root) *dir.Sink) error {
	root, err := os.OpenRoot(seen)
	if err != nil {
		return err
	}
	t.root, t.sink = root, sink(root)
	return nil
}

// touch records which volumes are about to be written to, and whose writable layer: it is to be undone where the next attempt
// comes, or the pod begins anew.
func (p *Preparer) touch(t task, sources map[string]string) (*restoration, error) {
	return p.edit(t.PodUID, func(r *restoration) error {
		for name, source := range sources {
			v := r.Volumes[name]
			v.Source = source
			r.Volumes[name] = v
		}
		if !slices.Contains(r.Layers, t.ContainerID) {
			r.Layers = append(r.Layers, t.ContainerID)
		}
		return nil
	})
}

// usedBesides tells whether another container was handed over with the volume.
func (v volume) usedBesides(container string) bool {
	return slices.ContainsFunc(v.Users, func(name string) bool { return name != container })
}

// mounted are the volumes that the container sees.
func (t *trees) mounted() []string { return slices.Sorted(maps.Keys(t.volumes)) }

// wants tells whether the entry has still to be brought here: with the first container of a pod all is, for what is damaged is
// to be found before anything is restored.
func (t *trees) wants(e store.Entry) bool {
	if len(t.fetched) == 0 {
		return true
	}
	if container, ok := strings.CutPrefix(e.Path, layout.Images+"/"); ok {
		container, _, _ = strings.Cut(container, "/")
		return !slices.Contains(t.fetched, container)
	}
	found, _, err := t.find(e.Path)
	return err != nil || !found.passed
}

// clearVolumes empties the volumes that files of a generation were put into.
func (p *Preparer) clearVolumes(r *restoration) error {
	for name, v := range r.Volumes {
		if err := emptyFolder(filepath.Join(p.options.HostRoot, v.Source)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("empty volume %s: %w", name, err)
		}
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
	var file store.File = nowhere{}
	err := t.apply(entry, func(sink *dir.Sink, e store.Entry) (err error) {
		file, err = sink.Open(e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return appliedFile{file}, nil
}

// nowhere is the file of what is passed over.
type nowhere struct{}

// WriteAt implements store.File.
func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// Close implements store.File.
func (nowhere) Close() error { return nil }

// Finish implements store.Sink.
func (t *trees) Finish(entry store.Entry) error {
	return t.apply(entry, func(sink *dir.Sink, e store.Entry) error { return sink.Finish(e) })
}

func (t *trees) apply(entry store.Entry, do func(*dir.Sink, store.Entry) error) error {
	found, e, err := t.locate(entry)
	if err == nil && !found.passed {
		err = do(found.sink, e)
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
func (t *trees) locate(entry store.Entry) (tree, store.Entry, error) {
	found, name, err := t.find(entry.Path)
	if err == nil && found.root == t.images.root && (entry.Type != store.TypeRegular || entry.HardlinkTo != "") {
		// CRIU would follow it, as root.
		err = errors.New("an image must be a file of its own")
	}
	if err != nil {
		return tree{}, entry, fmt.Errorf("%s %s: %w", entry.Type, entry.Path, err)
	}
	if entry.HardlinkTo != "" {
		target, first, err := t.find(entry.HardlinkTo)
		if err == nil && target.root != found.root {
			err = errors.New("a hard link leaves its tree")
		}
		if err != nil {
			return tree{}, entry, fmt.Errorf("%s %s: %w", entry.Type, entry.Path, err)
		}
		entry.HardlinkTo = first
	}
	entry.Path = name
	return found, entry, nil
}

// find finds the tree of a path and the name in there.
func (t *trees) find(entryPath string) (tree, string, error) {
	first, rest, _ := strings.Cut(entryPath, "/")
	name, below, _ := strings.Cut(rest, "/")
	switch first {
	case layout.Images, layout.Layers:
		if !slices.Contains(t.containers, name) || first == layout.Images && (below == "" || strings.Contains(below, "/")) {
			return tree{}, "", fmt.Errorf("the generation is of container %q", name)
		}
		switch {
		case first == layout.Images:
			return t.images, rest, nil
		case name != t.container:
			return tree{passed: true}, "", nil
		}
		return t.layer, path.Clean("./" + below), nil
	case layout.SHM:
		found, ok := t.volumes[shmVolume]
		if !ok && len(t.containers) > 1 { // a volume is in its place in this one
			return tree{passed: true}, "", nil
		}
		if !ok {
			return tree{}, "", errors.New("the pod has no /dev/shm of its own")
		}
		return found, path.Clean("./" + rest), nil
	case layout.Volumes:
		found, ok := t.volumes[name]
		if !ok && slices.Contains(t.foreign, name) {
			return tree{passed: true}, "", nil
		}
		if !ok {
			return tree{}, "", fmt.Errorf("the pod has no emptyDir volume %q", name)
		}
		return found, path.Clean("./" + below), nil
	}
	return tree{}, "", fmt.Errorf("unknown tree %q", first)
}
