package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// Options say what bed to bring up. The zero value is a good one.
type Options struct {
	// Dir is the state folder; beds in different folders do not know of each other. Default: <checkout>/build/bed.
	Dir string
	// Keep lets the bed live on when the process that brought it up ends. Otherwise it goes with it.
	Keep bool
	// Containerd is "" for Debian's (2.1) or "2.4" for the one that test/bed/tools names.
	Containerd string
	// Metadata puts other metadata services in the place of the built-in one: node name to http://HOST:PORT, reachable
	// in the machine's root network namespace. Notice does not reach them.
	Metadata map[string]string
	// BucketEndpoint puts another S3 server in the place of the bed's own: http://HOST:PORT, as above. Its bucket must
	// exist and open with Credentials.
	BucketEndpoint string
	// NodeMonitorGrace is how long a silent node stays Ready; 0 means Kubernetes' default of 50 s.
	NodeMonitorGrace time.Duration
	// NoNodes brings the control plane up alone: Nodes there are those that somebody makes up.
	NoNodes bool
	// AuditPolicy is an audit policy of the API server, in YAML. What it selects goes to Cluster.AuditLog.
	AuditPolicy string
	// Progress takes a line for every step; nil means none.
	Progress io.Writer
}

const containerd24 = "2.4"

// validated fills defaults and joins all faults.
func (o Options) validated(ctx context.Context) (Options, error) {
	var faults []error
	if o.Dir == "" {
		dir, err := DefaultDir(ctx)
		if err != nil {
			return o, err
		}
		o.Dir = dir
	}
	dir, err := realPath(o.Dir)
	if err != nil {
		return o, err
	}
	o.Dir = dir
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	faults = append(faults, layout.Dir(o.Dir).Validate())
	if os.Geteuid() != 0 {
		faults = append(faults, errors.New("the test bed makes namespaces, mounts and cgroups: run as root"))
	}
	if o.Containerd != "" && o.Containerd != containerd24 {
		faults = append(faults, fmt.Errorf("containerd %q: want \"\" (Debian's) or %q", o.Containerd, containerd24))
	}
	if o.BucketEndpoint != "" {
		_, err := target(o.BucketEndpoint)
		faults = append(faults, err)
	}
	for name, endpoint := range o.Metadata {
		if !isNode(name) {
			faults = append(faults, fmt.Errorf("metadata service of %q: no such node", name))
		}
		_, err := target(endpoint)
		faults = append(faults, err)
	}
	return o, errors.Join(faults...)
}

// target is the HOST:PORT of a plain HTTP endpoint.
func target(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("endpoint %q: want http://HOST:PORT (the nodes see it under an address of the bed, "+
			"so that a TLS certificate would not fit)", endpoint)
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "80"), nil
	}
	return u.Host, nil
}

func isNode(name string) bool {
	for _, n := range layout.Nodes() {
		if n.Name == name {
			return true
		}
	}
	return false
}

// DefaultDir is <checkout>/build/bed of the checkout that the working folder lies in.
func DefaultDir(ctx context.Context) (string, error) {
	root, err := checkout(ctx)
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "build", "bed"), nil
}

const module = "github.com/lifeboat-dev/lifeboat"

// checkout is the folder of the product's module.
func checkout(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("find the checkout of %s (run this beneath it): %w: %s", module, err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// realPath is the absolute path without symbolic links, of which the last elements need not exist yet.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) && path != "/" {
		parent, err := realPath(filepath.Dir(path))
		return filepath.Join(parent, filepath.Base(path)), err
	}
	return real, err
}
