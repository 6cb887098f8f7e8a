package deploy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckout(t *testing.T) {
	root, err := Checkout()
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, "go.mod"))

	t.Chdir(t.TempDir())
	_, err = Checkout()
	require.ErrorContains(t, err, "run this inside a checkout")
}

func TestCopyLogs(t *testing.T) {
	base, to := t.TempDir(), t.TempDir()
	put := func(name string) {
		path := filepath.Join(base, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(name), 0o644))
	}
	put("nodes/a/log/kubelet.log")
	put("nodes/a/upper/var/lib/lifeboat/work/x/dump.log")
	put("nodes/a/upper/var/lib/lifeboat/work/x/pages-1.img")
	for _, folder := range []string{"nodes/a/log", "nodes/a/upper/var/lib/lifeboat"} {
		require.NoError(t, copyLogs(base, filepath.Join(base, folder), to))
	}
	require.FileExists(t, filepath.Join(to, "nodes/a/log/kubelet.log"))
	require.FileExists(t, filepath.Join(to, "nodes/a/upper/var/lib/lifeboat/work/x/dump.log"))
	require.NoFileExists(t, filepath.Join(to, "nodes/a/upper/var/lib/lifeboat/work/x/pages-1.img"), "memory is no log")
}
