// Package dir fetches generations into folders of this machine.
//
// Nothing outside the folder is made, changed or read, whatever the entries say: every name goes through os.Root, which
// follows no symbolic link out of it. Within the folder, what has the name of an entry makes way for it.
package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/store"
)

// Sink is a store.Sink that makes regular files, dirs, symlinks, hard links and fifos in one folder, with their owners,
// modes, times and extended attributes. It refuses sockets, attributes in trusted.* and security labels, and whiteouts unless it is one of
// NewLayer.
type Sink struct {
	root  *os.Root
	layer bool
	// parents are the folders in which something was made.
	parents map[string]bool
}

// refused are the beginnings of names of attributes that mean something to this machine rather than to the target: the
// overlay's own, and labels by which the kernel tells pods apart. Those of the folder hold.
var refused = []string{"trusted.", "security.selinux", "security.SMACK64"}

// New returns a Sink into the folder root, which stays the caller's to close.
func New(root *os.Root) *Sink { return &Sink{root: root, parents: map[string]bool{}} }

// NewLayer is New for the mount of an overlay whose layers below are those that the generation's lay on: a whiteout
// removes what has its name.
func NewLayer(root *os.Root) *Sink {
	s := New(root)
	s.layer = true
	return s
}

// Make implements store.Sink. Parents that are not there are made. A dir that is there stays, with what is in it unless
// the entry is opaque.
func (s *Sink) Make(e store.Entry) error {
	err := e.Validate()
	if err == nil {
		err = s.make(e)
	}
	if err != nil {
		return fmt.Errorf("make %s %s: %w", e.Type, e.Path, err)
	}
	return nil
}

func (s *Sink) make(e store.Entry) error {
	for name := range e.Xattrs {
		if slices.ContainsFunc(refused, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return fmt.Errorf("extended attribute %s may not be restored", name)
		}
	}
	if err := s.makeParents(e.Path); err != nil {
		return err
	}
	if e.Type == store.TypeDir {
		return s.makeDir(e)
	}
	if e.Type == store.TypeWhiteout && !s.layer {
		return errors.New("whiteouts belong to the writable layer alone")
	}
	if err := s.root.RemoveAll(e.Path); err != nil {
		return err
	}
	switch {
	case e.Type == store.TypeWhiteout:
		return nil
	case e.HardlinkTo != "":
		return s.root.Link(e.HardlinkTo, e.Path)
	case e.Type == store.TypeRegular:
		return s.makeFile(e)
	case e.Type == store.TypeSymlink:
		return s.root.Symlink(e.Linkname, e.Path)
	case e.Type == store.TypeFIFO:
		return s.inParent(e.Path, func(parent int, name string) error {
			return unix.Mknodat(parent, name, unix.S_IFIFO|0o600, 0)
		})
	}
	return errors.New("no such entry may be restored")
}

func (s *Sink) makeParents(name string) error {
	parent := path.Dir(name)
	if name == "." || s.parents[parent] {
		return nil
	}
	if err := s.root.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	for ; !s.parents[parent]; parent = path.Dir(parent) {
		s.parents[parent] = true
	}
	return nil
}

func (s *Sink) makeDir(e store.Entry) error {
	if e.Opaque {
		if s.parents[e.Path] {
			return errors.New("an opaque folder comes after what is in it")
		}
		if err := s.empty(e.Path); err != nil {
			return err
		}
	}
	if e.Path == "." {
		return nil
	}
	info, err := s.root.Lstat(e.Path)
	if err == nil && !info.IsDir() {
		err = s.root.RemoveAll(e.Path)
		if err == nil {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = s.root.Mkdir(e.Path, 0o700)
	}
	return err
}

// empty removes a folder with all that is in it, or what is in it where it is the Sink's own.
func (s *Sink) empty(name string) error {
	if name != "." {
		return s.root.RemoveAll(name)
	}
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sink) makeFile(e store.Entry) error {
	f, err := s.root.OpenFile(e.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if e.Size > 0 {
		err = f.Truncate(e.Size)
	}
	return errors.Join(err, f.Close())
}

// Open implements store.Sink.
func (s *Sink) Open(e store.Entry) (store.File, error) {
	// Not to be held up by a fifo that took the name since.
	f, err := s.root.OpenFile(e.Path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", e.Path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file any more")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", e.Path, err), f.Close())
	}
	return f, nil
}

// Finish implements store.Sink. Nothing is made any more by then, so a folder keeps the time that it is given.
func (s *Sink) Finish(e store.Entry) error {
	if e.Type == store.TypeWhiteout || e.HardlinkTo != "" {
		return nil
	}
	if err := s.finish(e); err != nil {
		return fmt.Errorf("finish %s %s: %w", e.Type, e.Path, err)
	}
	return nil
}

// finish sets owner, mode, attributes and times in this order: a change of owner takes set-user-ID bits and capabilities
// away, and all of it but the last the time.
func (s *Sink) finish(e store.Entry) error {
	if err := s.root.Lchown(e.Path, int(e.UID), int(e.GID)); err != nil {
		return err
	}
	if e.Type != store.TypeSymlink {
		if err := s.root.Chmod(e.Path, fileMode(e.Mode)); err != nil {
			return err
		}
	}
	return s.inParent(e.Path, func(parent int, name string) error {
		for attribute, value := range e.Xattrs {
			if err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", parent, name), attribute, value, 0); err != nil {
				return fmt.Errorf("set attribute %s: %w", attribute, err)
			}
		}
		stamp, err := unix.TimeToTimespec(e.ModTime)
		if err != nil {
			return fmt.Errorf("set time %s: %w", e.ModTime, err)
		}
		return unix.UtimesNanoAt(parent, name, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// fileMode turns the bits of chmod(2) into those of package fs.
func fileMode(mode uint32) fs.FileMode {
	out := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			out |= flag
		}
	}
	return out
}

// inParent calls do with the folder that holds name, for what os.Root has no method for. do follows no symbolic link.
func (s *Sink) inParent(name string, do func(parent int, name string) error) error {
	parent, err := s.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	return do(int(parent.Fd()), path.Base(name))
}
