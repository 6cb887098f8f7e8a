package layout

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadStateMounts(t *testing.T) {
	const volumes = "/var/lib/kubelet/pods/3f0c/volumes/"
	for _, c := range []struct {
		name, shm, want string
		volumes         map[string]string
	}{
		{
			"containerd's", "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/3f0c/shm",
			"/run/containerd/io.containerd.grpc.v1.cri/sandboxes/3f0c/shm", map[string]string{},
		},
		{
			"CRI-O's", "/var/run/containers/storage/overlay-containers/3f0c/userdata/shm",
			"/var/run/containers/storage/overlay-containers/3f0c/userdata/shm", map[string]string{},
		},
		{"an emptyDir of memory is a volume", volumes + "kubernetes.io~empty-dir/big", "", map[string]string{"big": volumes + "kubernetes.io~empty-dir/big"}},
		{"a PersistentVolume stays where it is", volumes + "kubernetes.io~csi/pvc-1/mount", "", map[string]string{}},
		{"a part of a volume", "/data/kubelet/pods/3f0c/volume-subpaths/cache/main/0", "", map[string]string{}},
		{"the node's", "/dev/shm", "", map[string]string{}},
		{"none from outside", "shm", "", map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bundle := t.TempDir()
			config := `{"mounts": [{"destination": "/proc", "source": "proc"}, {"destination": "/dev/shm", "source": "` + c.shm + `"}]}`
			require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600))
			mounts, err := ReadStateMounts(bundle)
			require.NoError(t, err)
			require.Equal(t, StateMounts{Volumes: c.volumes, SHM: c.want}, mounts)
		})
	}
}
