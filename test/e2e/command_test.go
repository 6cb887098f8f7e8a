package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// TestTheStoreCommandOnTheBedsBucket looks at what agents have really stored, as an operator would from outside of the
// cluster, and damages it.
func TestTheStoreCommandOnTheBedsBucket(t *testing.T) {
	ctx, w := testContext(t), shared()
	c := newCommand(ctx, t, w)
	j := w.start(ctx, t, counterPod("looked-at", "a", w.image))
	w.interrupt(ctx, t, "a", window)
	j.waitOn(ctx, "b")
	released := j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
	target := strings.TrimSuffix(strings.TrimPrefix(folderOf(released), "v1/"), "/")

	code, out := c.run(ctx, t, "store", "ls")
	require.Zero(t, code)
	require.Contains(t, out, target)
	code, out = c.run(ctx, t, "store", "show", target, "-o", "json")
	require.Zero(t, code)
	require.True(t, json.Valid([]byte(out)), out)
	for _, args := range [][]string{
		{"verify", target}, {"du", target}, {"show", target, "1"}, {"reap", target, "--keep", "1", "--grace", "0s"},
		{"rotate-key", target}, {"verify", target, "--all-generations"},
	} {
		code, out = c.run(ctx, t, append([]string{"store"}, args...)...)
		require.Zero(t, code, "%s: %s", args, out)
	}

	o := newObjects(t, w)
	pack := o.one(ctx, t, folderOf(released)+"packs/")
	o.flip(ctx, t, pack)
	code, out = c.run(ctx, t, "store", "verify", target)
	require.Equal(t, 3, code, "damage found")
	require.Contains(t, out, pack)
	code, out = c.run(ctx, t, "store", "rm", target, "--yes")
	require.Zero(t, code, out)
	code, out = c.run(ctx, t, "store", "ls")
	require.Zero(t, code)
	require.NotContains(t, out, target)
}

// command is the lifeboat command with the bed's bucket and key.
type command struct {
	path string
	env  []string
}

func newCommand(ctx context.Context, t *testing.T, w *world) *command {
	t.Helper()
	folder := t.TempDir()
	c := &command{path: filepath.Join(folder, "lifeboat")}
	require.NoError(t, bed.BuildBinary(ctx, "./cmd/lifeboat", c.path))
	secrets, err := w.kube.CoreV1().Secrets(deploy.Namespace).List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	key := filepath.Join(folder, "key")
	for _, secret := range secrets.Items {
		if strings.HasPrefix(secret.Name, "lifeboat-key") { // kustomize adds a hash to the name
			require.NoError(t, os.WriteFile(key, secret.Data["key"], 0o600))
		}
	}
	require.FileExists(t, key)
	b := w.bed.Bucket()
	query := url.Values{"endpoint": {b.LocalEndpoint}, "path-style": {"true"}, "region": {b.Region}}
	c.env = []string{
		"LIFEBOAT_BUCKET=s3://" + b.Name + "?" + query.Encode(), "LIFEBOAT_KEY_FILE=" + key,
		"AWS_ACCESS_KEY_ID=" + b.AccessKey, "AWS_SECRET_ACCESS_KEY=" + b.SecretKey,
	}
	return c
}

// run returns the exit code and what was printed.
func (c *command) run(ctx context.Context, t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Env = c.env
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	}
	require.NoError(t, err)
	return 0, string(out)
}
