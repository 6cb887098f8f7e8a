// Package policytest proves on a real API server, with real bound tokens, what the agents' RBAC and the
// ValidatingAdmissionPolicy of manifests/base let an agent do and what not. test/e2e calls it on the bed.
package policytest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/controller"
)

const (
	system  = "lifeboat-system"
	agentSA = "lifeboat-agent"
)

// Env is what one run works on. Nodes own and other must exist; no kubelet needs to run on them.
type Env struct {
	admin      client.Client
	config     *rest.Config
	namespace  string
	own, other string
}

// Run checks every case as a subtest. config is an administrator's, the manifests are applied. Agents write dry: admission
// is the same, and a policy with a hole leaves the nodes whole. What Run makes lies in a namespace of its own, a pod in
// lifeboat-system and a ClusterRole; it is removed at the end.
func Run(t *testing.T, config *rest.Config, own, other string) {
	scheme, err := controller.NewScheme()
	require.NoError(t, err)
	admin, err := client.New(config, client.Options{Scheme: scheme})
	require.NoError(t, err)
	e := &Env{admin: admin, config: config, own: own, other: other}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "policy-"}}
	require.NoError(t, admin.Create(t.Context(), ns))
	e.namespace = ns.Name
	t.Cleanup(func() { require.NoError(t, admin.Delete(context.Background(), ns)) })

	e.expressionsCheck(t)
	agent := e.agentOn(t, own)
	e.inForce(t)
	e.runCases(t, agent, nodeCases())
	e.runCases(t, agent, checkpointCases())
	t.Run("with broad rights", func(t *testing.T) {
		e.withBroadRights(t, agent)
		e.runCases(t, agent, broadCases())
	})
	t.Run("a token bound to no pod names no node", func(t *testing.T) {
		err := e.label(t, e.agentWithToken(t, nil), own, "lifeboat.dev/x", "y")
		require.True(t, apierrors.IsForbidden(err), "want Forbidden, have: %v", err)
		require.ErrorContains(t, err, "names no node")
	})
	t.Run("the policy leaves others alone", func(t *testing.T) {
		require.NoError(t, e.label(t, admin, other, "policytest", "x"))
		require.NoError(t, e.label(t, admin, other, "policytest", ""))
	})
}

func (e *Env) runCases(t *testing.T, agent client.Client, cases []policyCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.do(t, e, agent)
			if c.denied == "" {
				require.NoError(t, err)
				return
			}
			require.True(t, apierrors.IsForbidden(err), "want Forbidden, have: %v", err)
			require.ErrorContains(t, err, c.denied)
		})
	}
}

// expressionsCheck waits until the API server has checked the policies' expressions against the kinds, and wants no
// complaint.
func (e *Env) expressionsCheck(t *testing.T) {
	for _, kind := range []string{"nodes", "pods", "checkpoints"} {
		policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: agentSA + "-" + kind}}
		require.Eventually(t, func() bool {
			require.NoError(t, e.admin.Get(t.Context(), client.ObjectKeyFromObject(policy), policy))
			return policy.Status.ObservedGeneration == policy.Generation && policy.Status.TypeChecking != nil
		}, 20*time.Second, 100*time.Millisecond, policy.Name)
		require.Empty(t, policy.Status.TypeChecking.ExpressionWarnings, policy.Name)
	}
}

// inForce waits until the API server applies the policies, which comes up to a second after they were created.
func (e *Env) inForce(t *testing.T) {
	nobody, ck := e.agentWithToken(t, nil), e.checkpoint(t, e.own)
	emptyPatch := client.RawPatch(mergePatch, []byte(`{}`))
	require.Eventually(t, func() bool {
		return apierrors.IsForbidden(nobody.Patch(t.Context(), nodeNamed(e.own), emptyPatch)) &&
			apierrors.IsForbidden(nobody.Status().Patch(t.Context(), ck.DeepCopy(), emptyPatch))
	}, 20*time.Second, 50*time.Millisecond, "the policies are in force")
}

// withBroadRights gives the agents every right on nodes, pods and Checkpoints, so that only the policies are left.
func (e *Env) withBroadRights(t *testing.T, agent client.Client) {
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "policytest-"},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{"", v1alpha1.GroupName}, Verbs: []string{"*"},
			Resources: []string{"nodes", "pods", "pods/eviction", "checkpoints"},
		}},
	}
	require.NoError(t, e.admin.Create(t.Context(), role))
	t.Cleanup(func() { require.NoError(t, e.admin.Delete(context.Background(), role)) })
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: system, Name: agentSA}},
	}
	require.NoError(t, e.admin.Create(t.Context(), binding))
	t.Cleanup(func() { require.NoError(t, e.admin.Delete(context.Background(), binding)) })
	require.Eventually(t, func() bool { return agent.List(t.Context(), &corev1.NodeList{}) == nil },
		20*time.Second, 50*time.Millisecond, "the broad role takes effect")
}

// agentOn returns a client with the token of an agent's pod on the node.
func (e *Env) agentOn(t *testing.T, node string) client.Client {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, GenerateName: "policytest-"},
		Spec: corev1.PodSpec{
			ServiceAccountName: agentSA, NodeName: node,
			Containers: []corev1.Container{{Name: "none", Image: "localhost:5000/none:none"}},
		},
	}
	require.NoError(t, e.admin.Create(t.Context(), pod))
	t.Cleanup(func() { require.NoError(t, e.admin.Delete(context.Background(), pod, client.GracePeriodSeconds(0))) })
	return e.agentWithToken(t, pod)
}

func (e *Env) agentWithToken(t *testing.T, pod *corev1.Pod) client.Client {
	request := &authenticationv1.TokenRequest{}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
		}
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: agentSA}}
	require.NoError(t, e.admin.SubResource("token").Create(t.Context(), account, request))
	config := rest.AnonymousClientConfig(e.config)
	config.BearerToken = request.Status.Token
	agent, err := client.New(config, client.Options{Scheme: e.admin.Scheme(), Mapper: e.admin.RESTMapper()})
	require.NoError(t, err)
	return client.NewDryRunClient(agent)
}

// label sets a label on a node, or removes it where value is empty.
func (e *Env) label(t *testing.T, as client.Client, node, key, value string) error {
	text := "null"
	if value != "" {
		text = fmt.Sprintf("%q", value)
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, key, text)
	return as.Patch(t.Context(), nodeNamed(node), client.RawPatch(mergePatch, []byte(patch)))
}

// taint adds a taint with the key to the node's taints and takes it off again.
func (e *Env) taint(t *testing.T, as client.Client, node, key string) error {
	n := nodeNamed(node)
	require.NoError(t, e.admin.Get(t.Context(), client.ObjectKeyFromObject(n), n))
	before := n.DeepCopy()
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	if err := as.Patch(t.Context(), n, client.MergeFrom(before)); err != nil {
		return err
	}
	tainted := n.DeepCopy()
	n.Spec.Taints = before.Spec.Taints
	return as.Patch(t.Context(), n, client.MergeFrom(tainted))
}

// checkpoint makes a Checkpoint whose bearer is on the node.
func (e *Env) checkpoint(t *testing.T, node string) *v1alpha1.Checkpoint {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "ck-" + time.Now().Format("150405.000000000")}}
	ck := &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: pod.Name},
		Spec: v1alpha1.CheckpointSpec{
			Identity: v1alpha1.Identity{Kind: "Pod", Name: pod.Name},
			Template: &runtime.RawExtension{Raw: []byte(`{"spec":{}}`)},
		},
	}
	require.NoError(t, e.admin.Create(t.Context(), ck))
	ck.Status.Pod = &v1alpha1.PodReference{Name: pod.Name, UID: "source", NodeName: node}
	ck.Status.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionTrue, v1alpha1.ReasonProtected, "")
	require.NoError(t, e.admin.Status().Update(t.Context(), ck))
	return ck
}

// write changes the status of a new Checkpoint whose bearer is on the node, once as an update and once as a patch; both
// must fare alike.
func (e *Env) write(t *testing.T, as client.Client, node string, change func(*v1alpha1.CheckpointStatus)) error {
	updated := e.checkpoint(t, node)
	change(&updated.Status)
	byUpdate := as.Status().Update(t.Context(), updated)
	patched := e.checkpoint(t, node)
	before := patched.DeepCopy()
	change(&patched.Status)
	byPatch := as.Status().Patch(t.Context(), patched, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	require.Equal(t, byUpdate == nil, byPatch == nil, "update: %v, patch: %v", byUpdate, byPatch)
	return errors.Join(byUpdate)
}

// pod makes a pod that no node ever runs.
func (e *Env) pod(t *testing.T) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, GenerateName: "pod-"},
		Spec: corev1.PodSpec{
			SchedulingGates: []corev1.PodSchedulingGate{{Name: "lifeboat.dev/policytest"}},
			Containers:      []corev1.Container{{Name: "none", Image: "none"}},
		},
	}
	require.NoError(t, e.admin.Create(t.Context(), pod))
	return pod
}

func nodeNamed(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}
