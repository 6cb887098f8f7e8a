package files

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

// overlay mounts an overlay at bundle/rootfs of a container's bundle, with a file, a folder and a link in the layer
// below, and returns the bundle. The upper directory has to be on a file system that takes trusted attributes.
func overlay(t *testing.T) (bundle string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting an overlay needs root")
	}
	dir := t.TempDir()
	bundle = filepath.Join(dir, "bundle")
	volume := filepath.Join(dir, "pods/u/volumes/kubernetes.io~empty-dir/logs")
	for _, d := range []string{"lower/etc/sub", "upper", "work", "bundle/rootfs", "pods/u/volumes/kubernetes.io~empty-dir/logs"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"lower/etc/deleted", "lower/etc/changed", "lower/etc/sub/hidden", "lower/untouched"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte("below"), 0o644))
	}
	config := `{"mounts": [{"destination": "/logs", "source": "` + volume + `"}, {"destination": "/etc/hosts", "source": "/etc/hosts"}]}`
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(volume, "train.log"), []byte("step=1\n"), 0o644))
	rootfs := filepath.Join(bundle, "rootfs")
	options := "lowerdir=" + dir + "/lower,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	require.NoError(t, unix.Mount("overlay", rootfs, "overlay", 0, options))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(rootfs, 0)) })
	return bundle
}

// read returns what Add hands on, by path, and the contents of regular files.
func read(t *testing.T, bundle string) (map[string]store.Entry, map[string]string, error) {
	t.Helper()
	entries, contents := map[string]store.Entry{}, map[string]string{}
	// The test's own mounts are in its own namespace, which is pid 1's where it runs as usual.
	reader := &Reader{hostRoot: "/", mountinfo: "/proc/self/mountinfo"}
	err := reader.Add(t.Context(), snapshot.Container{Bundle: bundle}, func(_ context.Context, e store.Entry, content io.Reader) error {
		require.NoError(t, e.Validate())
		entries[e.Path] = e
		if content != nil {
			raw, err := io.ReadAll(content)
			require.NoError(t, err)
			contents[e.Path] = string(raw)
		}
		return nil
	})
	return entries, contents, err
}

func TestAdd(t *testing.T) {
	bundle := overlay(t)
	root := filepath.Join(bundle, "rootfs")
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

	entries, contents, err := read(t, bundle)
	require.NoError(t, err)
	require.NotContains(t, entries, "layer/untouched")
	require.Equal(t, store.TypeWhiteout, entries["layer/etc/deleted"].Type)
	require.True(t, entries["layer/etc/sub"].Opaque)
	require.False(t, entries["layer/etc"].Opaque)
	require.Equal(t, "own", contents["layer/etc/sub/own"])
	require.Equal(t, "above", contents["layer/etc/changed"])
	require.EqualValues(t, 0o2640, entries["layer/etc/changed"].Mode)
	require.Equal(t, map[string][]byte{"user.lifeboat": []byte("x")}, entries["layer/etc/changed"].Xattrs)
	require.Equal(t, "layer/etc/changed", entries["layer/etc/zz-hard"].HardlinkTo)
	require.Zero(t, entries["layer/etc/zz-hard"].Size)
	require.Equal(t, "/etc/shadow", entries["layer/etc/symbolic"].Linkname)
	require.Equal(t, store.TypeFIFO, entries["layer/etc/pipe"].Type)
	require.Equal(t, "step=1\n", contents["volumes/logs/train.log"])
	require.Len(t, contents, 3)
}

func TestAddRefusesRootsThatAreNoOverlay(t *testing.T) {
	bundle := t.TempDir()
	_, _, err := read(t, bundle)
	require.ErrorContains(t, err, "no writable overlay layer")
}
