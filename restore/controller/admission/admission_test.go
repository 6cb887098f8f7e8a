package admission

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const self = "system:serviceaccount:lifeboat-system:lifeboat-controller"

// found is a Lookup with one answer.
type found struct {
	point *v1alpha1.Checkpoint
	err   error
	asked *corev1.Pod
}

func (f *found) Waiting(_ context.Context, pod *corev1.Pod) (*v1alpha1.Checkpoint, error) {
	f.asked = pod
	return f.point, f.err
}

func (f *found) Nodes(context.Context) ([]map[string]string, error) { return nil, nil }

// point is a Checkpoint whose generation 7 waits and requires amd64.
func point(change ...func(*v1alpha1.Checkpoint)) *v1alpha1.Checkpoint {
	c := &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "work", Name: "train"}}
	c.Status.Pod = &v1alpha1.PodReference{UID: "old"}
	c.Status.Timeline = &v1alpha1.Timeline{PodUID: "old"}
	c.Status.Generation = &v1alpha1.GenerationReference{Number: 7, PodUID: "old", Final: true, Requirements: map[string]string{placement.Architecture: "amd64"}}
	c.Status.SetCondition(v1alpha1.ConditionDurable, metav1.ConditionTrue, v1alpha1.ReasonCommitted, "")
	c.Status.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionTrue, v1alpha1.ReasonFinalGeneration, "")
	for _, f := range change {
		f(c)
	}
	return c
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	p.GenerateName, p.Labels = "train-", map[string]string{v1alpha1.LabelProtect: "true"}
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: "train"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func annotated(value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, "team", "a")
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationRestoreFrom, value)
	}
}

func class(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }
}

func affine(terms ...corev1.NodeSelectorRequirement) func(*corev1.Pod) {
	return func(p *corev1.Pod) { placement.Require(&p.Spec, terms) }
}

var (
	arch = corev1.NodeSelectorRequirement{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"amd64"}}
	zone = corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpExists}
)

// admit has the pod reviewed and returns it as the API server would store it.
func admit(t *testing.T, h *Handler, user string, p *corev1.Pod) (*corev1.Pod, admission.Response) {
	t.Helper()
	raw, err := json.Marshal(p)
	require.NoError(t, err)
	req := admission.Request{}
	req.Operation, req.Namespace, req.Object.Raw, req.UserInfo.Username = admissionv1.Create, "work", raw, user
	webhook := admission.Webhook{Handler: h}
	response := webhook.Handle(t.Context(), req)
	require.True(t, response.Allowed)
	after := p.DeepCopy()
	if response.Patch != nil {
		patch, err := jsonpatch.DecodePatch(response.Patch)
		require.NoError(t, err)
		raw, err = patch.Apply(raw)
		require.NoError(t, err)
		after = &corev1.Pod{}
		require.NoError(t, json.Unmarshal(raw, after))
	}
	return after, response
}

func TestMutate(t *testing.T) {
	coming := func(c *v1alpha1.Checkpoint) {
		c.Status.Safety, c.Status.Generation = c.Status.Generation, nil
		c.Status.Safety.Final = false
	}
	for _, c := range []struct {
		name   string
		user   string
		point  *v1alpha1.Checkpoint
		have   *corev1.Pod
		want   *corev1.Pod
		warned bool
	}{
		{name: "not labelled", have: pod(func(p *corev1.Pod) { p.Labels = nil }), want: pod(func(p *corev1.Pod) { p.Labels = nil })},
		{name: "labelled otherwise", point: point(), have: pod(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelProtect] = "yes" }),
			want: pod(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelProtect] = "yes" })},
		{name: "nothing waits", have: pod(), want: pod(class("lifeboat"))},
		{name: "an empty class is none", have: pod(class("")), want: pod(class("lifeboat"))},
		{name: "another class stays, and nothing is restored under it", point: point(), have: pod(class("gvisor")), want: pod(class("gvisor"))},
		{name: "a generation waits", point: point(), have: pod(), want: pod(class("lifeboat"), affine(arch), func(p *corev1.Pod) {
			metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationRestoreFrom, "train/7")
		})},
		{name: "beside what the pod requires", point: point(), have: pod(affine(zone)), want: pod(class("lifeboat"), affine(zone), affine(arch), func(p *corev1.Pod) {
			metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationRestoreFrom, "train/7")
		})},
		{name: "one is coming: what its safety generation requires", point: point(coming), have: pod(), want: pod(class("lifeboat"), affine(arch))},
		{name: "one is coming, of a pod without a safety generation", point: point(coming, func(c *v1alpha1.Checkpoint) { c.Status.Safety.PodUID = "older" }),
			have: pod(), want: pod(class("lifeboat"))},
		{name: "a user's annotation goes", have: pod(annotated("other/1")), want: pod(class("lifeboat"), func(p *corev1.Pod) {
			metav1.SetMetaDataAnnotation(&p.ObjectMeta, "team", "a")
		}), warned: true},
		{name: "a user's annotation gives way", point: point(), have: pod(annotated("other/1")), want: pod(class("lifeboat"), annotated("train/7"), affine(arch)), warned: true},
		{name: "another controller of ours is a user", user: "system:serviceaccount:other:lifeboat-controller", have: pod(annotated("other/1")),
			want: pod(class("lifeboat"), func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, "team", "a") }), warned: true},
		{name: "the controller's stays where the cache lags", user: self, have: pod(annotated("train/7"), class("lifeboat")), want: pod(annotated("train/7"), class("lifeboat"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			lookup := &found{point: c.point}
			h := &Handler{Lookup: lookup, Self: self, Log: logr.Discard()}
			after, response := admit(t, h, c.user, c.have)
			require.Equal(t, c.want, after)
			require.Equal(t, c.warned, len(response.Warnings) > 0)
			if lookup.asked != nil {
				require.Equal(t, "work", lookup.asked.Namespace, "the object need not name it")
			}
			again, _ := admit(t, h, self, after)
			require.Equal(t, after, again, "a second review changes nothing")
		})
	}
}

// Fields of a newer Kubernetes than this program's are neither read nor lost.
func TestUnknownFieldsStay(t *testing.T) {
	h := &Handler{Lookup: &found{point: point()}, Log: logr.Discard()}
	req := admission.Request{}
	req.Operation = admissionv1.Create
	req.Object.Raw = []byte(`{"metadata":{"labels":{"lifeboat.dev/protect":"true"},"creationTimestamp":null},"spec":{"new":{"a":1},"containers":[{"name":"main","newer":true}]},"status":{}}`)
	response := (&admission.Webhook{Handler: h}).Handle(t.Context(), req)
	patch, err := jsonpatch.DecodePatch(response.Patch)
	require.NoError(t, err)
	after, err := patch.Apply(req.Object.Raw)
	require.NoError(t, err)
	require.JSONEq(t, `{"metadata":{"labels":{"lifeboat.dev/protect":"true"},"creationTimestamp":null,"annotations":{"lifeboat.dev/restore-from":"train/7"}},
		"spec":{"new":{"a":1},"containers":[{"name":"main","newer":true}],"runtimeClassName":"lifeboat","affinity":{"nodeAffinity":
		{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/arch","operator":"In","values":["amd64"]}]}]}}}},"status":{}}`, string(after))
}

type panics struct{ found }

func (*panics) Waiting(context.Context, *corev1.Pod) (*v1alpha1.Checkpoint, error) { panic("no") }

// hangs answers when its context ends.
type hangs struct{ found }

func (*hangs) Waiting(ctx context.Context, _ *corev1.Pod) (*v1alpha1.Checkpoint, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestNoFaultOfOursKeepsAPodAway(t *testing.T) {
	for _, c := range []struct {
		name   string
		lookup Lookup
		want   *corev1.Pod
	}{
		{"the lookup fails", &found{err: errors.New("no answer")}, pod(class("lifeboat"))},
		{"the lookup hangs", &hangs{}, pod(class("lifeboat"))},
		{"the lookup panics", &panics{}, pod()},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				after, _ := admit(t, &Handler{Lookup: c.lookup, Log: logr.Discard()}, "", pod())
				require.Equal(t, c.want, after)
			})
		})
	}
	t.Run("what comes is no pod", func(t *testing.T) {
		req := admission.Request{}
		req.Operation, req.Object.Raw = admissionv1.Create, []byte(`{"spec":3}`)
		response := (&Handler{Log: logr.Discard()}).Handle(t.Context(), req)
		require.True(t, response.Allowed)
		require.Empty(t, response.Patches)
	})
	for _, other := range []admissionv1.Operation{admissionv1.Update, admissionv1.Delete, admissionv1.Connect} {
		req := admission.Request{}
		req.Operation = other
		require.True(t, (&Handler{}).Handle(t.Context(), req).Allowed)
	}
}
