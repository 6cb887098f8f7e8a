package obstacle

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Containers are those whose state is the pod's: native sidecars (init containers that are always restarted), and the ordinary
// ones. Other init containers have ended before those begin, and ephemeral ones are nobody's state.
func Containers(spec *corev1.PodSpec) []*corev1.Container {
	var all []*corev1.Container
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	for i := range spec.Containers {
		all = append(all, &spec.Containers[i])
	}
	return all
}

// policyOf is the policy by which a container is started again.
func policyOf(spec *corev1.PodSpec, c *corev1.Container) corev1.RestartPolicy {
	if c.RestartPolicy != nil {
		return corev1.RestartPolicy(*c.RestartPolicy)
	}
	if spec.RestartPolicy == "" {
		return corev1.RestartPolicyAlways
	}
	return spec.RestartPolicy
}

// ofStatus lists what the pod's containers have come to: some that have ended for good while others run, and some that the
// kubelet cannot get to run. Those that are on their way are none.
func ofStatus(pod *corev1.Pod) []Obstacle {
	var ended, waiting []string
	for _, c := range Containers(&pod.Spec) {
		state := stateOf(pod, c.Name)
		if w := state.Waiting; w != nil && stuck(w.Reason) {
			waiting = append(waiting, fmt.Sprintf("%s (%s)", c.Name, w.Reason))
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if end := stateOf(pod, c.Name).Terminated; end != nil && forGood(policyOf(&pod.Spec, c), end.ExitCode) {
			ended = append(ended, c.Name)
		}
	}
	var out []Obstacle
	if len(ended) > 0 && len(ended) < len(pod.Spec.Containers) { // else the pod ends
		out = append(out, Obstacle{Reason: v1alpha1.ReasonContainerEnded, Message: fmt.Sprintf("containers %s have ended while others of the pod "+
			"run: a replacement would run them a second time; make what ends first an init container, and what serves the others a native "+
			"sidecar (an init container with restartPolicy: Always)", strings.Join(ended, ", "))})
	}
	if len(waiting) > 0 {
		out = append(out, Obstacle{Reason: v1alpha1.ReasonContainerWaiting, Message: fmt.Sprintf("containers %s do not run: a pod is copied and "+
			"evacuated as a whole; see `kubectl describe pod %s`", strings.Join(waiting, ", "), pod.Name)})
	}
	return out
}

func stateOf(pod *corev1.Pod, container string) corev1.ContainerState {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		if s.Name == container {
			return s.State
		}
	}
	return corev1.ContainerState{}
}

// stuck tells whether a container that waits for that reason does so for longer than it takes to be created.
func stuck(reason string) bool {
	return reason != "" && reason != "ContainerCreating" && reason != "PodInitializing"
}

// forGood tells whether a container that ended with that code is not started again.
func forGood(policy corev1.RestartPolicy, code int32) bool {
	return policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure && code == 0
}

// ofOrder lists what makes the kubelet wait for one container before it creates the next. Restored containers of a pod stand
// still until the last of them is restored, so that would never come.
func ofOrder(spec *corev1.PodSpec) []Obstacle {
	all := Containers(spec)
	if len(all) < 2 {
		return nil
	}
	var why []string
	for _, c := range all[:len(all)-1] {
		if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
			why = append(why, fmt.Sprintf("the postStart hook of container %s", c.Name))
		}
	}
	sidecar := ""
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		switch always := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways; {
		case !always && sidecar != "":
			why = append(why, fmt.Sprintf("init container %s, which comes after sidecar %s", c.Name, sidecar))
		case always:
			sidecar = c.Name
			// To a TCP connection the kernel answers, whoever listens.
			if p := c.StartupProbe; p != nil && p.TCPSocket == nil {
				why = append(why, fmt.Sprintf("the startup probe of sidecar %s", c.Name))
			}
		}
	}
	if len(why) == 0 {
		return nil
	}
	return []Obstacle{{Reason: v1alpha1.ReasonStartOrder, Message: fmt.Sprintf("%s: containers of a pod are restored one after another, and none runs "+
		"before all are, so nobody answers; use a readiness probe or one of kind tcpSocket, put init containers first, and have "+
		"the program do what the hook does", strings.Join(why, ", "))}}
}
