package deploy

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

func TestImageOf(t *testing.T) {
	for name, c := range map[string]struct {
		reference string
		want      image
	}{
		"port and tag": {"localhost:5000/lifeboat:dev", image{Name: "lifeboat", NewName: "localhost:5000/lifeboat", NewTag: "dev"}},
		"port alone":   {"localhost:5000/lifeboat", image{Name: "lifeboat", NewName: "localhost:5000/lifeboat"}},
		"tag alone":    {"lifeboat:1", image{Name: "lifeboat", NewName: "lifeboat", NewTag: "1"}},
		"digest":       {"localhost:5000/lifeboat@sha256:ab", image{Name: "lifeboat", NewName: "localhost:5000/lifeboat", Digest: "sha256:ab"}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, imageOf(c.reference)) })
	}
}

func TestWriteOverlay(t *testing.T) {
	root := t.TempDir()
	site := Site{
		Root: root, Work: filepath.Join(root, "build", "deploy"), Image: "localhost:5000/lifeboat:dev",
		Bucket: "file:///srv/lifeboat-bucket", AccessKey: "id", SecretKey: "secret", MetadataEndpoint: "http://metadata",
	}
	folder, err := writeOverlay(site)
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
	require.NoError(t, err)
	var k kustomization
	require.NoError(t, yaml.UnmarshalStrict(data, &k))
	require.Equal(t, []string{"../../../manifests/base"}, k.Resources)
	require.Equal(t, Namespace, k.Namespace)
	require.Contains(t, k.ConfigMapGenerator[0].Literals, "LIFEBOAT_BUCKET=file:///srv/lifeboat-bucket")
	require.Contains(t, k.ConfigMapGenerator[0].Literals, "LIFEBOAT_AWS_METADATA_ENDPOINT=http://metadata")
	require.Len(t, k.Patches, 1)
	require.Contains(t, k.Patches[0].Patch, `hostPath: {path: "/srv/lifeboat-bucket", type: Directory}`)
	require.Contains(t, k.SecretGenerator[1].Literals, "AWS_SECRET_ACCESS_KEY=secret")
	key, err := os.ReadFile(filepath.Join(folder, keyFile))
	require.NoError(t, err)
	raw, err := base64.StdEncoding.DecodeString(string(key))
	require.NoError(t, err)
	require.Len(t, raw, 32)

	site.AccessKey = ""
	_, err = writeOverlay(site)
	require.NoError(t, err)
	again, err := os.ReadFile(filepath.Join(folder, keyFile))
	require.NoError(t, err)
	require.Equal(t, key, again, "a second installation reads what the first one wrote")
	require.Len(t, overlayOf(site, "base").SecretGenerator, 1, "a file bucket wants no credentials")
}

func TestWriteRemoval(t *testing.T) {
	root := t.TempDir()
	folder, err := writeRemoval(Site{Root: root, Work: filepath.Join(root, "build", "bed")})
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
	require.NoError(t, err)
	var k kustomization
	require.NoError(t, yaml.UnmarshalStrict(data, &k))
	require.Equal(t, []string{"../overlay"}, k.Resources)
	require.Equal(t, []string{"../../../manifests/uninstall"}, k.Components)
}
