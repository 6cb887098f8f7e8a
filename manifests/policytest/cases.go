package policytest

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const mergePatch = types.MergePatchType

// policyCase is one write by the agent of node Env.own.
type policyCase struct {
	name string
	// denied is a part of the refusal; empty where the write must succeed.
	denied string
	do     func(*testing.T, *Env, client.Client) error
}

func nodeCases() []policyCase {
	patchNode := func(body string) func(*testing.T, *Env, client.Client) error {
		return func(t *testing.T, e *Env, a client.Client) error {
			return a.Patch(t.Context(), nodeNamed(e.own), client.RawPatch(mergePatch, []byte(body)))
		}
	}
	return []policyCase{
		{"labels its node", "", func(t *testing.T, e *Env, a client.Client) error {
			if err := e.label(t, a, e.own, "lifeboat.dev/policytest", "true"); err != nil {
				return err
			}
			return e.label(t, a, e.own, "lifeboat.dev/policytest", "")
		}},
		{"taints its node", "", func(t *testing.T, e *Env, a client.Client) error {
			return e.taint(t, a, e.own, "lifeboat.dev/policytest")
		}},
		{"labels another node", "may update that node alone", func(t *testing.T, e *Env, a client.Client) error {
			return e.label(t, a, e.other, "lifeboat.dev/policytest", "true")
		}},
		{"taints another node", "may update that node alone", func(t *testing.T, e *Env, a client.Client) error {
			return e.taint(t, a, e.other, "lifeboat.dev/policytest")
		}},
		{"adds a foreign label", "no other labels", func(t *testing.T, e *Env, a client.Client) error {
			return e.label(t, a, e.own, "topology.kubernetes.io/zone", "elsewhere")
		}},
		{"changes a foreign label", "no other labels", func(t *testing.T, e *Env, a client.Client) error {
			return e.label(t, a, e.own, corev1.LabelHostname, "elsewhere")
		}},
		{"removes a foreign label", "no other labels", func(t *testing.T, e *Env, a client.Client) error {
			return e.label(t, a, e.own, corev1.LabelHostname, "")
		}},
		{"adds a foreign taint", "no other taints", func(t *testing.T, e *Env, a client.Client) error {
			return e.taint(t, a, e.own, "node.kubernetes.io/out-of-service")
		}},
		{"cordons its node", "nothing of its node but", patchNode(`{"spec":{"unschedulable":true}}`)},
		{"annotates its node", "nothing of its node but", patchNode(`{"metadata":{"annotations":{"x":"y"}}}`)},
		{"patches its node's status", "cannot patch resource", func(t *testing.T, e *Env, a client.Client) error {
			return a.Status().Patch(t.Context(), nodeNamed(e.own), client.RawPatch(mergePatch, []byte(`{"status":{"phase":"Running"}}`)))
		}},
		{"deletes its node", "cannot delete resource", func(t *testing.T, e *Env, a client.Client) error {
			return a.Delete(t.Context(), nodeNamed(e.own))
		}},
		{"lists nodes", "", func(t *testing.T, e *Env, a client.Client) error {
			return a.List(t.Context(), &corev1.NodeList{})
		}},
		{"reads secrets", "cannot list resource", func(t *testing.T, e *Env, a client.Client) error {
			return a.List(t.Context(), &corev1.SecretList{})
		}},
		{"lists pods", "", func(t *testing.T, e *Env, a client.Client) error {
			return a.List(t.Context(), &corev1.PodList{})
		}},
		{"deletes a pod", "cannot delete resource", func(t *testing.T, e *Env, a client.Client) error {
			return a.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "any"}})
		}},
		{"evicts a pod", "cannot create resource", func(t *testing.T, e *Env, a client.Client) error {
			return a.SubResource("eviction").Create(t.Context(), e.pod(t), &policyv1.Eviction{})
		}},
	}
}

func checkpointCases() []policyCase {
	type change = func(*v1alpha1.CheckpointStatus)
	onOwn := func(c change) func(*testing.T, *Env, client.Client) error {
		return func(t *testing.T, e *Env, a client.Client) error { return e.write(t, a, e.own, c) }
	}
	onOther := func(c func(*Env, *v1alpha1.CheckpointStatus)) func(*testing.T, *Env, client.Client) error {
		return func(t *testing.T, e *Env, a client.Client) error {
			return e.write(t, a, e.other, func(s *v1alpha1.CheckpointStatus) { c(e, s) })
		}
	}
	generation := func(s *v1alpha1.CheckpointStatus) {
		s.Generation = &v1alpha1.GenerationReference{Number: 1, PodUID: "source", Final: true, Time: metav1.NowMicro()}
		s.SetCondition(v1alpha1.ConditionEvacuated, metav1.ConditionTrue, v1alpha1.ReasonFinalGeneration, "")
	}
	claim := func(s *v1alpha1.CheckpointStatus, node string) {
		s.Epoch = 1
		s.Claim = &v1alpha1.Claim{Generation: 1, Epoch: 1, NodeName: node, PodUID: "new", Time: metav1.NowMicro()}
		s.SetCondition(v1alpha1.ConditionClaimed, metav1.ConditionTrue, v1alpha1.ReasonClaimed, "")
	}
	return []policyCase{
		{"records a generation of its own pod", "", onOwn(generation)},
		{"records a generation of another node's pod", "may write for pods of that node", onOther(
			func(_ *Env, s *v1alpha1.CheckpointStatus) { generation(s) })},
		{"claims for its node", "", onOther(func(e *Env, s *v1alpha1.CheckpointStatus) { claim(s, e.own) })},
		{"claims for another node", "may claim for that node alone", func(t *testing.T, e *Env, a client.Client) error {
			return e.write(t, a, e.own, func(s *v1alpha1.CheckpointStatus) { claim(s, e.other) })
		}},
		{"claims and records a safety generation in one", "only the agent of the pod's own node", onOther(
			func(e *Env, s *v1alpha1.CheckpointStatus) {
				claim(s, e.own)
				s.Safety = &v1alpha1.GenerationReference{Number: 9, PodUID: "source", NodeName: e.other, Time: metav1.NowMicro()}
			})},
		{"says that its pod was evicted", "are the controller's", onOwn(func(s *v1alpha1.CheckpointStatus) {
			s.Evicted = &v1alpha1.Evicted{PodUID: "source", Time: metav1.NowMicro()}
		})},
		{"claims and records a generation in one", "only the agent of the pod's own node", onOther(
			func(e *Env, s *v1alpha1.CheckpointStatus) { claim(s, e.own); generation(s) })},
		{"moves the bearer", "are the controller's", onOwn(
			func(s *v1alpha1.CheckpointStatus) { s.Pod.UID = "mine" })},
		{"says that its node is silent", "are the controller's", onOwn(func(s *v1alpha1.CheckpointStatus) {
			s.Silence = &v1alpha1.Silence{PodUID: "source", NodeName: "any", Since: metav1.Now(), Alive: metav1.NowMicro()}
		})},
		{"releases", "are the controller's", onOwn(func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionReleased, metav1.ConditionTrue, v1alpha1.ReasonSourceGone, "")
		})},
		{"says tolerated", "are the controller's", onOwn(func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionTolerated, metav1.ConditionTrue, v1alpha1.ReasonDisruptionsIgnored, "")
		})},
		{"finds what it may claim", "", func(t *testing.T, e *Env, a client.Client) error {
			return a.List(t.Context(), &v1alpha1.CheckpointList{}, client.InNamespace(e.namespace),
				client.MatchingLabels{v1alpha1.LabelIdentity: "key"}, client.MatchingFields{"status.pod.uid": "source"})
		}},
		{"judges the owner's settings", "are the controller's", onOwn(func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionSettingsValid, metav1.ConditionFalse, v1alpha1.ReasonSettingInvalid, "")
		})},
		{"says that its pod cannot be dumped", "", onOwn(func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionDumpable, metav1.ConditionFalse, v1alpha1.ReasonIOUring, "")
		})},
		{"says protectable", "are the controller's", onOwn(func(s *v1alpha1.CheckpointStatus) {
			s.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionFalse, v1alpha1.ReasonHostPID, "")
		})},
		{"changes a spec", "cannot patch resource", func(t *testing.T, e *Env, a client.Client) error {
			return a.Patch(t.Context(), e.checkpoint(t, e.own), client.RawPatch(mergePatch, []byte(`{"spec":{"template":{}}}`)))
		}},
		{"deletes a checkpoint", "cannot delete resource", func(t *testing.T, e *Env, a client.Client) error {
			return a.Delete(t.Context(), e.checkpoint(t, e.own))
		}},
	}
}

// broadCases run with every right on nodes, pods and Checkpoints: only the policies stand in the way.
func broadCases() []policyCase {
	return []policyCase{
		{"deletes its node", "neither create nor delete", func(t *testing.T, e *Env, a client.Client) error {
			return a.Delete(t.Context(), nodeNamed(e.own))
		}},
		{"deletes another node", "neither create nor delete", func(t *testing.T, e *Env, a client.Client) error {
			return a.Delete(t.Context(), nodeNamed(e.other))
		}},
		{"creates a node", "neither create nor delete", func(t *testing.T, _ *Env, a client.Client) error {
			return a.Create(t.Context(), nodeNamed("policytest"))
		}},
		{"deletes a pod", "writes no pods", func(t *testing.T, e *Env, a client.Client) error {
			return a.Delete(t.Context(), e.pod(t))
		}},
		{"evicts a pod", "writes no pods", func(t *testing.T, e *Env, a client.Client) error {
			return a.SubResource("eviction").Create(t.Context(), e.pod(t), &policyv1.Eviction{})
		}},
		{"changes a spec", "never the object", func(t *testing.T, e *Env, a client.Client) error {
			return a.Patch(t.Context(), e.checkpoint(t, e.own), client.RawPatch(mergePatch, []byte(`{"spec":{"template":{}}}`)))
		}},
		{"deletes a checkpoint", "never the object", func(t *testing.T, e *Env, a client.Client) error {
			return a.Delete(t.Context(), e.checkpoint(t, e.own))
		}},
		{"creates a checkpoint", "never the object", func(t *testing.T, e *Env, a client.Client) error {
			return a.Create(t.Context(), &v1alpha1.Checkpoint{
				ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: "mine"},
				Spec:       v1alpha1.CheckpointSpec{Identity: v1alpha1.Identity{Kind: "Pod", Name: "mine"}},
			})
		}},
	}
}
