package bench

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

const (
	// jobMiB is what the job holds in memory, random bytes.
	jobMiB = 256
	// settled is the step from which a job is measured: what starting it costs the node is over.
	settled = 30
)

// jobPod is a pod of test/e2e/counter that prefers the source node.
func jobPod(name, image string, protect bool) *corev1.Pod {
	second, id := int64(1), int64(65534)
	here := corev1.NodeSelectorRequirement{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{rig.Source}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelProtect: strconv.FormatBool(protect)}},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &second,
			Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
					{Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{here}}},
				},
			}},
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id, FSGroup: &id},
			Containers: []corev1.Container{{
				Name: "counter", Image: image, Args: []string{"-mib", strconv.Itoa(jobMiB)},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
}

// startJob starts a job and waits until it has filled its memory and settled; where it is to be protected, until it is.
func (l *handoverLab) startJob(ctx context.Context, name string, protect bool) (*corev1.Pod, error) {
	pods := l.Kube.CoreV1().Pods(metav1.NamespaceDefault)
	if _, err := pods.Create(ctx, jobPod(name, l.image, protect), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create job: %w", err)
	}
	pod, err := l.Kube.WaitPod(ctx, metav1.NamespaceDefault, name, "ready", func(p *corev1.Pod) (bool, error) {
		return deploy.PodReady(p), nil
	})
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName != rig.Source {
		return nil, fmt.Errorf("job %s is on node %s, want %s", name, pod.Spec.NodeName, rig.Source)
	}
	err = deploy.Until(ctx, fmt.Sprintf("step %d of %s", settled, name), func(ctx context.Context) (bool, string, error) {
		said, err := pods.GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
		return err == nil && bytes.Count(said, []byte("\n")) >= settled, "fewer steps", nil
	})
	if err != nil || !protect {
		return pod, err
	}
	_, err = l.Kube.WaitCheckpoint(ctx, metav1.NamespaceDefault, name, "protectable", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.IsTrue(v1alpha1.ConditionProtectable)
	})
	return pod, err
}
