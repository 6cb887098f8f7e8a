// Package obstacle says what in a pod's metadata, spec and status keeps it from being protected. What its running tasks add to that
// is known on its node alone (package snapshot/eligible), and has the same shape.
package obstacle

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Obstacle is one thing that keeps a pod from being checkpointed or restored.
type Obstacle struct {
	// Reason is one of the reasons of ConditionProtectable.
	Reason string
	// Message names the cause and the mend. It stays the same as long as the obstacle does.
	Message string
}

// Text is the message of a condition that names obstacles: a line for each, its reason first.
func Text(obstacles []Obstacle) string {
	lines := make([]string, len(obstacles))
	for i, o := range obstacles {
		lines[i] = o.Reason + ": " + strings.ReplaceAll(o.Message, "\n", " ")
	}
	return strings.Join(lines, "\n")
}

// Parse reads what Text has written. A line without a reason that a pod may have is not taken.
func Parse(text string) []Obstacle {
	var out []Obstacle
	for line := range strings.Lines(text) {
		reason, message, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if ok && v1alpha1.KnownReason(v1alpha1.ConditionProtectable, reason) {
			out = append(out, Obstacle{Reason: reason, Message: message})
		}
	}
	return out
}

// Without returns those of a whose reasons b lacks.
func Without(a, b []Obstacle) []Obstacle {
	var out []Obstacle
	for _, o := range a {
		if !slices.ContainsFunc(b, func(other Obstacle) bool { return other.Reason == o.Reason }) {
			out = append(out, o)
		}
	}
	return out
}

// OfPod lists everything in the pod's metadata, spec and status that stands in the way, the gravest first; empty for a pod
// that can be protected.
func OfPod(pod *corev1.Pod) []Obstacle {
	var out []Obstacle
	add := func(found bool, reason, format string, args ...any) {
		if found {
			out = append(out, Obstacle{Reason: reason, Message: fmt.Sprintf(format, args...)})
		}
	}
	spec := &pod.Spec
	if owner := metav1.GetControllerOf(pod); owner != nil && (owner.Kind == "DaemonSet" || owner.Kind == "Node") {
		add(true, v1alpha1.ReasonNodeBound, "owned by %s %s: such a pod belongs to its node and is not made anew elsewhere; "+
			"remove label %s", owner.Kind, owner.Name, v1alpha1.LabelProtect)
	}
	add(spec.HostPID, v1alpha1.ReasonHostPID, "hostPID: the process ids belong to the node; remove spec.hostPID")
	add(spec.HostIPC, v1alpha1.ReasonHostIPC, "hostIPC: shared memory belongs to the node; remove spec.hostIPC")
	add(spec.HostNetwork, v1alpha1.ReasonHostNetwork, "hostNetwork: sockets belong to the node; remove spec.hostNetwork")
	add(spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace, v1alpha1.ReasonSharedPID,
		"shareProcessNamespace: the processes of a container are not a tree of their own; remove spec.shareProcessNamespace")
	if names := hostPathVolumes(spec); len(names) > 0 {
		add(true, v1alpha1.ReasonHostPathVolume, "hostPath volumes %s: their files stay behind on the node; "+
			"use emptyDir or a PersistentVolume", strings.Join(names, ", "))
	}
	if names := devices(spec); len(names) > 0 {
		add(true, v1alpha1.ReasonDevices, "devices %s: their state cannot be copied; run this part without them",
			strings.Join(names, ", "))
	}
	if class := spec.RuntimeClassName; class != nil && *class != v1alpha1.RuntimeClassName {
		add(true, v1alpha1.ReasonRuntimeClass, "runtimeClassName %s: only runc can be checkpointed; "+
			"set runtimeClassName: %s", *class, v1alpha1.RuntimeClassName)
	}
	add(settings.Never(pod.Annotations), v1alpha1.ReasonRecoverNever, "annotation %s is never: nothing is stored, and the pod that "+
		"follows this one begins anew; write latest, or final-only, or remove it", v1alpha1.AnnotationRecover)
	if _, err := exclude.Parse(pod.Annotations[v1alpha1.AnnotationExclude]); err != nil {
		add(true, v1alpha1.ReasonExclusionInvalid, "annotation %s: %s", v1alpha1.AnnotationExclude,
			strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return slices.Concat(out, ofOrder(spec), ofStatus(pod))
}

func hostPathVolumes(spec *corev1.PodSpec) []string {
	var names []string
	for i := range spec.Volumes {
		if spec.Volumes[i].HostPath != nil {
			names = append(names, spec.Volumes[i].Name)
		}
	}
	return names
}

// devices names extended resources (those with a domain, such as nvidia.com/gpu), block volumes and resource claims.
func devices(spec *corev1.PodSpec) []string {
	var names []string
	for i := range spec.ResourceClaims {
		names = append(names, "resourceClaim "+spec.ResourceClaims[i].Name)
	}
	for _, c := range Containers(spec) {
		for name := range c.Resources.Limits { // extended resources must be in limits
			if strings.Contains(string(name), "/") {
				names = append(names, string(name))
			}
		}
		for _, d := range c.VolumeDevices {
			names = append(names, "volumeDevice "+d.Name)
		}
	}
	slices.Sort(names) // maps have no order, and a message that changes would be a new event
	return names
}
