package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// mostAddresses is how many the Checkpoint takes.
const mostAddresses = 16

// addressesOf returns the pod's addresses, the newest first, and whether its owner wants them kept. A pod that goes on from a
// generation has kept those of the pods before it, and sockets may still be bound to them.
func addressesOf(pod *corev1.Pod, status *v1alpha1.CheckpointStatus) (addresses []string, kept bool) {
	for _, ip := range pod.Status.PodIPs {
		addresses = append(addresses, ip.IP)
	}
	asked, _ := settings.Parse(pod.Annotations)
	gen, claim := status.Generation, status.Claim
	if asked.KeepPodIPAlias && gen != nil && claim != nil && claim.PodUID == pod.UID && claim.Generation == gen.Number {
		if claim.Fallback != nil {
			gen = &claim.Fallback.Generation
		}
		for _, ip := range gen.PodIPs {
			if !slices.Contains(addresses, ip) {
				addresses = append(addresses, ip)
			}
		}
	}
	return addresses[:min(len(addresses), mostAddresses)], asked.KeepPodIPAlias
}
