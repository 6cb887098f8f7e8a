package kube

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestAddressesOf(t *testing.T) {
	many := make([]string, mostAddresses)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.1.%d", i)
	}
	before := func(ips ...string) *v1alpha1.CheckpointStatus {
		return &v1alpha1.CheckpointStatus{
			Generation: &v1alpha1.GenerationReference{Number: 4, PodIPs: ips}, Claim: &v1alpha1.Claim{Generation: 4, PodUID: "pod-1"},
		}
	}
	fellBack := before("10.0.0.1")
	fellBack.Claim.Fallback = &v1alpha1.Fallback{Generation: v1alpha1.GenerationReference{PodIPs: []string{"10.0.0.2"}}}
	others := before("10.0.0.1")
	others.Claim.PodUID = "pod-0"
	for _, c := range []struct {
		name   string
		keep   string
		status *v1alpha1.CheckpointStatus
		want   []string
	}{
		{"first pod", "true", &v1alpha1.CheckpointStatus{}, []string{"10.0.0.9", "fd10::9"}},
		{"goes on from another", "true", before("10.0.0.1", "10.0.0.9"), []string{"10.0.0.9", "fd10::9", "10.0.0.1"}},
		{"goes on from the one before that", "true", fellBack, []string{"10.0.0.9", "fd10::9", "10.0.0.2"}},
		{"nothing is kept", "false", before("10.0.0.1"), []string{"10.0.0.9", "fd10::9"}},
		{"its own generation is claimed by no one", "true", others, []string{"10.0.0.9", "fd10::9"}},
		{"after many moves", "true", before(many...), append([]string{"10.0.0.9", "fd10::9"}, many[:mostAddresses-2]...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{UID: "pod-1", Annotations: map[string]string{v1alpha1.AnnotationKeepPodIPAlias: c.keep}},
				Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.9"}, {IP: "fd10::9"}}},
			}
			got, kept := addressesOf(pod, c.status)
			require.Equal(t, c.want, got)
			require.Equal(t, c.keep == "true", kept)
		})
	}
}
