package kube

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// containersOf finds the containers whose state is the pod's among those of the node, by name, and the names of those that do not run.
func containersOf(pod *corev1.Pod, containers []snapshot.Container) (found []snapshot.Container, missing []string) {
	for _, part := range obstacle.Containers(&pod.Spec) {
		i := slices.IndexFunc(containers, func(c snapshot.Container) bool {
			return c.PodUID == string(pod.UID) && c.Name == part.Name && c.Status != snapshot.StatusStopped && c.Status != snapshot.StatusCreated
		})
		if i < 0 {
			missing = append(missing, part.Name)
			continue
		}
		c := containers[i]
		// One with a policy of its own may be started again whatever the pod's is.
		c.NeverRestarts = part.RestartPolicy == nil && pod.Spec.RestartPolicy == corev1.RestartPolicyNever
		c.Image, c.ImageDigest = imageOf(pod, part.Name)
		found = append(found, c)
	}
	slices.SortFunc(found, func(a, b snapshot.Container) int { return cmp.Compare(a.Name, b.Name) })
	return found, missing
}

// imageOf is the image of a container as the pod names it and as the node resolved it.
func imageOf(pod *corev1.Pod, name string) (image, digest string) {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		if s.Name == name {
			return s.Image, s.ImageID
		}
	}
	return "", ""
}
