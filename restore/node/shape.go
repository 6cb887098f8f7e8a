package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// errContainers: the generation holds other containers than the pod has.
var errContainers = errors.New("the pod has other containers")

// shape is what of a pod's spec a restore of it goes by.
type shape struct {
	// containers are those that live as long as the pod, native sidecars among them, in ascending order; inits are the
	// other init containers, and volumes the emptyDir volumes.
	containers, sidecars, inits, volumes []string
	// never says that what has ended, but for sidecars, is not started again.
	never bool
}

func shapeOf(pod *corev1.Pod) shape {
	s := shape{never: pod.Spec.RestartPolicy == corev1.RestartPolicyNever}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			s.sidecars, s.containers = append(s.sidecars, c.Name), append(s.containers, c.Name)
		} else {
			s.inits = append(s.inits, c.Name)
		}
	}
	for i := range pod.Spec.Containers {
		s.containers = append(s.containers, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].EmptyDir != nil {
			s.volumes = append(s.volumes, pod.Spec.Volumes[i].Name)
		}
	}
	slices.Sort(s.containers)
	return s
}

// match returns the containers of the generation, which have to be the pod's. One that names none is of one container.
func (s shape) match(t task, gen *v1alpha1.GenerationReference) ([]string, error) {
	held := gen.Containers
	if len(held) == 0 {
		held = []string{t.Container}
	}
	if !slices.Equal(held, s.containers) {
		return nil, fmt.Errorf("%w: generation %d holds %s, and this pod has %s", errContainers, gen.Number,
			strings.Join(held, ", "), strings.Join(s.containers, ", "))
	}
	return held, nil
}
