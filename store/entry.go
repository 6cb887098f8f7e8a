package store

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// Type is what kind of file an Entry is.
type Type uint8

// The types of entries; their numbers are part of the format.
const (
	TypeRegular  Type = 1
	TypeDir      Type = 2
	TypeSymlink  Type = 3
	TypeFIFO     Type = 4
	TypeSocket   Type = 5
	TypeWhiteout Type = 6 // the overlay's mark of a name deleted from the layer below
)

var typeNames = map[Type]string{
	TypeRegular: "regular", TypeDir: "dir", TypeSymlink: "symlink",
	TypeFIFO: "fifo", TypeSocket: "socket", TypeWhiteout: "whiteout",
}

// String names the type.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Entry is one file of a generation: a CRIU image, or a file of the target.
type Entry struct {
	// Path is relative, clean and slash separated. "." names the root itself, a dir. Names need not be UTF-8.
	Path string
	Type Type
	// Opaque marks a dir that hides the dir of the same name in the layer below.
	Opaque bool
	// Mode holds permission, setuid, setgid and sticky bits as in chmod(2), nothing else.
	Mode uint32
	UID  uint32
	GID  uint32
	// ModTime is kept to the nanosecond.
	ModTime time.Time
	// Size is that of a regular file that is no hard link, and 0 for all else.
	Size int64
	// Linkname is where a symlink leads, as it stands; nothing says that it stays within the root.
	Linkname string
	// HardlinkTo is the path of an earlier entry of the same type (no dir, no whiteout) that this is another name of.
	HardlinkTo string
	// Xattrs are extended attributes by full name.
	Xattrs map[string][]byte
	// Inline asks for the content of a small regular file to be kept in the manifest: for what differs in every
	// generation. Where it is too much for that it is stored like any other.
	Inline bool
}

// Bounds of an entry, those of Linux where it has one.
const (
	maxPathLength  = 4096
	maxNameElement = 255
	maxFileSize    = 1 << 44
	maxXattrName   = 255
	maxXattrValue  = 64 << 10
	maxXattrs      = 256
	maxInline      = 256 << 10 // of one file
	maxInlineSum   = 4 << 20   // of a generation
	modeMask       = 0o7777
)

// Validate returns ErrInvalid unless the entry keeps the contract of its fields, taken by itself.
func (e Entry) Validate() error {
	fault := e.pathFault()
	if fault == "" {
		fault = e.fieldFault()
	}
	if fault == "" {
		fault = e.xattrFault()
	}
	if fault != "" {
		return fmt.Errorf("entry %q: %s: %w", e.Path, fault, ErrInvalid)
	}
	return nil
}

func (e Entry) hasContent() bool { return e.Type == TypeRegular && e.HardlinkTo == "" }

func (e Entry) pathFault() string {
	if fault := pathFault(e.Path); fault != "" {
		return fault
	}
	if e.Path == "." && e.Type != TypeDir {
		return "the root is a " + e.Type.String() + ", want a dir"
	}
	if e.HardlinkTo == "" {
		return ""
	}
	if fault := pathFault(e.HardlinkTo); fault != "" {
		return "hard link target: " + fault
	}
	if e.Type == TypeDir || e.Type == TypeWhiteout {
		return "a " + e.Type.String() + " cannot be a hard link"
	}
	return ""
}

// pathFault refuses what could lead out of a root. Like fs.ValidPath, but names need not be UTF-8.
func pathFault(p string) string {
	switch {
	case p == "" || len(p) > maxPathLength:
		return fmt.Sprintf("path of %d bytes, want 1 to %d", len(p), maxPathLength)
	case strings.ContainsRune(p, 0):
		return "path holds a NUL"
	case p[0] == '/':
		return "path is absolute"
	case path.Clean(p) != p:
		return "path is not clean"
	}
	for element := range strings.SplitSeq(p, "/") {
		if element == ".." {
			return `path holds ".."`
		}
		if len(element) > maxNameElement {
			return fmt.Sprintf("name of %d bytes in path, want at most %d", len(element), maxNameElement)
		}
	}
	return ""
}

func (e Entry) fieldFault() string {
	switch {
	case typeNames[e.Type] == "":
		return "unknown " + e.Type.String()
	case e.Opaque && e.Type != TypeDir:
		return "opaque, but no dir"
	case e.Mode&^modeMask != 0:
		return fmt.Sprintf("mode %#o has bits outside %#o", e.Mode, modeMask)
	case e.Size < 0 || e.Size > maxFileSize:
		return fmt.Sprintf("size %d outside 0 to %d", e.Size, int64(maxFileSize))
	case e.Size != 0 && !e.hasContent():
		return "size without content of its own"
	case e.Inline && !e.hasContent():
		return "inline without content of its own"
	case (e.Linkname != "") != (e.Type == TypeSymlink):
		return "a symlink needs a link name, nothing else has one"
	case len(e.Linkname) > maxPathLength || strings.ContainsRune(e.Linkname, 0):
		return "link name too long or with a NUL"
	}
	return ""
}

func (e Entry) xattrFault() string {
	if len(e.Xattrs) > maxXattrs {
		return fmt.Sprintf("%d extended attributes, want at most %d", len(e.Xattrs), maxXattrs)
	}
	for name, value := range e.Xattrs {
		if name == "" || len(name) > maxXattrName || strings.ContainsRune(name, 0) {
			return fmt.Sprintf("extended attribute %q: name empty, too long or with a NUL", name)
		}
		if len(value) > maxXattrValue {
			return fmt.Sprintf("extended attribute %q: %d bytes, want at most %d", name, len(value), maxXattrValue)
		}
	}
	return ""
}

// tree checks that entries fit each other: no path twice, nothing below what is no dir, hard links to what came before.
type tree struct {
	nodes map[string]node
}

type node struct {
	typ      Type
	declared bool // false: known only as the parent of something
	link     bool
}

func newTree() *tree { return &tree{nodes: map[string]node{}} }

// add takes a valid entry into the tree, or returns ErrInvalid and leaves the tree as it was.
func (t *tree) add(e Entry) error {
	if fault := t.fault(e); fault != "" {
		return fmt.Errorf("entry %q: %s: %w", e.Path, fault, ErrInvalid)
	}
	for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
		if _, known := t.nodes[dir]; known {
			break
		}
		t.nodes[dir] = node{typ: TypeDir}
	}
	t.nodes[e.Path] = node{typ: e.Type, declared: true, link: e.HardlinkTo != ""}
	return nil
}

func (t *tree) fault(e Entry) string {
	if old, known := t.nodes[e.Path]; known && old.declared {
		return "this path came before"
	} else if known && e.Type != TypeDir {
		return "a " + e.Type.String() + " under a path that has entries below it"
	}
	for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
		if parent, known := t.nodes[dir]; known && parent.typ != TypeDir {
			return fmt.Sprintf("lies below %q, a %s", dir, parent.typ)
		}
	}
	if e.HardlinkTo == "" {
		return ""
	}
	first, known := t.nodes[e.HardlinkTo]
	if !known || !first.declared || first.link || first.typ != e.Type {
		return fmt.Sprintf("hard link to %q, which is no earlier %s", e.HardlinkTo, e.Type)
	}
	return ""
}
