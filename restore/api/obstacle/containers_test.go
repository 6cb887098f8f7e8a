package obstacle

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestWhatTheKubeletWaitsForBetweenContainers(t *testing.T) {
	plain := func(name string) corev1.Container { return corev1.Container{Name: name} }
	sidecar := func(probe *corev1.Probe) corev1.Container {
		return corev1.Container{Name: "proxy", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), StartupProbe: probe}
	}
	hooked := func(name string) corev1.Container {
		return corev1.Container{Name: name, Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}}
	}
	web := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{}}}
	tcp := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}}}
	for _, c := range []struct {
		name       string
		inits, all []corev1.Container
		why        string
	}{
		{"one container with a hook", nil, []corev1.Container{hooked("main")}, ""},
		{"one after an init container", []corev1.Container{plain("setup")}, []corev1.Container{hooked("main")}, ""},
		{"several", []corev1.Container{plain("setup"), sidecar(nil)}, []corev1.Container{plain("main"), plain("writer")}, ""},
		{"a hook of the last", nil, []corev1.Container{plain("main"), hooked("writer")}, ""},
		{"a hook of the first", nil, []corev1.Container{hooked("main"), plain("writer")}, "the postStart hook of container main: "},
		{"a sidecar that is probed", []corev1.Container{sidecar(web)}, []corev1.Container{plain("main")}, "the startup probe of sidecar proxy: "},
		{"to a connection the kernel answers", []corev1.Container{sidecar(tcp)}, []corev1.Container{plain("main")}, ""},
		{"an init container after a sidecar", []corev1.Container{sidecar(nil), plain("setup")}, []corev1.Container{plain("main")},
			"init container setup, which comes after sidecar proxy: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := OfPod(&corev1.Pod{Spec: corev1.PodSpec{InitContainers: c.inits, Containers: c.all}})
			if c.why == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Equal(t, v1alpha1.ReasonStartOrder, found[0].Reason)
			require.Contains(t, found[0].Message, c.why)
		})
	}
}
