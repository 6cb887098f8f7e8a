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

// TestConnections moves a program with connections of all kinds: its listeners go on, its peers are gone, and it reconnects.
func TestConnections(t *testing.T) {
	ctx, w := testContext(t), shared()
	image := w.buildTalker(ctx, t)
	peer := counterPod("peer", "b", image)
	peer.Labels = nil
	peerIP := w.start(ctx, t, peer).waitOn(ctx, "b").Status.PodIP

	pod := counterPod("talker", "a", image, "-peer", peerIP)
	j := w.start(ctx, t, pod)
	before := j.waitOn(ctx, "a")
	token := j.logs(ctx)[0].token
	for _, name := range []string{"outside", "packets", "loopback", "unix"} {
		j.waitTold(ctx, "a", name+" connected", 1)
	}
	t.Log(j.read(ctx, "a", "/data/events.log"))

	w.interrupt(ctx, t, "a", window)
	after := j.waitOn(ctx, "b")
	j.waitCondition(ctx, v1alpha1.ConditionRestored, metav1.ConditionTrue, v1alpha1.ReasonRestored)
	require.NotEqual(t, before.Status.PodIP, after.Status.PodIP)
	for _, name := range []string{"outside", "loopback"} {
		j.waitTold(ctx, "b", name+" connected", 2)
	}
	t.Log(j.read(ctx, "b", "/data/events.log"))
	for _, port := range []string{"tcp/7004", "tcp/7006", "udp/7004", "udp/7006"} {
		require.Equal(t, token+" ping\n", w.ask(ctx, t, "a", after.Status.PodIP, port), port)
	}
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

var _ = corev1.Pod{}
