package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lifeboat-dev/lifeboat/test/bed"
)

// Options of an installation on a test bed.
type Options struct {
	// Store is StoreS3 (the default) or StoreFile.
	Store string
	// Image is what BuildImage returned.
	Image string
	// MetadataEndpoint stands in place of the bed's own metadata service.
	MetadataEndpoint string
	// Settings are more of the configuration, as variables: "LIFEBOAT_INTERVAL=1m".
	Settings []string
}

// binaries are what the Dockerfile copies.
var binaries = []string{"lifeboat", "lifeboat-agent", "lifeboat-controller", "lifeboat-runtime"}

// BuildImage builds the checkout's binaries and its Dockerfile and pushes the image to the bed. It returns the reference
// for Options and writes a line for every step to progress.
func BuildImage(ctx context.Context, c *bed.Cluster, progress io.Writer) (string, error) {
	root, err := Checkout()
	if err != nil {
		return "", err
	}
	for _, name := range binaries {
		fmt.Fprintf(progress, "building %s ...\n", name)
		if err := bed.BuildBinary(ctx, "./cmd/"+name, filepath.Join(root, "build", "bin", name)); err != nil {
			return "", fmt.Errorf("build %s: %w", name, err)
		}
	}
	image, err := c.BuildImage(ctx, progress, filepath.Join(root, "Dockerfile"), root, imageName)
	if err != nil {
		return "", fmt.Errorf("build the image: %w", err)
	}
	return image, nil
}

// CounterImage builds the job of the end-to-end tests, test/e2e/counter, pushes it to the bed and returns its reference.
func CounterImage(ctx context.Context, c *bed.Cluster) (string, error) {
	root, err := Checkout()
	if err != nil {
		return "", err
	}
	counter := filepath.Join(root, "build", "bin", "counter")
	if err := bed.BuildBinary(ctx, "./test/e2e/counter", counter); err != nil {
		return "", fmt.Errorf("build counter: %w", err)
	}
	return c.BinaryImage(ctx, "counter", map[string]string{"/counter": counter}, v1.Config{Entrypoint: []string{"/counter"}})
}

// Install puts Lifeboat onto the bed and waits until it is ready on both nodes. A second call changes what differs.
func Install(ctx context.Context, c *bed.Cluster, o Options) (*Kube, error) {
	site, err := siteOf(c, o)
	if err != nil {
		return nil, err
	}
	k, err := Connect(c.Kubeconfig, c.KubectlPath())
	if err != nil {
		return nil, err
	}
	return k, k.Apply(ctx, site)
}

// Uninstall takes Lifeboat off the bed's nodes and API; both nodes must be up. The CRD, the namespace and the bucket stay.
func Uninstall(ctx context.Context, c *bed.Cluster) error {
	site, err := siteOf(c, Options{})
	if err != nil {
		return err
	}
	k, err := Connect(c.Kubeconfig, c.KubectlPath())
	if err != nil {
		return err
	}
	return k.Remove(ctx, site)
}

// siteOf puts the overlay into the bed's state folder: no two beds share it, and it goes with its bed.
func siteOf(c *bed.Cluster, o Options) (Site, error) {
	root, err := Checkout()
	if err != nil {
		return Site{}, err
	}
	site := Site{
		Root: root, Work: c.Dir(),
		Image: o.Image, MetadataEndpoint: o.MetadataEndpoint, Settings: o.Settings, Nodes: []string{"a", "b"},
	}
	switch o.Store {
	case StoreFile:
		site.Bucket = "file://" + bed.NodeSharedFolder
	case StoreS3, "":
		bucket := c.Bucket()
		query := url.Values{"endpoint": {bucket.Endpoint}, "path-style": {"true"}, "region": {bucket.Region}}
		site.Bucket = "s3://" + bucket.Name + "?" + query.Encode()
		site.AccessKey, site.SecretKey = bucket.AccessKey, bucket.SecretKey
	default:
		return site, fmt.Errorf("store %q: want %s or %s", o.Store, StoreS3, StoreFile)
	}
	return site, nil
}

// Checkout finds the checkout that the working folder lies in.
func Checkout() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find working folder: %w", err)
	}
	for at := folder; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "manifests", "base")); err == nil {
			return filepath.EvalSymlinks(at)
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no folder above %s has manifests/base: run this inside a checkout of Lifeboat", folder)
		}
	}
}

// logsOf are the folders of a bed's state folder in which logs lie: those of the control plane, and of each node what
// kubelet, containerd and pods wrote, and what agents and CRIU left on its disk.
var logsOf = []string{"log", "nodes/*/log", "nodes/*/upper/var/log", "nodes/*/upper/var/lib/lifeboat"}

// CollectLogs writes what a person needs to find out why something failed into the folder: logs of Lifeboat's pods,
// Checkpoints, Events, pods, nodes, and every log file of the bed, CRIU's among them, also of a node that is dead. It
// replaces what the folder held, and goes on past what cannot be had; the error joins all that was missing.
func CollectLogs(ctx context.Context, c *bed.Cluster, folder string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("remove older logs: %w", err)
	}
	var faults []error
	k, err := Connect(c.Kubeconfig, c.KubectlPath())
	if err == nil {
		err = k.CollectLogs(ctx, folder)
	}
	return errors.Join(append(faults, err, CopyBedLogs(c, folder))...)
}

// CopyBedLogs copies every log file of the bed into the folder.
func CopyBedLogs(c *bed.Cluster, folder string) error {
	var faults []error
	for _, pattern := range logsOf {
		found, err := filepath.Glob(filepath.Join(c.Dir(), filepath.FromSlash(pattern)))
		faults = append(faults, err)
		for _, from := range found {
			faults = append(faults, copyLogs(c.Dir(), from, filepath.Join(folder, "bed")))
		}
	}
	return errors.Join(faults...)
}

// copyLogs copies the *.log files beneath a folder of base to the same place beneath to.
func copyLogs(base, from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || !strings.HasSuffix(path, ".log") {
			return err
		}
		relative, err := filepath.Rel(base, path)
		if err != nil {
			return fmt.Errorf("copy log %s: %w", path, err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("copy log: %w", err)
		}
		target := filepath.Join(to, relative)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("copy log: %w", err)
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			return fmt.Errorf("copy log: %w", err)
		}
		return nil
	})
}
