// Package oci makes images from tar files and static binaries and pushes them. Layers stay uncompressed: nothing leaves
// this machine, and compressing would take longer than everything else.
package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is an uncompressed layer in a file.
type layer struct {
	file string
	hash v1.Hash
	size int64
}

func newLayer(file string) (*layer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, fmt.Errorf("hash %s: %w", file, err)
	}
	return &layer{file: file, size: n, hash: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}}, nil
}

// Digest, DiffID, Compressed, Uncompressed, Size and MediaType make a v1.Layer.
func (l *layer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return os.Open(l.file) }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.file) }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }

// FromTar makes an image of one layer.
func FromTar(file string, cfg v1.Config) (v1.Image, error) { return FromTars([]string{file}, cfg) }

// FromTars makes an image of a layer for each file, the lowest first.
func FromTars(files []string, cfg v1.Config) (v1.Image, error) {
	config := &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: cfg, RootFS: v1.RootFS{Type: "layers"}}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, file := range files {
		l, err := newLayer(file)
		if err != nil {
			return nil, fmt.Errorf("read layer %s: %w", file, err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, fmt.Errorf("append layer %s: %w", file, err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.hash)
		config.History = append(config.History, v1.History{CreatedBy: "lifeboat test bed"}) // one for each layer, or buildah refuses to build on it
	}
	img, err := mutate.ConfigFile(img, config)
	if err != nil {
		return nil, fmt.Errorf("configure image of %s: %w", strings.Join(files, ", "), err)
	}
	return img, nil
}

// WriteTar writes a root file system of the given files (path in the image to local file) with the folders /tmp and
// /etc. The result depends on paths, contents and modes alone.
func WriteTar(w io.Writer, files map[string]string) error {
	t := tar.NewWriter(w)
	modes := map[string]int64{"etc": 0o755, "tmp": 0o1777}
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
		for dir := path.Dir(clean(p)); dir != "."; dir = path.Dir(dir) {
			if modes[dir] == 0 {
				modes[dir] = 0o755
			}
		}
	}
	sort.Strings(paths)
	for _, dir := range sortedKeys(modes) {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: modes[dir]}); err != nil {
			return fmt.Errorf("add folder %s: %w", dir, err)
		}
	}
	for _, p := range paths {
		if err := addFile(t, clean(p), files[p]); err != nil {
			return fmt.Errorf("add %s: %w", p, err)
		}
	}
	return t.Close()
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

func sortedKeys(m map[string]int64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func addFile(t *tar.Writer, name, local string) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: int64(info.Mode().Perm())}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// Push writes an image to the registry at host (HOST:PORT, plain HTTP) under repository[:tag]. Without a tag the
// manifest's digest is the tag, so that new content never hides behind an old name. It returns repository:tag.
func Push(ctx context.Context, host, repository string, img v1.Image) (string, error) {
	if !strings.Contains(repository, ":") {
		d, err := img.Digest()
		if err != nil {
			return "", fmt.Errorf("push %s: %w", repository, err)
		}
		repository += ":" + d.Hex[:12]
	}
	ref, err := name.NewTag(host+"/"+repository, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", repository, err)
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("push %s: %w", repository, err)
	}
	return repository, nil
}

// PushFiles makes an image of files (see WriteTar), over the layer in the tar file base unless that is empty, and pushes
// it. scratch is a folder for the layer meanwhile.
func PushFiles(ctx context.Context, host, repository, scratch, base string, files map[string]string, cfg v1.Config) (ref string, err error) {
	f, err := os.CreateTemp(scratch, "layer-*.tar")
	if err != nil {
		return "", fmt.Errorf("make image %s: %w", repository, err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if err := errors.Join(WriteTar(f, files), f.Close()); err != nil {
		return "", fmt.Errorf("make image %s: %w", repository, err)
	}
	layers := []string{f.Name()}
	if base != "" {
		layers = []string{base, f.Name()}
	}
	img, err := FromTars(layers, cfg)
	if err != nil {
		return "", err
	}
	return Push(ctx, host, repository, img)
}
