package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

// podOnHost lays out the folders of a container of a new pod on a host, with one emptyDir volume that is not empty. A restore of it
// has begun.
func podOnHost(t *testing.T) (p *Preparer, of task, host string) {
	t.Helper()
	host = t.TempDir()
	const volume = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/logs"
	for _, d := range []string{"/bundle/rootfs/etc", volume, "/shm"} {
		require.NoError(t, os.MkdirAll(filepath.Join(host, d), 0o755))
	}
	config := `{"mounts": [{"destination": "/logs", "source": "` + volume + `"}, {"destination": "/dev/shm", "source": "/shm"},
		{"destination": "/proc", "source": "proc"}]}`
	for name, content := range map[string]string{"/bundle/config.json": config, volume + "/of-an-init-container": "x", "/shm/of-an-attempt-before": "x", "/bundle/rootfs/etc/old": "old"} {
		require.NoError(t, os.WriteFile(filepath.Join(host, name), []byte(content), 0o644))
	}
	p = New(Options{HostRoot: host, WorkDir: "/restore"})
	of = task{PrepareRequest: handover.PrepareRequest{PodUID: "u", Container: "main", Bundle: "/bundle"}}
	_, err := p.begin(of, &v1alpha1.GenerationReference{Number: 1}, []string{"main"})
	require.NoError(t, err)
	return p, of, host
}

// opened are the places of the container.
func opened(t *testing.T, p *Preparer, of task) *trees {
	t.Helper()
	trees, err := p.openTrees(of)
	require.NoError(t, err)
	t.Cleanup(trees.close)
	return trees
}

func entry(kind store.Type, path string) store.Entry {
	return store.Entry{Type: kind, Path: path, Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), ModTime: time.Unix(1700000000, 42)}
}

func TestApply(t *testing.T) {
	p, of, host := podOnHost(t)
	trees := opened(t, p, of)
	var made []store.Entry
	add := func(e store.Entry) {
		require.NoError(t, trees.Make(e))
		made = append(made, e)
	}
	file := func(path, content string) {
		e := entry(store.TypeRegular, path)
		e.Mode, e.Size = 0o4750, int64(len(content))
		add(e)
		f, err := trees.Open(e)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte(content), 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	add(entry(store.TypeDir, "layers/main"))
	add(entry(store.TypeDir, "layers/main/etc"))
	file("layers/main/etc/new", "new")
	add(entry(store.TypeWhiteout, "layers/main/etc/old"))
	link := entry(store.TypeRegular, "layers/main/etc/hard")
	link.HardlinkTo = "layers/main/etc/new"
	add(link)
	symlink := entry(store.TypeSymlink, "layers/main/etc/symbolic")
	symlink.Linkname = "/nowhere"
	add(symlink)
	add(entry(store.TypeDir, "volumes/logs"))
	file("volumes/logs/train.log", "step=1\n")
	add(entry(store.TypeFIFO, "volumes/logs/pipe"))
	file("shm/sem.x", "sem")
	file("images/main/pages-1.img", "pages")
	for _, e := range made {
		require.NoError(t, trees.Finish(e))
	}

	volume := filepath.Join(host, "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/logs")
	require.NoFileExists(t, filepath.Join(volume, "of-an-init-container"))
	require.NoFileExists(t, filepath.Join(host, "shm/of-an-attempt-before"))
	require.NoFileExists(t, filepath.Join(host, "bundle/rootfs/etc/old"))
	for path, want := range map[string]string{
		filepath.Join(volume, "train.log"): "step=1\n", filepath.Join(host, "shm/sem.x"): "sem",
		filepath.Join(host, "restore/u/images/main/pages-1.img"): "pages", filepath.Join(host, "bundle/rootfs/etc/hard"): "new",
	} {
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(host, "bundle/rootfs/etc/new"), &st))
	require.EqualValues(t, 2, st.Nlink)
	require.EqualValues(t, 0o4750, st.Mode&0o7777)
	require.Equal(t, int64(1700000000)*1e9+42, st.Mtim.Nano())
	require.NoError(t, unix.Stat(filepath.Join(host, "bundle/rootfs/etc"), &st))
	require.Equal(t, int64(1700000000)*1e9+42, st.Mtim.Nano(), "a folder keeps its time although files were put into it")
	require.NoError(t, unix.Lstat(filepath.Join(volume, "pipe"), &st))
	require.EqualValues(t, unix.S_IFIFO, st.Mode&unix.S_IFMT)
}

func TestApplyRefusesWhatTheLivePodDoesNotHave(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry store.Entry
		fault string
	}{
		{"foreign volume", entry(store.TypeRegular, "volumes/secret/x"), "no emptyDir volume"},
		{"foreign container", entry(store.TypeRegular, "images/other/pages-1.img"), "of container"},
		{"layer of a foreign container", entry(store.TypeRegular, "layers/other/etc/new"), "of container"},
		{"folder of images", entry(store.TypeRegular, "images/main/sub/pages-1.img"), "of container"},
		{"unknown tree", entry(store.TypeRegular, "host/etc/shadow"), "unknown tree"},
		{"whiteout in a volume", entry(store.TypeWhiteout, "volumes/logs/x"), "writable layer alone"},
		{"root that is a file", entry(store.TypeRegular, "layers/main"), "want a dir"},
		{"hard link to another tree", func() store.Entry {
			e := entry(store.TypeRegular, "volumes/logs/x")
			e.HardlinkTo = "layers/main/etc/old"
			return e
		}(), "leaves its tree"},
		{"trusted attribute", func() store.Entry {
			e := entry(store.TypeDir, "layers/main/etc")
			e.Xattrs = map[string][]byte{"trusted.overlay.redirect": []byte("/")}
			return e
		}(), "may not be restored"},
		{"image that is a symbolic link", func() store.Entry {
			e := entry(store.TypeSymlink, "images/main/core-1.img")
			e.Linkname = "/etc/shadow"
			return e
		}(), "file of its own"},
		{"image that is a hard link", func() store.Entry {
			e := entry(store.TypeRegular, "images/main/core-1.img")
			e.HardlinkTo = "images/main/core-2.img"
			return e
		}(), "file of its own"},
		{"image that is a folder: CRIU would take it for a parent", entry(store.TypeDir, "images/main/parent"), "file of its own"},
		{"image above the folder of images", entry(store.TypeRegular, "images/main/.."), "path is not clean"},
		{"layer above its root", entry(store.TypeRegular, "layers/main/../../config.json"), `".."`},
		{"all volumes", entry(store.TypeDir, "volumes"), "no emptyDir volume"},
		{"device", entry(store.Type(7), "layers/main/dev/sda"), "unknown type 7"},
		{"socket", entry(store.TypeSocket, "volumes/logs/containerd.sock"), "no such entry may be restored"},
		{"security label of another pod", func() store.Entry {
			e := entry(store.TypeDir, "layers/main/etc")
			e.Xattrs = map[string][]byte{"security.selinux": []byte("system_u:object_r:container_file_t:s0:c1,c2")}
			return e
		}(), "may not be restored"},
		{"size beyond all files", func() store.Entry {
			e := entry(store.TypeRegular, "layers/main/etc/new")
			e.Size = 1 << 50
			return e
		}(), "size"},
		{"through a symbolic link that leaves the tree", entry(store.TypeRegular, "layers/main/out/x"), "escapes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, of, host := podOnHost(t)
			require.NoError(t, os.Symlink(host, filepath.Join(host, "bundle/rootfs/out")))
			trees := opened(t, p, of)
			err := trees.Make(c.entry)
			require.ErrorIs(t, err, errApply)
			require.ErrorContains(t, err, c.fault)
		})
	}
}
