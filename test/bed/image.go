package bed

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	bedlayout "github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/oci"
)

// PushRootfs makes an image of one layer, a tar of a root file system, and pushes it. name is REPOSITORY[:TAG]; without
// a tag the content's digest is the tag. It returns the reference for a pod.
func (c *Cluster) PushRootfs(ctx context.Context, name, layerTar string, cfg v1.Config) (string, error) {
	img, err := oci.FromTar(layerTar, cfg)
	if err != nil {
		return "", err
	}
	return c.push(ctx, name, img)
}

// BinaryImage makes an image of nothing but the given files (path in the image to local file) and pushes it. Names and
// the result are as in PushRootfs.
func (c *Cluster) BinaryImage(ctx context.Context, name string, files map[string]string, cfg v1.Config) (string, error) {
	return c.FilesImage(ctx, name, "", files, cfg)
}

// FilesImage is BinaryImage with the files in a layer over layerTar, a tar of a root file system (DebianRootfs).
func (c *Cluster) FilesImage(ctx context.Context, name, layerTar string, files map[string]string, cfg v1.Config) (string, error) {
	reference, err := oci.PushFiles(ctx, local(c.state.RegistryPort), name, c.dir.Path("tmp"), layerTar, files, cfg)
	return bedlayout.Registry + "/" + reference, err
}

// PushArchive pushes the image of a docker-archive or oci-archive tar, as buildah, podman and docker write them. Names
// and the result are as in PushRootfs.
func (c *Cluster) PushArchive(ctx context.Context, name, archive string) (ref string, err error) {
	img, err := tarball.ImageFromPath(archive, nil)
	if err == nil {
		return c.push(ctx, name, img)
	}
	dir, err := os.MkdirTemp(c.dir.Path("tmp"), "oci-")
	if err != nil {
		return "", fmt.Errorf("push %s: %w", archive, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := unpack(archive, dir); err != nil {
		return "", fmt.Errorf("unpack %s: %w", archive, err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return "", fmt.Errorf("read %s: neither a docker-archive nor an oci-archive: %w", archive, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", fmt.Errorf("read %s: %w", archive, err)
	}
	if len(manifest.Manifests) != 1 {
		return "", fmt.Errorf("read %s: want one image, found %d", archive, len(manifest.Manifests))
	}
	if img, err = index.Image(manifest.Manifests[0].Digest); err != nil {
		return "", fmt.Errorf("read %s: %w", archive, err)
	}
	return c.push(ctx, name, img)
}

func (c *Cluster) push(ctx context.Context, name string, img v1.Image) (string, error) {
	reference, err := oci.Push(ctx, local(c.state.RegistryPort), name, img)
	return bedlayout.Registry + "/" + reference, err
}

// unpack writes the regular files of a tar beneath dir.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(root, h, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func unpackEntry(root *os.Root, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(h.Name, 0o755)
	case tar.TypeReg:
		out, err := root.Create(h.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		return errors.Join(err, out.Close())
	}
	return nil
}
