package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"

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
	of := task{Checkpoint: "job", CheckpointUID: "ckpt-1", PrepareRequest: handover.PrepareRequest{
		ContainerID: "c1", Namespace: "ns", Pod: "job", PodUID: "new", Container: "main",
	}}
	_, err := p.begin(of, &v1alpha1.GenerationReference{Number: 1}, []string{"main"})
	require.NoError(t, err)
	require.NoError(t, p.handOver(of, nil))
	delete(p.begun, "new") // it was an earlier life of the agent
	dir := p.folder("new")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, imagesName, "main"), 0o700))
	return p, server, dir
}

// last is what is known of the handover.
func last(t *testing.T, p *Preparer) outcome {
	t.Helper()
	require.NoError(t, p.Reconcile(t.Context()))
	r, err := p.load("new")
	require.NoError(t, err)
	return outcomeOf(r, "main")
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
			require.NoDirExists(t, filepath.Join(dir, imagesName, "main"), "images of a target stay on no disk")
			require.NoError(t, p.Result(t.Context(), handover.ResultRequest{ContainerID: "c1"}), "posted again")
			require.Equal(t, c.reason, server.Get("ns", "job").Status.Condition(v1alpha1.ConditionRestored).Reason)
		})
	}
}

// A failure that the agent knows of is none whose outcome is unknown, also where the API server is away just then.
func TestAFailureIsKeptUntilItCanBeTold(t *testing.T) {
	p, server, _ := handedOverScene(t, false)
	away, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, p.Result(away, handover.ResultRequest{ContainerID: "c1", Error: "criu failed"}))
	require.Equal(t, v1alpha1.ReasonRestoreImpending, server.Get("ns", "job").Status.Condition(v1alpha1.ConditionRestored).Reason)
	require.Equal(t, outcomeNone, last(t, p))
	failed := server.Get("ns", "job").Status.Condition(v1alpha1.ConditionRestored)
	require.Equal(t, v1alpha1.ReasonRestoreFailed, failed.Reason)
	require.Equal(t, "criu failed", failed.Message)
	server.Edit("ns", "job", func(c *v1alpha1.Checkpoint) {
		c.Status.SetCondition(v1alpha1.ConditionRestored, metav1.ConditionUnknown, v1alpha1.ReasonRestoreImpending, "once more")
	})
	require.NoError(t, p.Reconcile(t.Context()))
	require.Equal(t, v1alpha1.ReasonRestoreImpending, server.Get("ns", "job").Status.Condition(v1alpha1.ConditionRestored).Reason, "it is told once")
}

func TestHandoverWithoutAResult(t *testing.T) {
	t.Run("the container runs", func(t *testing.T) {
		p, server, dir := handedOverScene(t, true)
		require.Equal(t, outcomeNone, last(t, p))
		require.True(t, server.Get("ns", "job").Status.IsTrue(v1alpha1.ConditionRestored))
		require.NoDirExists(t, dir)
	})
	t.Run("the container is gone: it may have run", func(t *testing.T) {
		p, _, dir := handedOverScene(t, false)
		require.Equal(t, outcomeUnknown, last(t, p))
		require.NoError(t, p.Sweep(t.Context()))
		require.DirExists(t, filepath.Join(dir, imagesName), "CRIU may be reading them: the wrapper outlives the agent")
		long(t, p, "new")
		require.NoError(t, p.Sweep(t.Context()))
		require.NoDirExists(t, filepath.Join(dir, imagesName))
		before, err := os.Stat(filepath.Join(dir, recordName))
		require.NoError(t, err, "the record outlives the images as long as the pod is there")
		require.NoError(t, p.Sweep(t.Context()))
		after, err := os.Stat(filepath.Join(dir, recordName))
		require.NoError(t, err)
		require.True(t, os.SameFile(before, after), "what has not changed is not written")
		require.NoError(t, p.options.Client.CoreV1().Pods("ns").Delete(t.Context(), "job", metav1.DeleteOptions{}))
		require.NoError(t, p.Sweep(t.Context()))
		require.NoDirExists(t, dir)
	})
}

// long lets the handovers of a pod have been long ago.
func long(t *testing.T, p *Preparer, podUID string) {
	t.Helper()
	_, err := p.edit(podUID, func(r *restoration) error {
		for name, h := range r.Handed {
			h.Time = h.Time.Add(-restoring)
			r.Handed[name] = h
		}
		return nil
	})
	require.NoError(t, err)
}

func TestSweepLeavesRestoresUnderWay(t *testing.T) {
	for _, c := range []struct {
		name  string
		begun bool
	}{
		{"of this life", true},
		{"of an earlier life", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, dir := handedOverScene(t, false)
			require.NoError(t, os.Remove(filepath.Join(dir, recordName)))
			p.begun["new"] = c.begun
			require.NoError(t, p.Sweep(t.Context()))
			_, err := os.Stat(filepath.Join(dir, imagesName))
			require.Equal(t, c.begun, err == nil)
		})
	}
}
