package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// TestConnections moves a program with sockets of all kinds. Its listeners go on under the new address, and what is connected
// within the container; its peers are gone, and it connects to them again. What is bound to the pod's own address is named
// before any notice, or goes on as well where the pod asks for that.
func TestConnections(t *testing.T) {
	ctx, w := testContext(t), shared()
	image := w.buildTalker(ctx, t)
	peer := counterPod("peer", "b", image)
	peer.Labels = nil
	address := w.start(ctx, t, peer).waitOn(ctx, "b").Status.PodIP

	narrow := w.create(ctx, t, talkerPod("narrow", image, "-own", "$(POD_IP)"))
	pod := talkerPod("talker", image, "-own", "$(POD_IP)", "-peer", address)
	pod.Annotations = map[string]string{v1alpha1.AnnotationKeepPodIPAlias: "true"}
	j := w.start(ctx, t, pod)
	before := j.waitOn(ctx, "a").Status.PodIP
	token := j.logs(ctx)[0].token
	for _, name := range []string{"outside", "packets", "loopback", "unix", "own"} {
		j.waitTold(ctx, "a", name+" connected", 1)
	}
	told := narrow.waitCondition(ctx, v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonPodAddressBound)
	require.Contains(t, told.Status.Condition(v1alpha1.ConditionProtectable).Message, v1alpha1.AnnotationKeepPodIPAlias)
	narrow.remove(ctx)

	w.interrupt(ctx, t, "a", window)
	after := j.waitOn(ctx, "b").Status.PodIP
	c := j.wait(ctx, "restored, or given up", func(c *v1alpha1.Checkpoint) bool {
		r := c.Status.Condition(v1alpha1.ConditionRestored)
		return r != nil && (r.Reason == v1alpha1.ReasonRestored || r.Reason == v1alpha1.ReasonStartedClean)
	})
	require.True(t, c.Status.IsTrue(v1alpha1.ConditionRestored), c.Status.Condition(v1alpha1.ConditionRestored))
	require.Equal(t, []string{before}, c.Status.Generation.PodIPs)
	require.NotEqual(t, before, after)
	for _, name := range []string{"outside", "loopback", "own"} {
		j.waitTold(ctx, "b", name+" connected", 2)
	}
	for _, port := range []string{"tcp/7004", "tcp/7006", "tcp/7007", "udp/7004", "udp/7006", "udp/7007"} {
		require.Equal(t, token+" ping\n", w.ask(ctx, t, "a", after, port), port)
	}
	requireTold(t, j.read(ctx, "b", "/data/events.log"))
}

// requireTold holds what docs/operations.md says of connections against what the program has seen.
func requireTold(t *testing.T, told string) {
	t.Helper()
	seen := map[string]int{}
	for line := range strings.Lines(told) {
		seen[strings.TrimSpace(line)]++
	}
	for _, name := range []string{"reader", "writer"} {
		for _, line := range []string{"then reads: 0, <nil>", "then writes: -1, broken pipe", "then has SO_ERROR: 0, <nil>",
			"then has a peer: transport endpoint is not connected"} {
			require.Equal(t, 1, seen[name+" "+line], told)
		}
	}
	require.Equal(t, 1, seen["reader: 0, <nil>"], told)
	require.Equal(t, 1, seen["writer: -1, broken pipe"], told)
	for _, name := range []string{"outside", "loopback", "own"} {
		// It was about to write, or to read the answer.
		require.Equal(t, 1, seen[name+" write: broken pipe"]+seen[name+" read: EOF"], told)
		require.Equal(t, 2, seen[name+" connected"], told)
	}
	require.Equal(t, 1, seen["packets connected"], told)
	require.Equal(t, 1, seen["unix connected"], told)
	require.NotRegexp(t, `(packets|unix) .*:|listener|reset`, told)
}

// talkerPod prefers node a and knows its address.
func talkerPod(name, image string, args ...string) *corev1.Pod {
	pod := counterPod(name, "a", image, args...)
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"},
	}}}
	return pod
}

// buildTalker makes the image of the talker.
func (w *world) buildTalker(ctx context.Context, t *testing.T) string {
	t.Helper()
	root, err := deploy.Checkout()
	require.NoError(t, err)
	talker := filepath.Join(root, "build", "bin", "talker")
	require.NoError(t, bed.BuildBinary(ctx, "./test/e2e/talker", talker))
	image, err := w.bed.BinaryImage(ctx, "talker", map[string]string{"/talker": talker}, v1.Config{Entrypoint: []string{"/talker"}})
	require.NoError(t, err)
	return image
}

// waitTold waits until the talker on that node has told an event so many times.
func (j *job) waitTold(ctx context.Context, node, event string, times int) {
	j.t.Helper()
	require.NoError(j.t, deploy.Until(ctx, fmt.Sprintf("%d times %q", times, event), func(ctx context.Context) (bool, string, error) {
		told := j.read(ctx, node, "/data/events.log")
		return strings.Count(told, event+"\n") >= times, told, nil
	}))
}

// ask asks a talker from a node, at PROTOCOL/PORT, and returns its answer.
func (w *world) ask(ctx context.Context, t *testing.T, node, ip, at string) string {
	t.Helper()
	protocol, port, _ := strings.Cut(at, "/")
	out, err := w.node(t, node).Exec(ctx, "timeout", "10", "bash", "-c",
		fmt.Sprintf(`exec 3<>/dev/%s/%s/%s && printf ping >&3 && head -n 1 <&3`, protocol, net.ParseIP(ip), port))
	require.NoError(t, err, at)
	return string(out)
}
