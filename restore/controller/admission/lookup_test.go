package admission

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// ofJob makes the pod one of a Job's, for which several Checkpoints may wait.
func ofJob(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		yes := true
		p.Namespace, p.Name = "work", name
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "train", UID: "job", Controller: &yes}}
	}
}

func TestFinder(t *testing.T) {
	id, err := identity.Of(pod(ofJob("")))
	require.NoError(t, err)
	waiting := func(name string, second int64) *v1alpha1.Checkpoint {
		return point(func(c *v1alpha1.Checkpoint) {
			c.Name, c.Labels = name, map[string]string{v1alpha1.LabelIdentity: identity.Key(id)}
			c.Status.Generation.Time = metav1.NewMicroTime(time.Unix(second, 0))
		})
	}
	sent := pod(ofJob("other"), annotated("first/7"))
	started := sent.DeepCopy()
	started.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	elsewhere := waiting("elsewhere", 0)
	elsewhere.Namespace = "other"
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		have []client.Object
		want string
	}{
		{"nothing there", pod(ofJob("")), nil, ""},
		{"the oldest", pod(ofJob("")), []client.Object{waiting("second", 2), waiting("first", 1)}, "first"},
		{"the one that no other pod was sent after", pod(ofJob("")), []client.Object{waiting("second", 2), waiting("first", 1), sent}, "second"},
		{"a pod that runs has claimed, or never will", pod(ofJob("")), []client.Object{waiting("second", 2), waiting("first", 1), started}, "first"},
		{"of this namespace", pod(ofJob("")), []client.Object{elsewhere}, ""},
		{"of this identity", pod(func(p *corev1.Pod) { p.Namespace, p.Name = "work", "train" }), []client.Object{waiting("train", 1)}, ""},
		{"a bare pod without a name is a new one", pod(func(p *corev1.Pod) { p.Namespace = "work" }), []client.Object{waiting("train", 1)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			scheme := runtime.NewScheme()
			require.NoError(t, clientgoscheme.AddToScheme(scheme))
			require.NoError(t, v1alpha1.AddToScheme(scheme))
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"x": "y"}}}
			reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(append([]client.Object{node}, c.have...)...).Build()
			finder := Finder{Reader: reader, Now: time.Now}
			got, err := finder.Waiting(t.Context(), c.pod)
			require.NoError(t, err)
			if c.want == "" {
				require.Nil(t, got)
			} else {
				require.Equal(t, c.want, got.Name)
			}
			nodes, err := finder.Nodes(t.Context())
			require.NoError(t, err)
			require.Equal(t, []map[string]string{{"x": "y"}}, nodes)
		})
	}
}
