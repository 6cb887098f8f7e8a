package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// TestContainerd24 has a bed of its own, whose nodes run the newest containerd: one without any restore in its CRI.
func TestContainerd24(t *testing.T) {
	// Longer than a test has: the first time, containerd is built.
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	w, down, err := setUp(ctx, "e2e-24", "2.4")
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if t.Failed() {
			logs := filepath.Join(os.TempDir(), "lifeboat-e2e-24-logs")
			t.Log("logs are in", logs, deploy.CollectLogs(ctx, w.bed, logs))
		}
		require.NoError(t, down(ctx))
	})
	for _, node := range []string{"a", "b"} {
		out, err := w.node(t, node).Exec(ctx, "ctr", "version")
		require.NoError(t, err)
		require.Regexp(t, `Server:\s+Version:\s+v?2\.4\.`, string(out))
	}
	thereAndBack(t, w)
}
