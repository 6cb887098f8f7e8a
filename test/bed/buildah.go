package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/oci"
)

// baseImage is what the project's Dockerfile builds on. It is made here from Debian packages: no image registry needed.
const baseImage = "docker.io/library/debian:" + suite + "-slim"

// BuildImage builds a Dockerfile with buildah and pushes the result. Its FROM must be debian:forky-slim. RUN may use the
// network; finished steps are kept and used again. Builds on one machine wait for each other. Names and the result are
// as in PushRootfs.
func (c *Cluster) BuildImage(ctx context.Context, progress io.Writer, dockerfile, contextDir, imageName string) (ref string, err error) {
	p := newReporter(progress)
	if err := ensurePackages(ctx, p); err != nil {
		return "", err
	}
	root, err := debianTar(ctx, p, nil)
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	b := &builder{dir: filepath.Join(cache, "buildah")}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return "", err
	}
	lock, err := waitLock(ctx, filepath.Join(b.dir, "lock"), func() { p.say("waiting for another image build") })
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := b.importBase(ctx, p, root); err != nil {
		return "", err
	}
	built := "localhost/bed-" + key(string(c.dir), imageName)
	err = p.long("building image "+imageName, func() error {
		return run(b.command(ctx, "bud", "--isolation", "chroot", "--layers", "--pull=never", "--format", "oci",
			"--tag", built, "--file", dockerfile, contextDir))
	})
	if err != nil {
		return "", err
	}
	err = p.long("pushing image "+imageName, func() error {
		ref, err = c.pushBuilt(ctx, b, built, imageName)
		return err
	})
	return ref, err
}

// pushBuilt copies an image from buildah's store to the bed's registry: first under a tag that nobody knows, to send the
// layers that are missing there, then under the name that was asked for.
func (c *Cluster) pushBuilt(ctx context.Context, b *builder, built, imageName string) (string, error) {
	tag, err := name.NewTag(local(c.state.RegistryPort)+"/"+strings.TrimPrefix(built, "localhost/")+":built", name.Insecure)
	if err != nil {
		return "", err
	}
	if err := run(b.command(ctx, "push", "--quiet", "--tls-verify=false", "--disable-compression", built, "docker://"+tag.String())); err != nil {
		return "", err
	}
	img, err := remote.Image(tag, remote.WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("read back %s: %w", tag, err)
	}
	return c.push(ctx, imageName, img)
}

// builder runs buildah with an image store in the cache.
type builder struct{ dir string }

// importBase gives the store the base image made of a root's tar.
func (b *builder) importBase(ctx context.Context, p *reporter, rootTar string) error {
	_, err := cached(ctx, p, "importing the base image", filepath.Join("buildah", "base-"+key(filepath.Base(rootTar))), func(tmp string) error {
		archive := tmp + ".tar"
		if err := writeBase(rootTar, archive); err != nil {
			return err
		}
		err := run(b.command(ctx, "pull", "--quiet", "docker-archive:"+archive))
		return errors.Join(err, os.Remove(archive), os.WriteFile(tmp, nil, 0o644))
	})
	return err
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

// command runs buildah in a mount namespace of its own: its mounts cannot stay behind.
func (b *builder) command(ctx context.Context, args ...string) *exec.Cmd {
	global := []string{"unshare", "--mount", "--propagation", "private", "buildah", "--root", filepath.Join(b.dir, "store"),
		"--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "overlay"}
	return command(ctx, "", nil, append(global, args...)...)
}
