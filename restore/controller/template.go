package controller

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// TemplateOf keeps of a bare pod what a replacement needs: labels, annotations, owners that are no controllers, and spec, defaults and the injected token
// volume included (admission accepts them a second time). Left out is what belonged to the one pod object: its node,
// scheduling gates that it has passed, ephemeral containers, and the annotation of an earlier restore.
func TemplateOf(pod *corev1.Pod) (*runtime.RawExtension, error) {
	t := corev1.PodTemplateSpec{Spec: *pod.Spec.DeepCopy()}
	t.Labels = pod.Labels
	for _, owner := range pod.OwnerReferences {
		owner.BlockOwnerDeletion = nil // wants rights of its own
		t.OwnerReferences = append(t.OwnerReferences, owner)
	}
	for k, v := range pod.Annotations {
		if k == v1alpha1.AnnotationRestoreFrom {
			continue
		}
		metav1.SetMetaDataAnnotation(&t.ObjectMeta, k, v)
	}
	t.Spec.NodeName = ""
	t.Spec.SchedulingGates = nil
	t.Spec.EphemeralContainers = nil
	raw, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode template of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return &runtime.RawExtension{Raw: raw}, nil
}

// ReplacementOf makes the pod that is to restore the generation: the template under the identity's name, with the
// RuntimeClass that restores and the generation's name as an annotation. Nil: one that begins anew.
func ReplacementOf(ck *v1alpha1.Checkpoint, gen *v1alpha1.GenerationReference) (*corev1.Pod, error) {
	if ck.Spec.Template == nil {
		return nil, fmt.Errorf("checkpoint %s/%s has no spec.template", ck.Namespace, ck.Name)
	}
	var t corev1.PodTemplateSpec
	if err := json.Unmarshal(ck.Spec.Template.Raw, &t); err != nil {
		return nil, fmt.Errorf("decode spec.template of checkpoint %s/%s: %w", ck.Namespace, ck.Name, err)
	}
	pod := &corev1.Pod{Spec: t.Spec}
	pod.Namespace, pod.Name = ck.Namespace, ck.Spec.Identity.Name
	pod.Labels, pod.Annotations, pod.OwnerReferences = t.Labels, t.Annotations, t.OwnerReferences
	if gen != nil {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, v1alpha1.AnnotationRestoreFrom, identity.RestoreFrom(ck.Name, gen))
	}
	class := v1alpha1.RuntimeClassName
	pod.Spec.RuntimeClassName = &class
	return pod, nil
}

// isReplacement tells whether the pod was created to restore that generation.
func isReplacement(pod *corev1.Pod, ck *v1alpha1.Checkpoint, gen *v1alpha1.GenerationReference) bool {
	return pod.Annotations[v1alpha1.AnnotationRestoreFrom] == identity.RestoreFrom(ck.Name, gen)
}

func referenceTo(pod *corev1.Pod) *v1alpha1.PodReference {
	return &v1alpha1.PodReference{Name: pod.Name, UID: pod.UID, NodeName: pod.Spec.NodeName}
}

func bears(s *v1alpha1.CheckpointStatus, uid types.UID) bool {
	return s.Pod != nil && s.Pod.UID == uid
}
