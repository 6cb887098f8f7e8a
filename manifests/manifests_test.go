package manifests_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/controller"
	"github.com/lifeboat-dev/lifeboat/restore/controller/admission"
)

// render builds an overlay and decodes every object strictly: a misspelt field fails.
func render(t *testing.T, dir string) []runtime.Object {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	require.NoError(t, err)
	scheme, err := controller.NewScheme()
	require.NoError(t, err)
	require.NoError(t, apiextensionsv1.AddToScheme(scheme))
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var out []runtime.Object
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		require.NoError(t, err)
		o, _, err := decoder.Decode(text, nil, nil)
		require.NoError(t, err, "%s %s", r.GetKind(), r.GetName())
		out = append(out, o)
	}
	return out
}

func only[T runtime.Object](t *testing.T, objects []runtime.Object, match func(T) bool) T {
	var found []T
	for _, o := range objects {
		if v, ok := o.(T); ok && match(v) {
			found = append(found, v)
		}
	}
	require.Len(t, found, 1)
	return found[0]
}

func TestEveryOverlayDecodesStrictly(t *testing.T) {
	for _, dir := range []string{"base", "overlays/bed", "overlays/eks"} {
		t.Run(dir, func(t *testing.T) { require.NotEmpty(t, render(t, dir)) })
	}
}

func TestRightsAreNarrow(t *testing.T) {
	checked := 0
	for _, o := range render(t, "base") {
		var rules []rbacv1.PolicyRule
		switch role := o.(type) {
		case *rbacv1.ClusterRole:
			rules = role.Rules
		case *rbacv1.Role:
			rules = role.Rules
		}
		for _, rule := range rules {
			checked++
			all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs)
			require.NotContains(t, all, "*")
			if role, ok := o.(*rbacv1.Role); ok && role.Name == "lifeboat-controller-webhook" {
				requireOwnSecretOnly(t, rule)
				continue
			}
			for _, never := range []string{"secrets", "pods/exec", "nodes/proxy", "impersonate", "escalate", "bind", "deletecollection"} {
				require.NotContains(t, all, never)
			}
		}
	}
	require.Positive(t, checked)
}

// The webhook's certificates are a Secret of the controller's own. What is to be created cannot be told by its name.
func requireOwnSecretOnly(t *testing.T, rule rbacv1.PolicyRule) {
	require.Equal(t, []string{"secrets"}, rule.Resources)
	if !slices.Equal(rule.Verbs, []string{"create"}) {
		require.Equal(t, []string{"lifeboat-webhook"}, rule.ResourceNames)
	}
}

func TestTheWebhookStandsInNobodysWay(t *testing.T) {
	objects := render(t, "base")
	hook := only(t, objects, func(*admissionv1.MutatingWebhookConfiguration) bool { return true }).Webhooks[0]
	require.Equal(t, admissionv1.Ignore, *hook.FailurePolicy)
	require.Equal(t, admissionv1.SideEffectClassNone, *hook.SideEffects)
	require.LessOrEqual(t, *hook.TimeoutSeconds, int32(3))
	require.Equal(t, admission.Path, *hook.ClientConfig.Service.Path)
	for _, c := range []struct {
		name           string
		namespace, pod labels.Set
		called         bool
	}{
		{"labelled", labels.Set{corev1.LabelMetadataName: "work"}, labels.Set{v1alpha1.LabelProtect: "true"}, true},
		{"not labelled", labels.Set{corev1.LabelMetadataName: "work"}, labels.Set{}, false},
		{"labelled false", labels.Set{corev1.LabelMetadataName: "work"}, labels.Set{v1alpha1.LabelProtect: "false"}, false},
		{"in kube-system", labels.Set{corev1.LabelMetadataName: "kube-system"}, labels.Set{v1alpha1.LabelProtect: "true"}, false},
		{"its own", labels.Set{corev1.LabelMetadataName: "lifeboat-system"}, labels.Set{v1alpha1.LabelProtect: "true"}, false},
	} {
		namespace, err := metav1.LabelSelectorAsSelector(hook.NamespaceSelector)
		require.NoError(t, err)
		pod, err := metav1.LabelSelectorAsSelector(hook.ObjectSelector)
		require.NoError(t, err)
		require.Equal(t, c.called, namespace.Matches(c.namespace) && pod.Matches(c.pod), c.name)
	}
	service := only(t, objects, func(*corev1.Service) bool { return true })
	require.Equal(t, service.Name, hook.ClientConfig.Service.Name)
	require.Equal(t, service.Namespace, hook.ClientConfig.Service.Namespace)
	pods := only(t, objects, func(*appsv1.Deployment) bool { return true }).Spec.Template
	require.True(t, labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pods.Labels)))
	require.True(t, slices.ContainsFunc(pods.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool {
		return p.Name == service.Spec.Ports[0].TargetPort.StrVal
	}))
}

func TestAgentWritesNoPods(t *testing.T) {
	role := only(t, render(t, "base"), func(r *rbacv1.ClusterRole) bool { return r.Name == "lifeboat-agent" })
	for _, rule := range role.Rules {
		if slices.Contains(rule.Resources, "pods") {
			require.Equal(t, []string{"get", "list", "watch"}, rule.Verbs)
		}
		require.NotContains(t, rule.Resources, "pods/eviction")
	}
}

func TestControllerHoldsNoPrivilege(t *testing.T) {
	spec := only(t, render(t, "base"), func(*appsv1.Deployment) bool { return true }).Spec.Template.Spec
	require.True(t, *spec.SecurityContext.RunAsNonRoot)
	require.Empty(t, spec.Volumes)
	c := spec.Containers[0].SecurityContext
	require.True(t, *c.ReadOnlyRootFilesystem)
	require.False(t, *c.AllowPrivilegeEscalation)
	require.Equal(t, []corev1.Capability{"ALL"}, c.Capabilities.Drop)
}

// The leader gives its lease up when its node leaves, so it must know its node and may watch it.
func TestControllerKnowsItsNode(t *testing.T) {
	objects := render(t, "base")
	env := only(t, objects, func(*appsv1.Deployment) bool { return true }).Spec.Template.Spec.Containers[0].Env
	i := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == "LIFEBOAT_NODE_NAME" })
	require.NotEqual(t, -1, i)
	require.Equal(t, "spec.nodeName", env[i].ValueFrom.FieldRef.FieldPath)
	role := only(t, objects, func(r *rbacv1.ClusterRole) bool { return r.Name == "lifeboat-controller" })
	require.True(t, slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
		return slices.Contains(r.Resources, "nodes") && slices.Contains(r.Verbs, "watch")
	}))
}

func TestAnOverlayOnTheBedMergesItsValues(t *testing.T) {
	bed, err := filepath.Abs("overlays/bed")
	require.NoError(t, err)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	base, err := filepath.Rel(dir, bed)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(`
namespace: lifeboat-system
resources: [`+base+`]
configMapGenerator:
  - {name: lifeboat-config, behavior: merge, literals: ["LIFEBOAT_BUCKET=file:///shared"]}
secretGenerator:
  - {name: lifeboat-s3, behavior: merge, literals: [AWS_ACCESS_KEY_ID=other]}
`), 0o600))
	objects := render(t, dir)
	config := only(t, objects, func(c *corev1.ConfigMap) bool { return true })
	require.Equal(t, "file:///shared", config.Data["LIFEBOAT_BUCKET"])
	require.Equal(t, "bed", config.Data["LIFEBOAT_CLUSTER"])
	secret := only(t, objects, func(s *corev1.Secret) bool { return strings.HasPrefix(s.Name, "lifeboat-s3") })
	require.Equal(t, "other", string(secret.Data["AWS_ACCESS_KEY_ID"]))
	agent := only(t, objects, func(*appsv1.DaemonSet) bool { return true }).Spec.Template.Spec.Containers[0]
	require.Equal(t, config.Name, agent.EnvFrom[0].ConfigMapRef.Name)
	require.Equal(t, secret.Name, agent.EnvFrom[1].SecretRef.Name)
	require.Equal(t, "localhost:5000/lifeboat:dev", agent.Image)
}

// The CRD is generated from the types: `go generate ./restore/api/v1alpha1` after a change.
func TestTheCRDKnowsEveryFieldOfTheTypes(t *testing.T) {
	crd := only(t, render(t, "base"), func(*apiextensionsv1.CustomResourceDefinition) bool { return true })
	version := crd.Spec.Versions[0]
	require.NotNil(t, version.Subresources.Status)
	schema := version.Schema.OpenAPIV3Schema
	sameFields(t, "spec", schema.Properties["spec"], reflect.TypeFor[v1alpha1.CheckpointSpec]())
	sameFields(t, "status", schema.Properties["status"], reflect.TypeFor[v1alpha1.CheckpointStatus]())
}

// sameFields walks struct and schema side by side, as far as the structs are this API's own.
func sameFields(t *testing.T, path string, schema apiextensionsv1.JSONSchemaProps, typ reflect.Type) {
	var have, want []string
	for name := range schema.Properties {
		have = append(have, name)
	}
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		want = append(want, name)
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == reflect.TypeFor[v1alpha1.Claim]().PkgPath() {
			sameFields(t, path+"."+name, schema.Properties[name], inner)
		}
	}
	require.ElementsMatch(t, want, have, path)
}
