// Package admission changes labelled pods as they are created: they get the RuntimeClass that restores, and a pod that
// goes on from a waiting generation gets the generation's name and the node affinity that it requires.
//
// It decides nothing that must be right: what it says is a hint, which the agent checks when it claims, and a pod that
// it never saw is found by its identity all the same. So it never refuses a pod. Whatever goes wrong in here (a lookup, a
// panic) lets the pod through with what could be done; an answer that does not come lets it through as it is
// (failurePolicy Ignore). It writes nothing, so that dry runs are what they claim to be, and changes nothing that it has
// changed before.
package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/lifeboat-dev/lifeboat/restore/api/identity"
	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// lookupTime bounds the search for what a pod goes on from. It is shorter than the webhook's timeout, so that a pod gets its
// RuntimeClass whatever becomes of the search.
const lookupTime = time.Second

// internal are the annotations that say something on behalf of Lifeboat.
var internal = []string{v1alpha1.AnnotationRestoreFrom}

// Lookup finds what a new pod goes on from.
type Lookup interface {
	// Waiting returns the Checkpoint that the pod, which may have no name yet, is to continue: one whose generation waits,
	// or whose source is being evacuated. Nil where there is none.
	Waiting(ctx context.Context, pod *corev1.Pod) (*v1alpha1.Checkpoint, error)
	// Nodes returns the labels of all nodes.
	Nodes(ctx context.Context) ([]map[string]string, error)
}

// Handler answers the API server's reviews of pods.
type Handler struct {
	Lookup Lookup
	// Self is the user name of the controller, which alone may set internal annotations.
	Self string
	Log  logr.Logger
}

// Handle implements admission.Handler. It always allows.
func (h *Handler) Handle(ctx context.Context, req admission.Request) (response admission.Response) {
	defer func() {
		if fault := recover(); fault != nil {
			h.Log.Error(fmt.Errorf("panic: %v", fault), "pod let through as it is", "namespace", req.Namespace, "stack", string(debug.Stack()))
			response = admission.Allowed("")
		}
	}()
	if req.Operation != admissionv1.Create || req.SubResource != "" {
		return admission.Allowed("")
	}
	patches, warnings, err := h.review(ctx, req)
	if err != nil {
		h.Log.Error(err, "pod let through as it is", "namespace", req.Namespace)
		return admission.Allowed("")
	}
	response = admission.Allowed("").WithWarnings(warnings...)
	response.Patches = patches
	return response
}

// review compares what the pod becomes with what it is, both as this program knows pods: fields that it does not know are in
// neither, so that they stay as they are.
func (h *Handler) review(ctx context.Context, req admission.Request) ([]jsonpatch.Operation, []string, error) {
	pod := &corev1.Pod{}
	if err := json.Unmarshal(req.Object.Raw, pod); err != nil {
		return nil, nil, fmt.Errorf("decode pod: %w", err)
	}
	if pod.Labels[v1alpha1.LabelProtect] != "true" {
		return nil, nil, nil
	}
	before, err := json.Marshal(pod)
	if err != nil {
		return nil, nil, fmt.Errorf("encode pod: %w", err)
	}
	warnings := h.Mutate(ctx, pod, req.Namespace, req.UserInfo.Username)
	after, err := json.Marshal(pod)
	if err != nil {
		return nil, nil, fmt.Errorf("encode pod: %w", err)
	}
	patches, err := jsonpatch.CreatePatch(before, after)
	if err != nil {
		return nil, nil, fmt.Errorf("compare pods: %w", err)
	}
	return patches, warnings, nil
}

// Mutate changes the pod that user creates in the namespace, and returns what the user is to be told.
func (h *Handler) Mutate(ctx context.Context, pod *corev1.Pod, namespace, user string) (warnings []string) {
	trusted := user == h.Self
	if !trusted {
		warnings = strip(pod)
	}
	class := pod.Spec.RuntimeClassName
	if class == nil || *class == "" {
		own := v1alpha1.RuntimeClassName
		pod.Spec.RuntimeClassName = &own
	} else if *class != v1alpha1.RuntimeClassName {
		return warnings // Protectable says why that cannot be
	}
	if err := h.place(ctx, pod, namespace); err != nil {
		h.Log.Error(err, "pod not placed by what it goes on from", "namespace", namespace, "pod", pod.Name, "generate_name", pod.GenerateName)
	}
	return warnings
}

// strip removes internal annotations.
func strip(pod *corev1.Pod) (warnings []string) {
	for _, name := range internal {
		if _, found := pod.Annotations[name]; found {
			delete(pod.Annotations, name)
			warnings = append(warnings, fmt.Sprintf("annotation %s is set by Lifeboat alone and was removed", name))
		}
	}
	return warnings
}

// place gives the pod the name of the generation that it goes on from, and sends it to nodes that can restore it.
func (h *Handler) place(ctx context.Context, pod *corev1.Pod, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	known := pod.DeepCopy()
	known.Namespace = namespace
	checkpoint, err := h.Lookup.Waiting(ctx, known)
	if err != nil || checkpoint == nil {
		return err
	}
	if gen := checkpoint.Status.UnclaimedGeneration(); gen != nil {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, v1alpha1.AnnotationRestoreFrom, identity.RestoreFrom(checkpoint.Name, gen))
	}
	requirements := requirementsOf(&checkpoint.Status)
	if requirements == nil {
		return nil
	}
	nodes, err := h.Lookup.Nodes(ctx)
	if err != nil {
		return err
	}
	placement.Require(&pod.Spec, placement.Terms(requirements, nodes))
	return nil
}

// requirementsOf are those of the generation that waits, or of the one that is coming as far as its source is known to be
// like its safety generation's.
func requirementsOf(s *v1alpha1.CheckpointStatus) map[string]string {
	if gen := s.UnclaimedGeneration(); gen != nil {
		return gen.Requirements
	}
	if s.Safety != nil && s.Pod != nil && s.Safety.PodUID == s.Pod.UID {
		return s.Safety.Requirements
	}
	return nil
}
