package files

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

// pod is a container's folders on this machine: a mounted overlay, an emptyDir volume and a bundle that names both. Its
// process is this one.
type pod struct {
	bundle, root, upper, volume string
	reader                      *Reader
}

// newPod mounts an overlay with files, folders and links in the layer below. The upper directory has to be on a file system
// that takes trusted attributes.
func newPod(t testing.TB) *pod {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting an overlay needs root")
	}
	dir := t.TempDir()
	p := &pod{
		bundle: filepath.Join(dir, "bundle"), root: filepath.Join(dir, "bundle/rootfs"), upper: filepath.Join(dir, "upper"),
		volume: filepath.Join(dir, "pods/u/volumes/kubernetes.io~empty-dir/logs"),
		// The test's own mounts are in its own namespace, which is pid 1's where it runs as usual.
		reader: &Reader{hostRoot: "/", mountinfo: "/proc/self/mountinfo", proc: "/proc"},
	}
	for _, d := range []string{filepath.Join(dir, "lower/etc/sub"), filepath.Join(dir, "work"), p.upper, p.root, p.volume} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	for _, f := range []string{"lower/etc/deleted", "lower/etc/changed", "lower/etc/sub/hidden", "lower/untouched"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte("below"), 0o644))
	}
	config := `{"mounts": [{"destination": "/logs", "source": "` + p.volume + `"}, {"destination": "/etc/hosts", "source": "/etc/hosts"}]}`
	require.NoError(t, os.WriteFile(filepath.Join(p.bundle, "config.json"), []byte(config), 0o644))
	options := "lowerdir=" + dir + "/lower,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	require.NoError(t, unix.Mount("overlay", p.root, "overlay", 0, options))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(p.root, 0)) })
	return p
}

func (p *pod) containers() []snapshot.Container {
	return []snapshot.Container{{Name: "main", Bundle: p.bundle, PID: os.Getpid()}}
}

// recorder is a Writer that has nothing and keeps what it gets.
type recorder struct {
	noSecrets
	t        testing.TB
	entries  map[string]store.Entry
	contents map[string]string
}

func (r recorder) Add(_ context.Context, e store.Entry, content io.Reader) error {
	require.NoError(r.t, e.Validate())
	r.entries[e.Path] = e
	if content != nil {
		raw, err := io.ReadAll(content)
		require.NoError(r.t, err)
		r.contents[e.Path] = string(raw)
	}
	return nil
}

// read returns what Add hands on, by path, and the contents of regular files.
func (p *pod) read(t testing.TB) (map[string]store.Entry, map[string]string, error) {
	t.Helper()
	r := recorder{noSecrets{}, t, map[string]store.Entry{}, map[string]string{}}
	_, err := Source{Reader: p.reader}.Add(t.Context(), snapshot.Target{Containers: p.containers()}, r)
	return r.entries, r.contents, err
}

func TestAdd(t *testing.T) {
	p := newPod(t)
	root := p.root
	require.NoError(t, os.WriteFile(filepath.Join(p.volume, "train.log"), []byte("step=1\n"), 0o644))
	require.NoError(t, os.Remove(filepath.Join(root, "etc/deleted")))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/changed"), []byte("above"), 0o644))
	require.NoError(t, os.Chmod(filepath.Join(root, "etc/changed"), 0o640|os.ModeSetgid))
	require.NoError(t, os.RemoveAll(filepath.Join(root, "etc/sub")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "etc/sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/sub/own"), []byte("own"), 0o600))
	require.NoError(t, os.Link(filepath.Join(root, "etc/changed"), filepath.Join(root, "etc/zz-hard")))
	require.NoError(t, os.Symlink("/etc/shadow", filepath.Join(root, "etc/symbolic")))
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "etc/pipe"), 0o600))
	require.NoError(t, unix.Setxattr(filepath.Join(root, "etc/changed"), "user.lifeboat", []byte("x"), 0))

	socket, err := net.Listen("unix", filepath.Join(root, "etc/socket"))
	require.NoError(t, err)
	defer socket.Close()
	require.NoError(t, unix.Mknod(filepath.Join(p.volume, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	unlinked, err := os.Create(filepath.Join(root, "etc/unlinked"))
	require.NoError(t, err)
	defer unlinked.Close()
	require.NoError(t, os.Remove(unlinked.Name()))

	entries, contents, err := p.read(t)
	require.NoError(t, err)
	require.NotContains(t, entries, "layers/main/untouched")
	require.Equal(t, store.TypeWhiteout, entries["layers/main/etc/deleted"].Type)
	require.True(t, entries["layers/main/etc/sub"].Opaque)
	require.False(t, entries["layers/main/etc"].Opaque)
	require.Equal(t, "own", contents["layers/main/etc/sub/own"])
	require.Equal(t, "above", contents["layers/main/etc/changed"])
	require.EqualValues(t, 0o2640, entries["layers/main/etc/changed"].Mode)
	require.Equal(t, map[string][]byte{"user.lifeboat": []byte("x")}, entries["layers/main/etc/changed"].Xattrs)
	require.Equal(t, "layers/main/etc/changed", entries["layers/main/etc/zz-hard"].HardlinkTo)
	require.Zero(t, entries["layers/main/etc/zz-hard"].Size)
	require.Equal(t, "/etc/shadow", entries["layers/main/etc/symbolic"].Linkname)
	require.Equal(t, store.TypeFIFO, entries["layers/main/etc/pipe"].Type)
	require.Equal(t, "step=1\n", contents["volumes/logs/train.log"])
	require.Len(t, contents, 3)
	for _, left := range []string{"layers/main/etc/socket", "layers/main/etc/unlinked", "volumes/logs/null"} {
		require.NotContains(t, entries, left)
	}
}

func TestAddRefusesRootsThatAreNoOverlay(t *testing.T) {
	p := &pod{bundle: t.TempDir(), reader: &Reader{hostRoot: "/", mountinfo: "/proc/self/mountinfo", proc: "/proc"}}
	_, _, err := p.read(t)
	require.ErrorContains(t, err, "no writable overlay layer")
}
