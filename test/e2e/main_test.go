// Package e2e tries the whole path on the test bed: real Kubernetes, containerd, runc, CRIU and S3. The tests run one
// after the other on one bed; each leaves both nodes up, untainted and without pods of its own.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// cluster and kube are the bed that the tests share, with Lifeboat on it; counterImage is the job's image, pristine what
// traces said of each node before Lifeboat came.
var (
	cluster      *bed.Cluster
	kube         *deploy.Kube
	counterImage string
	pristine     map[string]string
)

const (
	// attach names the state folder of a bed that is up, to try single tests without bringing one up each time.
	attach = "LIFEBOAT_E2E_BED"
	// lane tells runs of this package in one checkout apart, for test/run has two of them side by side.
	lane = "LIFEBOAT_E2E_LANE"
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if os.Getuid() != 0 {
		return 0, fmt.Errorf("the test bed needs root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	c, down, err := setUp(ctx, "e2e"+os.Getenv(lane), "")
	if err != nil {
		return 0, err
	}
	defer func() {
		ctx := context.WithoutCancel(ctx)
		if code != 0 || err != nil {
			logs := filepath.Join(os.TempDir(), "lifeboat-e2e-logs"+os.Getenv(lane))
			fmt.Fprintln(os.Stderr, "e2e: logs are in", logs, deploy.CollectLogs(ctx, c.bed, logs))
		}
		if fault := down(ctx); err == nil {
			err = fault
		}
	}()
	cluster, kube, counterImage, pristine = c.bed, c.kube, c.image, c.pristine
	return m.Run(), nil
}

// world is a bed with Lifeboat and the image of the job on it.
type world struct {
	bed      *bed.Cluster
	kube     *deploy.Kube
	image    string
	pristine map[string]string
}

// setUp brings a bed up, or attaches to the one named by LIFEBOAT_E2E_BED, and puts Lifeboat and the job onto it.
func setUp(ctx context.Context, name, containerd string) (*world, func(context.Context) error, error) {
	root, err := deploy.Checkout()
	if err != nil {
		return nil, nil, err
	}
	w := &world{}
	down := func(context.Context) error { return nil }
	if dir := os.Getenv(attach); dir != "" && containerd == "" {
		if w.bed, err = bed.Attach(dir); err != nil {
			return nil, nil, err
		}
	} else {
		w.bed, err = bed.Up(ctx, bed.Options{
			Dir: filepath.Join(root, "build", name), Containerd: containerd, Progress: os.Stderr,
		})
		if err != nil {
			return nil, nil, err
		}
		down = w.bed.Down
	}
	if err := w.install(ctx); err != nil {
		return nil, nil, errorsAfter(err, down(context.WithoutCancel(ctx)))
	}
	return w, down, nil
}

func (w *world) install(ctx context.Context) error {
	w.pristine = map[string]string{}
	for _, node := range []string{"a", "b"} {
		text, err := traces(ctx, w.bed, node)
		if err != nil {
			return fmt.Errorf("look at node %s: %w", node, err)
		}
		w.pristine[node] = text
	}
	image, err := deploy.BuildImage(ctx, w.bed, os.Stderr)
	if err != nil {
		return err
	}
	if w.kube, err = deploy.Install(ctx, w.bed, deploy.Options{Image: image, Settings: deploy.Hasty}); err != nil {
		return fmt.Errorf("install Lifeboat: %w", err)
	}
	w.image, err = deploy.CounterImage(ctx, w.bed)
	return err
}

func errorsAfter(err, fault error) error {
	if fault != nil {
		return fmt.Errorf("%w; taking the bed down: %w", err, fault)
	}
	return err
}
