package identity

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// owned is a labelled pod with a controller, or without one where kind is empty.
func owned(name, apiVersion, kind, uid string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{v1alpha1.LabelProtect: "true"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "train:1", Args: []string{"step"}}}},
	}
	if kind != "" {
		pod.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: apiVersion, Kind: kind, Name: "owner", UID: types.UID(uid), Controller: ptr.To(true),
		}}
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func label(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[key] = value }
}

func annotation(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{key: value} }
}

const index = "batch.kubernetes.io/job-completion-index"

func TestOf(t *testing.T) {
	owner := func(apiVersion, kind string) *v1alpha1.Owner {
		return &v1alpha1.Owner{APIVersion: apiVersion, Kind: kind, Name: "owner", UID: "u"}
	}
	for _, c := range []struct {
		name  string
		pod   *corev1.Pod
		want  v1alpha1.Identity
		fault string
	}{
		{name: "bare", pod: owned("p", "", "", ""), want: v1alpha1.Identity{Kind: "Pod", Name: "p"}},
		{name: "an owner that is no controller makes no replacement", pod: owned("p", "v1", "ConfigMap", "u", func(p *corev1.Pod) {
			p.OwnerReferences[0].Controller = nil
		}), want: v1alpha1.Identity{Kind: "Pod", Name: "p"}},
		{name: "bare without a name", pod: owned("", "", "", ""), fault: ErrUnnamed.Error()},
		{name: "StatefulSet", pod: owned("web-0", "apps/v1", "StatefulSet", "u", label("controller-revision-hash", "web-6b")),
			want: v1alpha1.Identity{Kind: "StatefulSet", Name: "web-0", Owner: owner("apps/v1", "StatefulSet"), Program: "web-6b"}},
		{name: "StatefulSet of another group", pod: owned("web-0", "apps.kruise.io/v1", "StatefulSet", "u", label("a", "b")),
			want: v1alpha1.Identity{Kind: "Other", Name: "web-0", Owner: owner("apps.kruise.io/v1", "StatefulSet"),
				Labels: map[string]string{"a": "b"}, Program: program(owned("p", "", "", ""))}},
		{name: "Job", pod: owned("", "batch/v1", "Job", "u"), want: v1alpha1.Identity{Kind: "Job", Owner: owner("batch/v1", "Job")}},
		{name: "Indexed Job by label", pod: owned("j-2-x", "batch/v1", "Job", "u", label(index, "2")),
			want: v1alpha1.Identity{Kind: "IndexedJob", Name: "j-2-x", Owner: owner("batch/v1", "Job"), Index: ptr.To(int32(2))}},
		{name: "Indexed Job by annotation", pod: owned("j-0-x", "batch/v1", "Job", "u", annotation(index, "0")),
			want: v1alpha1.Identity{Kind: "IndexedJob", Name: "j-0-x", Owner: owner("batch/v1", "Job"), Index: ptr.To(int32(0))}},
		{name: "no index", pod: owned("j-0-x", "batch/v1", "Job", "u", annotation(index, "-1")), fault: "is no index"},
		{name: "ReplicaSet", pod: owned("d-1", "apps/v1", "ReplicaSet", "u"),
			want: v1alpha1.Identity{Kind: "ReplicaSet", Name: "d-1", Owner: owner("apps/v1", "ReplicaSet")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := Of(c.pod)
			if c.fault != "" {
				require.ErrorContains(t, err, c.fault)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, id)
		})
	}
}

// Every combination of what tells pods apart, each pair compared with the rule in words: the key is the same exactly where
// the two pods may continue one another.
func TestPodsShareAKeyWhereTheyMayContinueOneAnother(t *testing.T) {
	var pods []*corev1.Pod
	for _, name := range []string{"a-0", "a-1"} {
		for _, owner := range []string{"", "apps/v1 StatefulSet", "apps/v1 ReplicaSet", "batch/v1 Job", "kubeflow.org/v1 PyTorchJob"} {
			for _, uid := range []string{"u1", "u2"} {
				for _, number := range []string{"", "0", "1"} {
					for _, role := range []string{"master", "worker"} {
						for _, revision := range []string{"r1", "r2"} {
							for _, image := range []string{"train:1", "train:2"} {
								version, kind, _ := strings.Cut(owner, " ")
								pod := owned(name, version, kind, uid, label("role", role), label("controller-revision-hash", revision))
								pod.Spec.Containers[0].Image = image
								if number != "" {
									pod.Labels[index] = number
								}
								pods = append(pods, pod)
							}
						}
					}
				}
			}
		}
	}
	keys := make([]string, len(pods))
	for i, p := range pods {
		id, err := Of(p)
		require.NoError(t, err)
		keys[i] = Key(id)
		require.Len(t, keys[i], 16)
	}
	for i, p := range pods {
		for j, q := range pods {
			if mayContinue(p, q) != (keys[i] == keys[j]) {
				require.Fail(t, "key and rule differ", fmt.Sprint(p, q))
			}
		}
	}
}

// mayContinue is the rule of docs/design.md section 5.
func mayContinue(p, q *corev1.Pod) bool {
	if len(p.OwnerReferences) != len(q.OwnerReferences) {
		return false
	}
	sameName := p.Name == q.Name
	if len(p.OwnerReferences) == 0 {
		return sameName
	}
	a, b := p.OwnerReferences[0], q.OwnerReferences[0]
	if a.UID != b.UID || a.Kind != b.Kind {
		return false
	}
	switch a.Kind {
	case "StatefulSet":
		return sameName && p.Labels["controller-revision-hash"] == q.Labels["controller-revision-hash"]
	case "ReplicaSet":
		return true
	case "Job":
		return p.Labels[index] == q.Labels[index]
	}
	return p.Labels["role"] == q.Labels["role"] && p.Labels[index] == q.Labels[index] &&
		p.Spec.Containers[0].Image == q.Spec.Containers[0].Image
}

func TestVolatileLabelsDoNotCount(t *testing.T) {
	key := func(change ...func(*corev1.Pod)) string {
		id, err := Of(owned("driver", "sparkoperator.k8s.io/v1beta2", "SparkApplication", "u", change...))
		require.NoError(t, err)
		return Key(id)
	}
	require.Equal(t, key(label("spark-role", "driver"), label("spark-app-selector", "spark-1")),
		key(label("spark-role", "driver"), label("spark-app-selector", "spark-2"), label(v1alpha1.LabelProtect, "false"),
			label("topology.kubernetes.io/zone", "b")), "the API server adds the zone as it binds the pod")
	require.NotEqual(t, key(label("spark-role", "driver")), key(label("spark-role", "executor")))
}

func TestOtherNameFitsAnyPod(t *testing.T) {
	id := v1alpha1.Identity{Kind: "Pod", Name: strings.Repeat("n", 253)}
	require.Len(t, OtherName(id), 253)
	require.True(t, strings.HasSuffix(OtherName(id), "-"+Key(id)))
	id.Name = "train"
	require.Equal(t, "train-"+Key(id), OtherName(id))
}

// The steps of a workflow may differ by their environment alone.
func TestTheEnvironmentCountsForOwnersOfOtherKinds(t *testing.T) {
	key := func(name, value string) string {
		pod := owned("step", "argoproj.io/v1alpha1", "Workflow", "u")
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: name, Value: value}}
		id, err := Of(pod)
		require.NoError(t, err)
		return Key(id)
	}
	require.NotEqual(t, key("ARGO_TEMPLATE", "a"), key("ARGO_TEMPLATE", "b"))
	require.Equal(t, key("ARGO_NODE_ID", "a"), key("ARGO_NODE_ID", "b"))
}
