package e2e

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// shortWindow is soon over, and leaves a busy machine the time to freeze and dump.
const shortWindow = 45 * time.Second

func TestAgentsRestartAndTheBucketIsDownAtTheirStart(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := w.start(ctx, t, counterPod("restarts", "a", w.image))
	require.NoError(t, w.bed.StopBucket(ctx))
	t.Cleanup(func() { require.NoError(t, w.bed.StartBucket(context.WithoutCancel(ctx))) })
	for _, node := range []string{"a", "b"} {
		w.restartAgent(ctx, t, node)
	}
	require.NoError(t, w.bed.StartBucket(ctx))
	w.interrupt(ctx, t, "a", window)
	j.waitOn(ctx, "b")
	j.requireContinuous(ctx, "b", 0)
}

func TestBucketThatStaysDownCostsNobodyHisJob(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := w.start(ctx, t, counterPod("no-bucket", "a", w.image))
	require.NoError(t, w.bed.StopBucket(ctx))
	t.Cleanup(func() { require.NoError(t, w.bed.StartBucket(context.WithoutCancel(ctx))) })
	w.interrupt(ctx, t, "a", shortWindow)
	c := j.waitCondition(ctx, v1alpha1.ConditionEvacuated, metav1.ConditionFalse, v1alpha1.ReasonBucketFailed)
	require.Nil(t, c.Status.Generation)
	j.waitEvent(ctx, v1alpha1.ReasonBucketFailed)
	steps := j.logs(ctx)
	j.waitStep(ctx, steps[len(steps)-1].n+5)
	require.Equal(t, "a", j.waitRunning(ctx).Spec.NodeName)
	j.requireContinuous(ctx, "a", 1)
}

// TestAgentKilledMidwayFinishes kills the agent while its target is frozen and the bucket is down; the bucket is back
// before the deadline, so the agent that follows finishes.
func TestAgentKilledMidwayFinishes(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := frozenByDeadAgent(ctx, t, w, "killed-finishes", window)
	require.NoError(t, w.bed.StartBucket(ctx))
	j.waitOn(ctx, "b")
	j.requireContinuous(ctx, "b", 0)
}

// TestAgentKilledMidwayThaws is the same with a bucket that is down beyond the deadline.
func TestAgentKilledMidwayThaws(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := frozenByDeadAgent(ctx, t, w, "killed-thaws", shortWindow)
	c := j.wait(ctx, "not evacuated", func(c *v1alpha1.Checkpoint) bool {
		e := c.Status.Condition(v1alpha1.ConditionEvacuated)
		return e != nil && e.Status == metav1.ConditionFalse
	})
	require.Nil(t, c.Status.Generation)
	steps := j.logs(ctx)
	j.waitStep(ctx, steps[len(steps)-1].n+5)
	require.Equal(t, "running", j.container(ctx, "a", "status"))
	j.requireContinuous(ctx, "a", 1)
}

// frozenByDeadAgent stops the bucket, has node a interrupted, waits until the job is dumped and still frozen, and kills
// the agent.
func frozenByDeadAgent(ctx context.Context, t *testing.T, w *world, name string, in time.Duration) *job {
	t.Helper()
	j := w.start(ctx, t, counterPod(name, "a", w.image))
	require.NoError(t, w.bed.StopBucket(ctx))
	t.Cleanup(func() { require.NoError(t, w.bed.StartBucket(context.WithoutCancel(ctx))) })
	w.interrupt(ctx, t, "a", in)
	require.NoError(t, deploy.Until(ctx, "frozen job", func(ctx context.Context) (bool, string, error) {
		status := j.container(ctx, "a", "status")
		return status == "paused", status, nil
	}))
	w.killAgent(ctx, t, "a")
	return j
}

func TestDamagedGenerations(t *testing.T) {
	for _, c := range []struct {
		name      string
		damage    func(ctx context.Context, t *testing.T, objects *objects, folder string)
		onFailure string
		reason    string
	}{
		{"corrupt-manifest", func(ctx context.Context, t *testing.T, o *objects, folder string) {
			o.flip(ctx, t, o.last(ctx, t, folder+"gen/"))
		}, "", v1alpha1.ReasonManifestCorrupt},
		{"missing-pack", func(ctx context.Context, t *testing.T, o *objects, folder string) {
			o.remove(ctx, t, o.one(ctx, t, folder+"packs/"))
		}, "", v1alpha1.ReasonPackMissing},
		{"missing-pack-must-not-start", func(ctx context.Context, t *testing.T, o *objects, folder string) {
			o.remove(ctx, t, o.one(ctx, t, folder+"packs/"))
		}, "fail", v1alpha1.ReasonPackMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, w := testContext(t), shared()
			pod := counterPod(c.name, "a", w.image)
			pod.Annotations = map[string]string{v1alpha1.AnnotationOnRestoreFailure: c.onFailure}
			j := w.start(ctx, t, pod)
			token := j.logs(ctx)[0].token
			w.cordon(ctx, t, "b", true)
			w.interrupt(ctx, t, "a", window)
			released := j.waitReleased(ctx)
			c.damage(ctx, t, newObjects(t, w), folderOf(released))
			w.cordon(ctx, t, "b", false)

			j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionFalse, c.reason)
			j.waitEvent(ctx, c.reason)
			if c.onFailure == "fail" {
				pod, err := w.kube.WaitPod(ctx, namespace, j.name, "refused", func(p *corev1.Pod) (bool, error) {
					return p.Status.Phase == corev1.PodFailed, nil
				})
				require.NoError(t, err)
				require.Contains(t, pod.Status.ContainerStatuses[0].State.Terminated.Message, v1alpha1.AnnotationOnRestoreFailure)
				return
			}
			j.waitOn(ctx, "b")
			j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonStartedClean)
			j.waitEvent(ctx, v1alpha1.ReasonStartedClean)
			require.Equal(t, v1alpha1.ReasonStartedClean, j.columns(ctx)["RESTORED"])
			j.waitStep(ctx, 3)
			require.NotEqual(t, token, j.requireContinuous(ctx, "b", 1).token, "it started from the beginning")
		})
	}
}

// The newest generation has lost what it alone was made of: the job goes on from the safety generation before it, on the
// files of that, under the claim on the newest.
func TestADamagedGenerationIsFollowedByTheOneBefore(t *testing.T) {
	ctx, w := testContext(t), shared()
	pod := counterPod("one-before", "a", w.image)
	pod.Annotations = map[string]string{v1alpha1.AnnotationRecoveryPoint: "5s", v1alpha1.AnnotationOnRestoreFailure: "fail"}
	j := w.start(ctx, t, pod)
	token := j.logs(ctx)[0].token
	j.wait(ctx, "safety generation", func(c *v1alpha1.Checkpoint) bool { return c.Status.Safety != nil })
	w.cordon(ctx, t, "b", true)
	w.interrupt(ctx, t, "a", window)
	released := j.waitReleased(ctx)
	o := newObjects(t, w)
	o.remove(ctx, t, o.last(ctx, t, folderOf(released)+"packs/"))
	w.cordon(ctx, t, "b", false)

	j.waitOn(ctx, "b")
	c := j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
	require.Equal(t, released.Status.Generation.Number, c.Status.Claim.Generation)
	require.NotNil(t, c.Status.Claim.Fallback)
	require.Equal(t, v1alpha1.ReasonPackMissing, c.Status.Claim.Fallback.Reason)
	require.Equal(t, released.Status.Safety.Number, c.Status.Claim.Fallback.Generation.Number)
	require.Contains(t, c.Status.Condition(v1alpha1.ConditionRestored).Message, "in place of generation")
	j.waitEvent(ctx, "OlderGeneration")
	j.waitStep(ctx, j.logs(ctx)[0].n+3)
	require.Equal(t, token, j.requireContinuous(ctx, "b", 0).token, "the same process")
}

func TestDataKeyThatComesBackCostsNobodyHisJob(t *testing.T) {
	ctx, w := testContext(t), shared()
	j := w.start(ctx, t, counterPod("missing-key", "a", w.image))
	w.cordon(ctx, t, "b", true)
	w.interrupt(ctx, t, "a", window)
	released := j.waitReleased(ctx)
	o, key := newObjects(t, w), folderOf(released)+"KEY"
	body := o.get(ctx, t, key)
	o.remove(ctx, t, key)
	w.cordon(ctx, t, "b", false)
	c := j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionFalse, v1alpha1.ReasonBucketFailed)
	require.Contains(t, c.Status.Condition(v1alpha1.ConditionRestored).Message, key)
	o.put(ctx, t, key, body)
	j.waitOn(ctx, "b")
	j.requireContinuous(ctx, "b", 0)
}

func TestExitAfterARestoreStartsClean(t *testing.T) {
	ctx, w := testContext(t), shared()
	pod := counterPod("exits", "a", w.image)
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	j := w.start(ctx, t, pod)
	token := j.logs(ctx)[0].token
	w.interrupt(ctx, t, "a", window)
	j.waitOn(ctx, "b")
	_, err := w.node(t, "b").Exec(ctx, "kill", "-KILL", j.pid(ctx, "b"))
	require.NoError(t, err)
	_, err = w.kube.WaitPod(ctx, namespace, j.name, "restarted", func(p *corev1.Pod) (bool, error) {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount == 1 && s[0].State.Running != nil, nil
	})
	require.NoError(t, err)
	j.waitStep(ctx, 3)
	require.NotEqual(t, token, j.logs(ctx)[0].token)
	last := j.waitRunning(ctx).Status.ContainerStatuses[0].LastTerminationState.Terminated
	require.NotNil(t, last)
	require.EqualValues(t, 137, last.ExitCode, "the kubelet saw how the process that came back ended")
}

func (w *world) cordon(ctx context.Context, t *testing.T, node string, on bool) {
	t.Helper()
	verb := "uncordon"
	if on {
		verb = "cordon"
		t.Cleanup(func() { w.cordon(context.WithoutCancel(ctx), t, node, false) })
	}
	_, err := w.kube.Kubectl(ctx, nil, verb, node)
	require.NoError(t, err)
}

// restartAgent deletes the agent's pod and waits for the next one to be ready.
func (w *world) restartAgent(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	old, err := w.agentPod(ctx, node)
	require.NoError(t, err)
	require.NoError(t, w.kube.CoreV1().Pods(old.Namespace).Delete(ctx, old.Name, metav1.DeleteOptions{}))
	require.NoError(t, deploy.Until(ctx, "agent on "+node, func(ctx context.Context) (bool, string, error) {
		now, err := w.agentPod(ctx, node)
		if err != nil {
			return false, err.Error(), nil
		}
		return now.UID != old.UID && deploy.PodReady(now), now.Name, nil
	}))
}

// folderOf is where the objects of a Checkpoint are.
func folderOf(c *v1alpha1.Checkpoint) string {
	return "v1/" + deploy.Cluster + "/" + namespace + "/" + c.Name + "-" + string(c.UID) + "/"
}

// objects is the bed's bucket, for those who damage it.
type objects struct {
	client *minio.Client
	bucket string
}

func newObjects(t *testing.T, w *world) *objects {
	t.Helper()
	b := w.bed.Bucket()
	client, err := minio.New(strings.TrimPrefix(b.LocalEndpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(b.AccessKey, b.SecretKey, ""), Region: b.Region,
	})
	require.NoError(t, err)
	return &objects{client: client, bucket: b.Name}
}

// one returns the first key below prefix.
func (o *objects) one(ctx context.Context, t *testing.T, prefix string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for object := range o.client.ListObjects(ctx, o.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		require.NoError(t, object.Err)
		return object.Key
	}
	t.Fatal("no object below " + prefix)
	return ""
}

// last returns the last key below prefix: the newest of fewer than ten generations.
func (o *objects) last(ctx context.Context, t *testing.T, prefix string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	last := ""
	for object := range o.client.ListObjects(ctx, o.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		require.NoError(t, object.Err)
		last = object.Key
	}
	require.NotEmpty(t, last, "no object below "+prefix)
	return last
}

func (o *objects) remove(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	require.NoError(t, o.client.RemoveObject(ctx, o.bucket, key, minio.RemoveObjectOptions{}))
}

// flip changes one bit in the middle of an object.
func (o *objects) flip(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	body := o.get(ctx, t, key)
	body[len(body)/2] ^= 1
	o.put(ctx, t, key, body)
}

func (o *objects) get(ctx context.Context, t *testing.T, key string) []byte {
	t.Helper()
	object, err := o.client.GetObject(ctx, o.bucket, key, minio.GetObjectOptions{})
	require.NoError(t, err)
	defer object.Close()
	body, err := io.ReadAll(object)
	require.NoError(t, err)
	return body
}

func (o *objects) put(ctx context.Context, t *testing.T, key string, body []byte) {
	t.Helper()
	_, err := o.client.PutObject(ctx, o.bucket, key, bytes.NewReader(body), int64(len(body)), minio.PutObjectOptions{})
	require.NoError(t, err)
}
