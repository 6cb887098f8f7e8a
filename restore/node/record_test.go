package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints/checkpointstest"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// handedOverScene is a node that has handed container c1 of pod "new" to CRIU.
func handedOverScene(t *testing.T, running bool) (*Preparer, *checkpointstest.Server, string) {
	t.Helper()
	host := t.TempDir()
	server := checkpointstest.New(t, checkpoint(claimed(v1alpha1.ReasonRestoreImpending, 1)))
	p := New(Options{
		NodeName: "b", Checkpoints: server.Client, HostRoot: host, WorkDir: "/restore", Log: zerolog.Nop(),
		Client:  fake.NewClientset(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "job", UID: "new"}}),
		Events:  record.NewFakeRecorder(10),
		Running: func(context.Context, string) (bool, error) { return running, nil },
	})
	dir := filepath.Join(host, "restore", "c1")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, imagesName), 0o700))
	require.NoError(t, p.handOver(task{Checkpoint: "job", CheckpointUID: "ckpt-1", PrepareRequest: handover.PrepareRequest{
		ContainerID: "c1", Namespace: "ns", Pod: "job", PodUID: "new", Container: "main",
	}}))
	return p, server, dir
}

func TestResult(t *testing.T) {
	for _, c := range []struct{ name, fault, reason string }{
		{"restored", "", v1alpha1.ReasonRestored},
		{"failed", "criu failed", v1alpha1.ReasonRestoreFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, server, dir := handedOverScene(t, false)
			require.NoError(t, p.Result(t.Context(), handover.ResultRequest{ContainerID: "c1", Error: c.fault}))
			require.Equal(t, c.reason, server.Get("ns", "job").Status.Condition(v1alpha1.ConditionRestored).Reason)
			require.NoDirExists(t, dir, "images of a target stay on no disk")
			require.NoError(t, p.Result(t.Context(), handover.ResultRequest{ContainerID: "c1"}), "posted again")
			require.Equal(t, c.reason, server.Get("ns", "job").Status.Condition(v1alpha1.ConditionRestored).Reason)
		})
	}
}

func TestHandoverWithoutAResult(t *testing.T) {
	t.Run("the container runs", func(t *testing.T) {
		p, server, dir := handedOverScene(t, true)
		last, err := p.outcome(t.Context(), "new")
		require.NoError(t, err)
		require.Equal(t, outcomeNone, last)
		require.True(t, server.Get("ns", "job").Status.IsTrue(v1alpha1.ConditionRestored))
		require.NoDirExists(t, dir)
	})
	t.Run("the container is gone: it may have run", func(t *testing.T) {
		p, _, dir := handedOverScene(t, false)
		last, err := p.outcome(t.Context(), "new")
		require.NoError(t, err)
		require.Equal(t, outcomeUnknown, last)
		requireSweep(t, p, false)
		require.DirExists(t, filepath.Join(dir, imagesName), "CRIU may be reading them: the wrapper outlives the agent")
		past := time.Now().Add(-restoring)
		require.NoError(t, os.Chtimes(filepath.Join(dir, recordName), past, past))
		requireSweep(t, p, true)
		require.NoDirExists(t, filepath.Join(dir, imagesName))
		require.FileExists(t, filepath.Join(dir, recordName), "the record outlives the images as long as the pod is there")
		require.NoError(t, p.options.Client.CoreV1().Pods("ns").Delete(t.Context(), "job", metav1.DeleteOptions{}))
		requireSweep(t, p, true)
		require.NoDirExists(t, dir)
	})
}

func requireSweep(t *testing.T, p *Preparer, done bool) {
	t.Helper()
	got, err := p.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, done, got)
}

func TestSweepLeavesRestoresUnderWay(t *testing.T) {
	for _, c := range []struct {
		name  string
		begun bool
		age   time.Duration
	}{
		{"begun, in a folder just made", true, 0},
		{"begun, in a folder stamped by a clock that lags", true, 5 * time.Millisecond},
		{"begun anew, in the folder of an earlier life", true, time.Hour},
		{"not begun, in a folder as young as this life", false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, dir := handedOverScene(t, false)
			images := filepath.Join(filepath.Dir(dir), "c2", imagesName)
			require.NoError(t, os.MkdirAll(images, 0o700))
			if c.begun {
				require.NoError(t, p.makeFolders("c2"))
			}
			stamp := time.Now().Add(-c.age)
			require.NoError(t, os.Chtimes(filepath.Dir(images), stamp, stamp))
			_, err := p.Sweep(t.Context())
			require.NoError(t, err)
			_, err = os.Stat(images)
			require.Equal(t, c.begun, err == nil)
		})
	}
}
