package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/store"
)

var stamp = time.Unix(1700000000, 123456789)

func entry(kind store.Type, path string) store.Entry {
	return store.Entry{Type: kind, Path: path, Mode: 0o750, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), ModTime: stamp}
}

func file(path, content string) store.Entry {
	e := entry(store.TypeRegular, path)
	e.Size = int64(len(content))
	return e
}

func symlink(path, to string) store.Entry {
	e := entry(store.TypeSymlink, path)
	e.Linkname = to
	return e
}

func hardLink(path, to string) store.Entry {
	e := entry(store.TypeRegular, path)
	e.HardlinkTo = to
	return e
}

func opaque(path string) store.Entry {
	e := entry(store.TypeDir, path)
	e.Opaque = true
	return e
}

// content is what fetch writes into every file, as much as there is room for.
const content = "what the generation brings"

// fetch does with the entries what store.Fetch does, but goes on after errors.
func fetch(s *Sink, entries ...store.Entry) error {
	var faults []error
	for _, e := range entries {
		faults = append(faults, s.Make(e))
	}
	for _, e := range entries {
		if e.Type != store.TypeRegular || e.HardlinkTo != "" {
			continue
		}
		f, err := s.Open(e)
		if err == nil {
			_, err = f.WriteAt([]byte(content)[:e.Size], 0)
			err = errors.Join(err, f.Close())
		}
		faults = append(faults, err)
	}
	for _, e := range entries {
		faults = append(faults, s.Finish(e))
	}
	return errors.Join(faults...)
}

// open returns a folder's path and a root of it.
func open(t *testing.T) (string, *os.Root) {
	t.Helper()
	folder := t.TempDir()
	root, err := os.OpenRoot(folder)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	return folder, root
}

func stat(t *testing.T, name string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(name, &st))
	return st
}

func TestSinkMakesWhatTheEntriesSay(t *testing.T) {
	folder, root := open(t)
	setUID := file("a/program", content)
	setUID.Mode, setUID.Xattrs = 0o6711, map[string][]byte{"user.note": []byte("kept")}
	sparse := file("a/sparse", "")
	sparse.Size = 1 << 30
	shared := entry(store.TypeDir, "a/b")
	shared.Mode, shared.Xattrs = 0o1777, map[string][]byte{"user.note": []byte("of a folder")}
	closed := entry(store.TypeDir, "a")
	closed.Mode = 0o700
	s := New(root)
	require.NoError(t, func() error {
		for _, e := range []store.Entry{
			setUID, sparse, file("no/parents/given", content), hardLink("a/b/other-name", "a/program"),
			symlink("a/link", "/nowhere"), entry(store.TypeFIFO, "a/b/pipe"), shared, closed, entry(store.TypeDir, "."),
		} {
			if err := s.Make(e); err != nil {
				return err
			}
		}
		return nil
	}())
	f, err := s.Open(setUID)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	for _, e := range []store.Entry{setUID, hardLink("a/b/other-name", "a/program"), symlink("a/link", "/nowhere"),
		entry(store.TypeFIFO, "a/b/pipe"), shared, closed} {
		require.NoError(t, s.Finish(e))
	}

	got, err := os.ReadFile(filepath.Join(folder, "a/b/other-name"))
	require.NoError(t, err)
	require.Equal(t, content, string(got))
	value := make([]byte, 64)
	for name, want := range map[string]string{"a/program": "kept", "a/b": "of a folder"} {
		n, err := unix.Lgetxattr(filepath.Join(folder, name), "user.note", value)
		require.NoError(t, err)
		require.Equal(t, want, string(value[:n]))
	}
	for name, want := range map[string]uint32{
		"a/program": unix.S_IFREG | 0o6711, "a/b": unix.S_IFDIR | 0o1777, "a": unix.S_IFDIR | 0o700,
		"a/b/pipe": unix.S_IFIFO | 0o750, "a/link": unix.S_IFLNK | 0o777,
	} {
		st := stat(t, filepath.Join(folder, name))
		require.Equal(t, fmt.Sprintf("%o", want), fmt.Sprintf("%o", st.Mode), name)
		require.Equal(t, stamp.UnixNano(), st.Mtim.Nano(), name)
	}
	require.EqualValues(t, 2, stat(t, filepath.Join(folder, "a/program")).Nlink)
	hole := stat(t, filepath.Join(folder, "a/sparse"))
	require.EqualValues(t, 1<<30, hole.Size)
	require.Zero(t, hole.Blocks, "zeros take no room")
}

func TestOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	folder, root := open(t)
	owned := func(e store.Entry) store.Entry {
		e.UID, e.GID, e.Mode = 1234, 5678, 0o4711
		return e
	}
	require.NoError(t, fetch(New(root), owned(entry(store.TypeDir, "d")), owned(file("d/f", content)),
		owned(symlink("d/l", "f")), owned(entry(store.TypeFIFO, "d/p"))))
	for _, name := range []string{"d", "d/f", "d/l", "d/p"} {
		st := stat(t, filepath.Join(folder, name))
		require.EqualValues(t, 1234, st.Uid, name)
		require.EqualValues(t, 5678, st.Gid, name)
	}
	require.EqualValues(t, 0o4711, stat(t, filepath.Join(folder, "d/f")).Mode&0o7777, "the owner comes before the mode")
}

func TestWhatIsThereMakesWay(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []store.Entry
		fault   string
		left    string
	}{
		{"a dir stays with what is in it", []store.Entry{entry(store.TypeDir, "d")}, "", "d d/old f"},
		{"an opaque dir hides what was in it", []store.Entry{opaque("d"), file("d/new", "")}, "", "d d/new f"},
		{"an opaque root", []store.Entry{opaque("."), file("new", "")}, "", "new"},
		{"an opaque dir after what is in it", []store.Entry{file("d/e/new", ""), opaque("d")}, "after what is in it", "d d/e d/e/new d/old f"},
		{"a file in place of a dir", []store.Entry{file("d", "")}, "", "d f"},
		{"a dir in place of a file", []store.Entry{entry(store.TypeDir, "f"), file("f/x", "")}, "", "d d/old f f/x"},
		{"a fifo in place of a file", []store.Entry{entry(store.TypeFIFO, "f")}, "", "d d/old f"},
		{"a whiteout of a file", []store.Entry{entry(store.TypeWhiteout, "f")}, "", "d d/old"},
		{"a whiteout of a dir", []store.Entry{entry(store.TypeWhiteout, "d")}, "", "f"},
		{"a whiteout of nothing", []store.Entry{entry(store.TypeWhiteout, "x")}, "", "d d/old f"},
		{"a socket", []store.Entry{entry(store.TypeSocket, "s")}, "no such entry", "d d/old f"},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder, root := open(t)
			require.NoError(t, os.Mkdir(filepath.Join(folder, "d"), 0o755))
			for _, name := range []string{"d/old", "f"} {
				require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte("old"), 0o600))
			}
			err := fetch(NewLayer(root), c.entries...)
			if c.fault == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.fault)
			}
			require.Equal(t, c.left, strings.Join(names(t, folder), " "))
		})
	}
}

// names lists all that is in a folder.
func names(t *testing.T, folder string) []string {
	t.Helper()
	var names []string
	require.NoError(t, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if name, _ := filepath.Rel(folder, path); name != "." {
			names = append(names, name)
		}
		return err
	}))
	return names
}

func TestWhiteoutsBelongToLayers(t *testing.T) {
	folder, root := open(t)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "f"), nil, 0o600))
	require.ErrorContains(t, New(root).Make(entry(store.TypeWhiteout, "f")), "writable layer alone")
	require.FileExists(t, filepath.Join(folder, "f"))
}

// outside describes all that must not change: names, contents, modes, owners, times, links and attributes.
func outside(t *testing.T, folder string) string {
	t.Helper()
	var out strings.Builder
	for _, name := range append([]string{"."}, names(t, folder)...) {
		path := filepath.Join(folder, name)
		st := stat(t, path)
		text, _ := os.ReadFile(path)
		attributes := make([]byte, 256)
		n, _ := unix.Llistxattr(path, attributes)
		fmt.Fprintf(&out, "%s mode %o owner %d:%d links %d time %d %q %q\n",
			name, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Nano(), text, attributes[:max(n, 0)])
	}
	return out.String()
}

// TestNothingOutsideIsTouched hands entries to the sink that package store would have refused.
func TestNothingOutsideIsTouched(t *testing.T) {
	const out = "../outside"
	attributed := func(e store.Entry) store.Entry {
		e.Xattrs = map[string][]byte{"user.evil": []byte("x")}
		e.Mode, e.UID = 0o777, 1234
		return e
	}
	for _, c := range []struct {
		name    string
		entries []store.Entry
	}{
		{"dots", []store.Entry{file("../outside/new", content), entry(store.TypeDir, ".."), file("d/../../outside/new", content)}},
		{"absolute path", []store.Entry{file("ABS/new", content), attributed(entry(store.TypeDir, "ABS"))}},
		{"below a link that an earlier entry made", []store.Entry{symlink("l", out), file("l/new", content), file("l/secret", content)}},
		{"below an absolute link", []store.Entry{symlink("l", "ABS"), file("l/new", content), attributed(entry(store.TypeDir, "l/folder"))}},
		{"below a link to a link", []store.Entry{symlink("l", "m/folder"), symlink("m", out), file("l/new", content)}},
		{"below a link that was there", []store.Entry{file("there/new", content), attributed(entry(store.TypeDir, "there/folder"))}},
		{"link through /proc", []store.Entry{symlink("l", "/proc/self/cwd"), file("l/new", content)}},
		{"link over a file, which is then written", []store.Entry{file("f", content), symlink("f", out+"/secret")}},
		{"link over a folder, which is then finished", []store.Entry{attributed(entry(store.TypeDir, "d")), symlink("d", out)}},
		{"link over a fifo, which is then finished", []store.Entry{attributed(entry(store.TypeFIFO, "p")), symlink("p", out+"/secret")}},
		{"link over the parent of a file", []store.Entry{attributed(file("d/secret", content)), symlink("d", out)}},
		{"link over the parent of a folder", []store.Entry{attributed(entry(store.TypeDir, "d/folder")), symlink("d", out)}},
		{"folder over a link that was there", []store.Entry{attributed(entry(store.TypeDir, "there")), file("there/secret", content)}},
		{"opaque folder over a link that was there", []store.Entry{opaque("there"), file("there/secret", content)}},
		{"opaque folder below a link that was there", []store.Entry{opaque("there/folder")}},
		{"whiteout of a link that was there", []store.Entry{entry(store.TypeWhiteout, "there")}},
		{"whiteout below a link that was there", []store.Entry{entry(store.TypeWhiteout, "there/secret"), entry(store.TypeWhiteout, "there/folder")}},
		{"hard link out", []store.Entry{hardLink("h", "../outside/secret")}},
		{"hard link through a link", []store.Entry{hardLink("h", "there/secret"), hardLink("i", "there/folder/secret")}},
		{"hard link to a link, written and finished", []store.Entry{
			symlink("l", out+"/secret"), hardLink("h", "l"), {Type: store.TypeRegular, Path: "x"},
		}},
		{"fifo below a link", []store.Entry{entry(store.TypeFIFO, "there/new")}},
		{"link below a link", []store.Entry{symlink("there/new", "x")}},
		{"attributes through a link", []store.Entry{attributed(symlink("l", out+"/secret")), attributed(symlink("m", out))}},
		{"fifo over a file, which is then opened", []store.Entry{file("f", content), entry(store.TypeFIFO, "f")}},
		{"folder over a file, which is then opened", []store.Entry{file("f", content), entry(store.TypeDir, "f")}},
		{"file over the folder of another", []store.Entry{file("d/f", content), file("d", content)}},
	} {
		for _, layer := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, layer %t", c.name, layer), func(t *testing.T) {
				base := t.TempDir()
				for _, d := range []string{"inside", "outside/folder"} {
					require.NoError(t, os.MkdirAll(filepath.Join(base, d), 0o700))
				}
				for _, name := range []string{"outside/secret", "outside/folder/secret"} {
					require.NoError(t, os.WriteFile(filepath.Join(base, name), []byte("secret"), 0o600))
				}
				require.NoError(t, os.Symlink(out, filepath.Join(base, "inside/there")))
				root, err := os.OpenRoot(filepath.Join(base, "inside"))
				require.NoError(t, err)
				defer root.Close()
				sink := New(root)
				if layer {
					sink = NewLayer(root)
				}
				before := outside(t, filepath.Join(base, "outside"))
				entries := slices.Clone(c.entries)
				for i, e := range entries {
					entries[i].Path = strings.Replace(e.Path, "ABS", filepath.Join(base, "outside"), 1)
					entries[i].Linkname = strings.Replace(e.Linkname, "ABS", filepath.Join(base, "outside"), 1)
				}
				// Whether it is refused or stays inside is not asked here.
				_ = fetch(sink, entries...)
				require.Equal(t, before, outside(t, filepath.Join(base, "outside")))
				require.Equal(t, []string{"inside", "outside"}, first(names(t, base)))
			})
		}
	}
}

// first returns the names that lie in no folder.
func first(names []string) []string {
	var out []string
	for _, name := range names {
		if !strings.Contains(name, "/") {
			out = append(out, name)
		}
	}
	return out
}

func TestAttributesOfTheMachineAreRefused(t *testing.T) {
	for _, name := range []string{"trusted.overlay.redirect", "trusted.overlay.opaque", "security.selinux", "security.SMACK64EXEC"} {
		for _, kind := range []store.Type{store.TypeRegular, store.TypeDir, store.TypeFIFO} {
			folder, root := open(t)
			e := entry(kind, "x")
			e.Xattrs = map[string][]byte{name: []byte("/")}
			require.ErrorContains(t, New(root).Make(e), "may not be restored", name)
			require.NoFileExists(t, filepath.Join(folder, "x"))
		}
	}
}

// Capabilities of a file are part of it, as its set-user-ID bit is: what they are good for the container's own bounding set says.
func TestCapabilitiesOfFilesComeAlong(t *testing.T) {
	folder, root := open(t)
	e := file("ping", content)
	e.Xattrs = map[string][]byte{"security.capability": append([]byte{1, 0, 0, 2, 0, 0x20}, make([]byte, 14)...)}
	require.NoError(t, fetch(New(root), e))
	value := make([]byte, 64)
	n, err := unix.Lgetxattr(filepath.Join(folder, "ping"), "security.capability", value)
	require.NoError(t, err)
	require.Equal(t, e.Xattrs["security.capability"], value[:n])
}

func TestOneFileOpenedSideBySide(t *testing.T) {
	folder, root := open(t)
	s := New(root)
	const parts = 32
	e := entry(store.TypeRegular, "f")
	e.Size = parts * 4096
	require.NoError(t, s.Make(e))
	var writers sync.WaitGroup
	faults := make([]error, parts)
	for i := range parts {
		writers.Go(func() {
			f, err := s.Open(e)
			if err == nil {
				_, err = f.WriteAt([]byte(strings.Repeat(string(rune('a'+i%26)), 4096)), int64(i)*4096)
				err = errors.Join(err, f.Close())
			}
			faults[i] = err
		})
	}
	writers.Wait()
	require.NoError(t, errors.Join(faults...))
	require.NoError(t, s.Finish(e))
	got, err := os.ReadFile(filepath.Join(folder, "f"))
	require.NoError(t, err)
	require.Len(t, got, parts*4096)
	for i := range parts {
		require.Equal(t, byte('a'+i%26), got[i*4096+4095])
	}
}
