// Package files reads the file trees that belong to a container's state: the writable layer of its overlay, its emptyDir
// volumes and its /dev/shm. It reads below the host's root and follows no symbolic link within a tree.
package files

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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	overlayPrefix = "trusted.overlay."
	opaqueXattr   = overlayPrefix + "opaque"
)

// Reader reads trees of containers of this node.
type Reader struct {
	hostRoot string
	// mountinfo is where the host's mounts are listed; /proc/1/mountinfo but in tests.
	mountinfo string
}

// New returns a Reader for a host whose root this process sees at hostRoot.
func New(hostRoot string) *Reader { return &Reader{hostRoot: hostRoot, mountinfo: "/proc/1/mountinfo"} }

// Add implements snapshot.Files.
func (r *Reader) Add(ctx context.Context, c snapshot.Container, add snapshot.AddFunc) error {
	overlay, err := layout.FindOverlay(r.mountinfo, filepath.Join(c.Bundle, "rootfs"))
	if err != nil {
		return err
	}
	trees := []tree{{host: overlay.Upper, root: layout.Layer, layer: true}}
	mounts, err := layout.ReadStateMounts(filepath.Join(r.hostRoot, c.Bundle))
	if err != nil {
		return err
	}
	for name, source := range mounts.Volumes {
		trees = append(trees, tree{host: source, root: path.Join(layout.Volumes, name)})
	}
	if mounts.SHM != "" {
		trees = append(trees, tree{host: mounts.SHM, root: layout.SHM})
	}
	for _, t := range trees {
		t.seen = filepath.Join(r.hostRoot, t.host)
		if err := t.add(ctx, add); err != nil {
			return fmt.Errorf("read %s: %w", t.host, err)
		}
	}
	return nil
}

// tree is one folder to read.
type tree struct {
	host, seen, root string
	// layer says that the folder is an overlay's upper directory, with whiteouts and opaque marks.
	layer bool
}

func (t tree) add(ctx context.Context, add snapshot.AddFunc) error {
	links := map[[2]uint64]string{}
	return filepath.WalkDir(t.seen, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		relative, err := filepath.Rel(t.seen, file)
		if err != nil {
			return err
		}
		entry, skip, err := t.entry(file, path.Join(t.root, relative))
		if err != nil || skip {
			return err
		}
		if entry.Type != store.TypeRegular {
			return add(ctx, entry.Entry, nil)
		}
		if entry.links > 1 {
			if first, ok := links[entry.inode]; ok {
				entry.HardlinkTo, entry.Size = first, 0
				return add(ctx, entry.Entry, nil)
			}
			links[entry.inode] = entry.Path
		}
		return addContent(ctx, file, entry.Entry, add)
	})
}

func addContent(ctx context.Context, file string, entry store.Entry, add snapshot.AddFunc) error {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return add(ctx, entry, io.LimitReader(f, entry.Size))
}

// found is an entry with what tells hard links.
type found struct {
	store.Entry
	inode [2]uint64
	links uint64
}

// entry describes one file. Sockets are left out, for CRIU makes those that are bound anew; so are device nodes other
// than whiteouts, which no generation may bring.
func (t tree) entry(file, name string) (_ found, skip bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return found{}, false, &fs.PathError{Op: "lstat", Path: file, Err: err}
	}
	out := found{inode: [2]uint64{st.Dev, st.Ino}, links: uint64(st.Nlink)}
	out.Entry = store.Entry{
		Path: name, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		out.Type, out.Size = store.TypeRegular, st.Size
	case unix.S_IFDIR:
		out.Type = store.TypeDir
	case unix.S_IFLNK:
		out.Type = store.TypeSymlink
		if out.Linkname, err = os.Readlink(file); err != nil {
			return found{}, false, err
		}
		return out, false, nil
	case unix.S_IFIFO:
		out.Type = store.TypeFIFO
	case unix.S_IFCHR:
		if !t.layer || st.Rdev != 0 {
			return found{}, true, nil
		}
		out.Type, out.Mode = store.TypeWhiteout, 0
		return out, false, nil
	default:
		return found{}, true, nil
	}
	return out, false, t.xattrs(file, &out.Entry)
}

// xattrs reads the extended attributes, and an upper directory's opaque mark out of them.
func (t tree) xattrs(file string, entry *store.Entry) error {
	names, err := listXattrs(file)
	if err != nil {
		return err
	}
	for _, name := range names {
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			return &fs.PathError{Op: "getxattr " + name, Path: file, Err: err}
		}
		value = value[:n]
		switch {
		case name == opaqueXattr:
			entry.Opaque = string(value) == "y"
		case name == overlayPrefix+"redirect", name == overlayPrefix+"metacopy":
			return fmt.Errorf("%s: overlay attribute %s is not supported; mount overlays with redirect_dir=off, metacopy=off", entry.Path, name)
		case strings.HasPrefix(name, overlayPrefix), name == "security.selinux":
		default:
			if entry.Xattrs == nil {
				entry.Xattrs = map[string][]byte{}
			}
			entry.Xattrs[name] = value
		}
	}
	return nil
}

func listXattrs(file string) ([]string, error) {
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(file, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: file, Err: err}
	}
	return strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 }), nil
}
