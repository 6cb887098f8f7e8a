package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

// errApply marks failures of this node while the state was written to the pod.
var errApply = errors.New("the state could not be applied")

// trees are the places of a new container that a generation is applied to, by the first parts of an entry's path.
type trees struct {
	container string
	images    *os.Root
	layer     *os.Root
	shm       *os.Root
	volumes   map[string]*os.Root
	// folders are the folders made, whose times are set last, for every file put into them moves theirs.
	folders []folder
	bytes   int64
}

type folder struct {
	root  *os.Root
	name  string
	mtime time.Time
}

// openTrees opens the image folder, the root file system, the emptyDir volumes and /dev/shm of the container of req,
// and empties the volumes.
func (p *Preparer) openTrees(req handover.PrepareRequest, imagePath string) (_ *trees, err error) {
	t := &trees{container: req.Container, volumes: map[string]*os.Root{}}
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
	open := func(seen string) (root *os.Root) {
		if err == nil {
			root, err = os.OpenRoot(seen)
		}
		return root
	}
	t.images = open(filepath.Join(p.options.HostRoot, imagePath))
	t.layer = open(filepath.Join(bundle, "rootfs"))
	for name, source := range mounts.Volumes {
		t.volumes[name] = open(filepath.Join(p.options.HostRoot, source))
	}
	if mounts.SHM != "" {
		t.shm = open(filepath.Join(p.options.HostRoot, mounts.SHM))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: open folders of the pod: %w", errApply, err)
	}
	for name, volume := range t.volumes {
		if err := empty(volume); err != nil {
			return nil, fmt.Errorf("%w: empty volume %s: %w", errApply, name, err)
		}
	}
	return t, nil
}

// clearVolumes empties the emptyDir volumes of the container of req.
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
	return nil
}

// resetLayer empties the container's writable layer after a failed attempt. An overlay's layer must not be changed beneath
// it, so it is unmounted meanwhile; nothing of the container runs.
func (p *Preparer) resetLayer(ctx context.Context, req handover.PrepareRequest) error {
	rootfs := filepath.Join(req.Bundle, "rootfs")
	overlay, err := layout.FindOverlay("/proc/1/mountinfo", rootfs)
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
	for _, root := range t.volumes {
		closeRoot(root)
	}
	closeRoot(t.images)
	closeRoot(t.layer)
	closeRoot(t.shm)
}

func closeRoot(root *os.Root) {
	if root != nil {
		root.Close()
	}
}

// apply writes one entry. What it may touch is bounded by the roots; what it may make are files, folders, symbolic and
// hard links, fifos and, in the layer, absences.
func (t *trees) apply(entry store.Entry, content io.Reader) error {
	root, name, err := t.locate(entry.Path)
	source := &remembering{from: content}
	if err == nil {
		err = t.write(root, name, entry, source)
	}
	if source.err != nil {
		return fmt.Errorf("read %s: %w", entry.Path, source.err)
	}
	if err != nil {
		return fmt.Errorf("%w: %s %s: %w", errApply, entry.Type, entry.Path, err)
	}
	t.bytes += entry.Size
	return nil
}

// remembering keeps the error of the bucket's side apart from those of this node.
type remembering struct {
	from io.Reader
	err  error
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// locate finds the root that an entry belongs to and its name in there.
func (t *trees) locate(entryPath string) (*os.Root, string, error) {
	first, rest, _ := strings.Cut(entryPath, "/")
	switch first {
	case layout.Images:
		container, image, _ := strings.Cut(rest, "/")
		if container != t.container || image == "" || strings.Contains(image, "/") {
			return nil, "", fmt.Errorf("the generation is of container %q", container)
		}
		return t.images, image, nil
	case layout.Layer:
		return t.layer, path.Clean("./" + rest), nil
	case layout.SHM:
		if t.shm == nil {
			return nil, "", errors.New("the pod has no /dev/shm of its own")
		}
		return t.shm, path.Clean("./" + rest), nil
	case layout.Volumes:
		volume, name, _ := strings.Cut(rest, "/")
		root, ok := t.volumes[volume]
		if !ok {
			return nil, "", fmt.Errorf("the pod has no emptyDir volume %q", volume)
		}
		return root, path.Clean("./" + name), nil
	}
	return nil, "", fmt.Errorf("unknown tree %q", first)
}

func (t *trees) write(root *os.Root, name string, entry store.Entry, content io.Reader) error {
	if entry.Type == store.TypeDir {
		return t.writeDir(root, name, entry)
	}
	if name == "." {
		return errors.New("the root of a tree must be a folder")
	}
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	switch {
	case entry.Type == store.TypeWhiteout:
		if root != t.layer {
			return errors.New("whiteouts belong to the writable layer alone")
		}
		return nil
	case entry.HardlinkTo != "":
		target, first, err := t.locate(entry.HardlinkTo)
		if err != nil {
			return err
		}
		if target != root {
			return errors.New("a hard link leaves its tree")
		}
		return root.Link(first, name)
	case entry.Type == store.TypeSymlink:
		if err := root.Symlink(entry.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, int(entry.UID), int(entry.GID))
	case entry.Type == store.TypeFIFO:
		return t.writeFIFO(root, name, entry)
	case entry.Type == store.TypeRegular:
		return t.writeFile(root, name, entry, content)
	}
	return errors.New("no such entry may be restored")
}

func (t *trees) writeDir(root *os.Root, name string, entry store.Entry) error {
	if name != "." {
		info, err := root.Lstat(name)
		if err == nil && (!info.IsDir() || entry.Opaque) {
			if err := root.RemoveAll(name); err != nil {
				return err
			}
			err = fs.ErrNotExist
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = root.Mkdir(name, 0o700)
		}
		if err != nil {
			return err
		}
	}
	t.folders = append(t.folders, folder{root: root, name: name, mtime: entry.ModTime})
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return attributes(f, entry)
}

func (t *trees) writeFile(root *os.Root, name string, entry store.Entry, content io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, content)
	if err != nil {
		return err
	}
	if n != entry.Size {
		return fmt.Errorf("content has %d bytes, not %d", n, entry.Size)
	}
	if err := attributes(f, entry); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return root.Chtimes(name, entry.ModTime, entry.ModTime)
}

func (t *trees) writeFIFO(root *os.Root, name string, entry store.Entry) error {
	parent, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mknodat(int(parent.Fd()), path.Base(name), unix.S_IFIFO|entry.Mode&0o777, 0); err != nil {
		return &fs.PathError{Op: "mkfifo", Path: name, Err: err}
	}
	return root.Lchown(name, int(entry.UID), int(entry.GID))
}

// attributes sets owner, mode and extended attributes, in this order, for a change of owner takes set-user-id bits and
// capabilities away.
func attributes(f *os.File, entry store.Entry) error {
	fd := int(f.Fd())
	if err := unix.Fchown(fd, int(entry.UID), int(entry.GID)); err != nil {
		return &fs.PathError{Op: "chown", Path: f.Name(), Err: err}
	}
	if err := unix.Fchmod(fd, entry.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	for name, value := range entry.Xattrs {
		if strings.HasPrefix(name, "trusted.") {
			return fmt.Errorf("extended attribute %s may not be restored", name)
		}
		if err := unix.Fsetxattr(fd, name, value, 0); err != nil {
			return &fs.PathError{Op: "setxattr " + name, Path: f.Name(), Err: err}
		}
	}
	return nil
}

// finish sets the folders' times, the deepest first.
func (t *trees) finish() error {
	for i := len(t.folders) - 1; i >= 0; i-- {
		f := t.folders[i]
		if err := f.root.Chtimes(f.name, f.mtime, f.mtime); err != nil {
			return fmt.Errorf("%w: set times of %s: %w", errApply, f.name, err)
		}
	}
	return nil
}
