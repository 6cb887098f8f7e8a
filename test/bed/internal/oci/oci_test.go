package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
)

func program(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(file, []byte("#!"), 0o755))
	return file
}

func TestWriteTar(t *testing.T) {
	file := program(t)
	var one, two bytes.Buffer
	files := map[string]string{"/usr/bin/x": file, "/app": file}
	require.NoError(t, WriteTar(&one, files))
	require.NoError(t, WriteTar(&two, files))
	require.Equal(t, one.Bytes(), two.Bytes(), "equal input, equal layer")

	modes := map[string]int64{}
	for r := tar.NewReader(&one); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		modes[h.Name] = h.Mode
	}
	require.Equal(t, map[string]int64{"etc/": 0o755, "tmp/": 0o1777, "usr/": 0o755, "usr/bin/": 0o755,
		"usr/bin/x": 0o755, "app": 0o755}, modes)
	require.Error(t, WriteTar(io.Discard, map[string]string{"/x": "/no/such/file"}))
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	files := map[string]string{"/app": program(t)}
	cfg := v1.Config{Entrypoint: []string{"/app"}, User: "1000"}

	tagged, err := PushFiles(t.Context(), host, "app:1", t.TempDir(), "", files, cfg)
	require.NoError(t, err)
	require.Equal(t, "app:1", tagged)
	byDigest, err := PushFiles(t.Context(), host, "app", t.TempDir(), "", files, cfg)
	require.NoError(t, err)
	require.Regexp(t, `^app:[0-9a-f]{12}$`, byDigest)

	ref, err := name.ParseReference(host+"/"+byDigest, name.Insecure)
	require.NoError(t, err)
	img, err := remote.Image(ref)
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, cfg, config.Config)
	require.Len(t, config.History, 1)

	base := filepath.Join(t.TempDir(), "base.tar")
	f, err := os.Create(base)
	require.NoError(t, err)
	require.NoError(t, WriteTar(f, map[string]string{"/lib": program(t)}))
	require.NoError(t, f.Close())
	over, err := PushFiles(t.Context(), host, "over:1", t.TempDir(), base, files, cfg)
	require.NoError(t, err)
	ref, err = name.ParseReference(host+"/"+over, name.Insecure)
	require.NoError(t, err)
	img, err = remote.Image(ref)
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 2)
	below, err := newLayer(base)
	require.NoError(t, err)
	lowest, err := layers[0].Digest()
	require.NoError(t, err)
	require.Equal(t, below.hash, lowest)
}
