package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// mounts tells whether the pod has volumes that outlive it, which its node has to give up before another one may have them: all
// but those that are made for the pod, or are the node's own.
func mounts(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil &&
			v.HostPath == nil && v.Image == nil && v.CSI == nil && v.GitRepo == nil
	})
}

// awaitVolumes evicts a source that has such volumes, and waits for its kubelet to confirm that, which unmounts them first, or
// for its node to be gone for certain. With the pod object removed by force, Kubernetes would in the end detach the volumes from
// a node that may still write to them: what the frozen process wrote before is flushed as they are unmounted.
func (r *Reconciler) awaitVolumes(ctx context.Context, o *observation, begun time.Time) (verdict, error) {
	if begun.IsZero() {
		return r.beginEviction(ctx, o)
	}
	node := o.checkpoint.Status.Pod.NodeName
	if r.Now().Sub(begun) >= forceAfter {
		err := r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
			return r.setReleased(s, metav1.ConditionFalse, v1alpha1.ReasonEvicting, fmt.Sprintf(
				"the source pod has volumes, which node %s has to unmount: waiting for its kubelet, or for the node to be deleted or "+
					"tainted %s", node, corev1.TaintNodeOutOfService))
		})
		if err != nil {
			return done, err
		}
	}
	return lookAgain(forceAfter), r.evict(ctx, o.pod)
}
