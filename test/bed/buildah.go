package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/oci"
)

// baseImage is what the project's Dockerfile builds on. It is made here from Debian packages: no image registry needed.
const baseImage = "docker.io/library/debian:" + suite + "-slim"

// BuildImage builds a Dockerfile with buildah and pushes the result. Its FROM must be debian:forky-slim. RUN may use the
// network; finished steps are kept and used again. Names and the result are as in PushRootfs.
func (c *Cluster) BuildImage(ctx context.Context, progress io.Writer, dockerfile, contextDir, imageName string) (ref string, err error) {
	p := newReporter(progress)
	if err := ensurePackages(ctx, p); err != nil {
		return "", err
	}
	b, err := newBuilder(ctx, p)
	if err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(c.dir.Path("tmp"), "image-")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", imageName, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	local := "localhost/bed-" + key(string(c.dir), imageName)
	err = p.long("building image "+imageName, func() error {
		return run(b.command(ctx, "bud", "--isolation", "chroot", "--layers", "--pull=never", "--format", "oci",
			"--tag", local, "--file", dockerfile, contextDir))
	})
	if err != nil {
		return "", err
	}
	archive := filepath.Join(tmp, "image.tar")
	err = p.long("pushing image "+imageName, func() error {
		if err := run(b.command(ctx, "push", "--quiet", local, "oci-archive:"+archive)); err != nil {
			return err
		}
		ref, err = c.PushArchive(ctx, imageName, archive)
		return err
	})
	return ref, err
}

// builder runs buildah with an image store in the cache.
type builder struct{ dir string }

func newBuilder(ctx context.Context, p *reporter) (*builder, error) {
	root, err := debianTar(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	b := &builder{dir: filepath.Join(cache, "buildah")}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	marker := "base-" + key(filepath.Base(root))
	_, err = cached(ctx, p, "importing the base image", filepath.Join("buildah", marker), func(tmp string) error {
		archive := tmp + ".tar"
		defer os.Remove(archive)
		if err := writeBase(root, archive); err != nil {
			return err
		}
		if err := run(b.command(ctx, "pull", "--quiet", "docker-archive:"+archive)); err != nil {
			return err
		}
		return os.WriteFile(tmp, nil, 0o644)
	})
	return b, err
}

// writeBase makes a docker-archive that carries the base image's name.
func writeBase(rootTar, archive string) error {
	img, err := oci.FromTar(rootTar, v1.Config{Cmd: []string{"bash"}, Env: []string{"PATH=" + nodePath}})
	if err != nil {
		return err
	}
	tag, err := name.NewTag(baseImage)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(archive, tag, img)
}

func (b *builder) command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	global := []string{"buildah", "--root", filepath.Join(b.dir, "store"), "--runroot", filepath.Join(b.dir, "run"),
		"--storage-driver", "overlay", verb}
	return command(ctx, "", nil, append(global, args...)...)
}
