package resume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
)

// Paths of the node.
const (
	// stateFolder is where agents fetch images to, below a folder for each container.
	stateFolder = "/var/lib/lifeboat/restore"
	// keptFolder keeps images that the agent removes when it has no more use for them.
	keptFolder = "/var/lib/lifeboat-bench"
	runcRoot   = "/run/lifeboat-bench"
	bundles    = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
	// inventory is an image that every dump has.
	inventory = "inventory.img"
	// criuConfig is what images that were dumped with these options need: CRIU refuses them otherwise.
	criuConfig = "tcp-close\nnetwork-lock skip\n"
	// linkEvery is much shorter than CRIU takes to restore anything.
	linkEvery = 5 * time.Millisecond
)

// keeper gives the images that an agent hands to CRIU second names, so that they outlive the restore.
type keeper struct {
	stop context.CancelFunc
	done chan error
}

// keepImages begins, on the node that pods go on on.
func (l *lab) keepImages(ctx context.Context) (*keeper, error) {
	root, err := l.there.Root()
	if err != nil {
		return nil, err
	}
	to := filepath.Join(root, keptFolder)
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o700)); err != nil {
		return nil, fmt.Errorf("make folder for images: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	k := &keeper{stop: cancel, done: make(chan error, 1)}
	go func() { k.done <- keepAll(ctx, filepath.Join(root, stateFolder), to) }()
	return k, nil
}

// end ends it.
func (k *keeper) end() error {
	k.stop()
	return <-k.done
}

func keepAll(ctx context.Context, from, to string) error {
	tick := time.NewTicker(linkEvery)
	defer tick.Stop()
	for {
		if err := linkImages(from, to); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// linkImages links the files of folders that hold images.
func linkImages(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it comes and goes
		}
		if err != nil || entry.Name() != inventory {
			return err
		}
		images, err := os.ReadDir(filepath.Dir(path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("list images: %w", err)
		}
		for _, image := range images {
			err := os.Link(filepath.Join(filepath.Dir(path), image.Name()), filepath.Join(to, image.Name()))
			if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("keep image: %w", err)
			}
		}
		return nil
	})
}

// plain has runc restore what the pod goes on from a second time, beside it, in its sandbox and with its files: once with
// the images read from the disk, once from the page cache. Then it removes them.
func (l *lab) plain(ctx context.Context, in string, pod *corev1.Pod) (err error) {
	root, err := l.there.Root()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(root, keptFolder))) }()
	id, err := rig.ContainerID(pod)
	if err != nil {
		return err
	}
	bundle := filepath.Join(keptFolder, "bundle")
	if err := copyBundle(filepath.Join(root, bundles, id), filepath.Join(root, bundle), filepath.Join(bundles, id, "rootfs")); err != nil {
		return err
	}
	for _, from := range []string{fromDisk, fromRAM} {
		if from == fromDisk {
			if err := evict(filepath.Join(root, keptFolder)); err != nil {
				return err
			}
		}
		took, err := l.runcRestore(ctx, bundle)
		if err != nil {
			return err
		}
		l.Add(in+from, took.Seconds())
	}
	return nil
}

func (l *lab) runcRestore(ctx context.Context, bundle string) (time.Duration, error) {
	const id = "lifeboat-bench"
	began := time.Now()
	// Its standard streams become the job's: no pipe of ours, for whose end we would wait as long as the job runs.
	_, err := l.there.Exec(ctx, "sh", "-c", `export CRIU_CONFIG_FILE="$2/criu.conf"; exec runc --root "$1" --log "$4/runc.log" restore --detach --no-subreaper --file-locks --bundle "$2" `+
		`--image-path "$4" --work-path "$2/work" "$3" </dev/null >/dev/null 2>&1`, "sh", runcRoot, bundle, id, keptFolder)
	took := time.Since(began)
	if err != nil {
		log, _ := l.there.Exec(context.WithoutCancel(ctx), "sh", "-c", `tail -5 "$1/runc.log"; tail -20 "$2/work/restore.log"`, "sh", keptFolder, bundle)
		err = fmt.Errorf("plain runc restore: %w: %s", err, log)
	}
	_, fault := l.there.Exec(context.WithoutCancel(ctx), "runc", "--root", runcRoot, "delete", "--force", id)
	if err != nil {
		return 0, err
	}
	return took, fault
}

// copyBundle copies a container's configuration for one of its own cgroup, on the same root.
func copyBundle(from, to, rootfs string) error {
	text, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	if text, err = otherContainer(text, rootfs); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, "work"), 0o700); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(to, "config.json"), text, 0o600),
		os.WriteFile(filepath.Join(to, "criu.conf"), []byte(criuConfig), 0o600)); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// otherContainer changes an OCI configuration's cgroup and says where its root is.
func otherContainer(config []byte, rootfs string) ([]byte, error) {
	var spec map[string]any
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	root, _ := spec["root"].(map[string]any)
	linux, _ := spec["linux"].(map[string]any)
	cgroup, _ := linux["cgroupsPath"].(string)
	if root == nil || cgroup == "" {
		return nil, errors.New("read bundle: it has no root or no cgroup")
	}
	root["path"], linux["cgroupsPath"] = rootfs, strings.TrimSuffix(cgroup, "/")+"-bench"
	return json.Marshal(spec)
}

// evict writes the files of a folder to the disk and drops them from the page cache.
func evict(folder string) error {
	files, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		if err := evictFile(filepath.Join(folder, file.Name())); err != nil {
			return fmt.Errorf("drop %s from the page cache: %w", file.Name(), err)
		}
	}
	return nil
}

func evictFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
