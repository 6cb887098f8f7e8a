package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	overlayPrefix = "trusted.overlay."
	opaqueXattr   = overlayPrefix + "opaque"
	// raceTries is how often a name is resolved that openat2 says is being moved.
	raceTries = 8
)

// pass is one walk through the trees of a pod.
type pass struct {
	reader *Reader
	// init is the first process of one of the containers.
	init     int
	leaveOut exclude.Patterns
	// live says that the container runs.
	live  bool
	limit *memory.Limit
	pay   func(ctx context.Context) error
	take  func(ctx context.Context, f *found) error
	began time.Time
	// mapped are the files that may change without a trace; nil where they were not looked for yet. mappedFault says why
	// nothing is known of them.
	mapped      map[inode]bool
	mappedFault error
	stats       Stats
	names       [1 << 16]byte // buffers for extended attributes
	value       [1 << 16]byte
}

// inode names a file of the host.
type inode struct{ device, number uint64 }

// tree is one folder to read.
type tree struct {
	// host is its path, root the first elements of its entries' paths.
	host, root string
	// merged is the mount of the overlay that this folder is the upper directory of; empty where it is none. Only there are
	// whiteouts and opaque marks.
	merged string
	folder *os.File
	// dated says that ctime tells of every change that begins after it was read.
	dated bool
	// links are the first names of files that have more than one.
	links map[inode]string
}

func (t *tree) open(seen string) error {
	folder, err := os.OpenFile(seen, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(folder.Fd()), &system); err != nil {
		return errors.Join(&fs.PathError{Op: "statfs", Path: seen, Err: err}, folder.Close())
	}
	switch int64(system.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		t.dated = true
	}
	t.folder, t.links = folder, map[inode]string{}
	return nil
}

func (t *tree) close() error { return t.folder.Close() }

// found is an entry, and the open file that it describes.
type found struct {
	store.Entry
	tree     *tree
	relative string
	node     *os.File // O_PATH
	inode    inode
	links    uint64
	version  string
	changed  time.Time
}

// visit takes what has that name in the tree, and all that is below it.
func (p *pass) visit(ctx context.Context, t *tree, relative string) error {
	if err := errors.Join(ctx.Err(), p.payFor(ctx)); err != nil {
		return err
	}
	name := path.Join(t.root, relative)
	if p.leaveOut.Match(name) {
		p.stats.Excluded++
		return nil
	}
	names, err := p.look(ctx, t, relative, name)
	var fault *treeError
	if p.live && relative != "." && errors.As(err, &fault) {
		p.stats.Vanished++
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := p.visit(ctx, t, path.Join(relative, child)); err != nil {
			return err
		}
	}
	return nil
}

// treeError is an error of the tree that is read, not of who takes it or of ctx.
type treeError struct{ error }

func (e *treeError) Unwrap() error { return e.error }

func ofTree(err error) error {
	if err == nil {
		return nil
	}
	return &treeError{err}
}

// look takes one entry, and returns the names in it where it is a folder.
func (p *pass) look(ctx context.Context, t *tree, relative, name string) ([]string, error) {
	node, err := t.node(relative)
	if err != nil {
		return nil, ofTree(err)
	}
	defer node.Close()
	f, skip, err := p.describe(t, node, name)
	if err != nil || skip {
		return nil, ofTree(err)
	}
	f.relative = relative
	p.stats.Entries++
	if f.Type == store.TypeRegular && f.links > 1 {
		if first, ok := t.links[f.inode]; ok {
			f.HardlinkTo, f.Size = first, 0
		} else {
			t.links[f.inode] = f.Path
		}
	}
	if err := p.take(ctx, f); err != nil {
		return nil, err
	}
	if f.Type != store.TypeDir {
		return nil, nil
	}
	folder, err := reopen(node, unix.O_DIRECTORY)
	if err != nil {
		return nil, ofTree(err)
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	slices.Sort(names)
	return names, ofTree(err)
}

// node opens what has a name in the tree, without following a link and without a right to read.
func (t *tree) node(relative string) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for try := 1; ; try++ {
		fd, err := unix.Openat2(int(t.folder.Fd()), relative, how)
		if err == nil {
			return os.NewFile(uintptr(fd), relative), nil
		}
		if !errors.Is(err, unix.EINTR) && (!errors.Is(err, unix.EAGAIN) || try == raceTries) {
			return nil, &fs.PathError{Op: "openat2", Path: relative, Err: err}
		}
	}
}

// self is the path of an open file by itself.
func self(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// reopen opens for reading what node is.
func reopen(node *os.File, flags int) (*os.File, error) {
	flags |= os.O_RDONLY | unix.O_NONBLOCK
	f, err := os.OpenFile(self(node), flags|unix.O_NOATIME, 0)
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.OpenFile(self(node), flags, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s to read: %w", node.Name(), err)
	}
	return f, nil
}

// describe says what node is.
func (p *pass) describe(t *tree, node *os.File, name string) (_ *found, skip bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(node.Fd()), &st); err != nil {
		return nil, false, &fs.PathError{Op: "fstat", Path: name, Err: err}
	}
	f := &found{
		tree: t, node: node, inode: inode{st.Dev, st.Ino}, links: uint64(st.Nlink),
		version: versionOf(&st), changed: time.Unix(st.Ctim.Unix()),
		Entry: store.Entry{Path: name, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Unix())},
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Type, f.Size = store.TypeRegular, st.Size
	case unix.S_IFDIR:
		f.Type = store.TypeDir
	case unix.S_IFLNK:
		f.Type = store.TypeSymlink
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(node.Fd()), "", buf)
		if err != nil {
			return nil, false, &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		f.Linkname = string(buf[:n])
		return f, false, nil
	case unix.S_IFIFO:
		f.Type = store.TypeFIFO
	case unix.S_IFCHR:
		if t.merged == "" || st.Rdev != 0 {
			return nil, true, nil
		}
		f.Type, f.Mode = store.TypeWhiteout, 0
		return f, false, nil
	default:
		return nil, true, nil
	}
	return f, false, p.xattrs(self(node), &f.Entry)
}

// xattrs reads the extended attributes, and an upper directory's opaque mark out of them.
func (p *pass) xattrs(file string, entry *store.Entry) error {
	n, err := unix.Listxattr(file, p.names[:])
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: entry.Path, Err: err}
	}
	for _, name := range strings.FieldsFunc(string(p.names[:n]), func(r rune) bool { return r == 0 }) {
		n, err := unix.Getxattr(file, name, p.value[:])
		if p.live && errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "getxattr " + name, Path: entry.Path, Err: err}
		}
		switch {
		case name == opaqueXattr:
			entry.Opaque = string(p.value[:n]) == "y"
		case name == overlayPrefix+"redirect", name == overlayPrefix+"metacopy":
			return fmt.Errorf("%s: overlay attribute %s is not supported; mount overlays with redirect_dir=off, metacopy=off", entry.Path, name)
		case strings.HasPrefix(name, overlayPrefix), name == "security.selinux":
		default:
			if entry.Xattrs == nil {
				entry.Xattrs = map[string][]byte{}
			}
			entry.Xattrs[name] = slices.Clone(p.value[:n])
		}
	}
	return nil
}
