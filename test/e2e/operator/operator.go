// Package operator is a small training operator, for tests of how Lifeboat gets on with owners that it does not know. A TrainingJob
// has workers, one pod a rank, told apart by labels as those of real training operators are. A pod that ends badly or is being deleted
// is replaced at once, by one of another name. The job has succeeded when each rank has.
package operator

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// Definition is the YAML of the custom resource.
const Definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: trainingjobs.e2e.lifeboat.dev}
spec:
  group: e2e.lifeboat.dev
  names: {kind: TrainingJob, listKind: TrainingJobList, plural: trainingjobs, singular: trainingjob}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// Labels of a worker: the job's name, and the worker's rank.
const (
	LabelJob  = "e2e.lifeboat.dev/job-name"
	LabelRank = "e2e.lifeboat.dev/replica-index"
)

// lookEvery is how often the operator looks at its job.
const lookEvery = 200 * time.Millisecond

var resource = schema.GroupVersionResource{Group: "e2e.lifeboat.dev", Version: "v1", Resource: "trainingjobs"}

// Status is what the operator has seen of its job.
type Status struct {
	// Succeeded counts pods that ended well, Failed those that ended by a fault of their own: neither a signal (an exit code above
	// 128) nor a disruption counts, as training operators have it.
	Succeeded, Failed int
}

// Operator sees to one TrainingJob.
type Operator struct {
	Pods kubernetes.Interface
	Jobs dynamic.Interface

	owner  metav1.OwnerReference
	job    metav1.ObjectMeta
	worker corev1.PodTemplateSpec
	ranks  int
	status Status
	failed map[string]bool
}

// Create makes a TrainingJob of that many workers.
func (o *Operator) Create(ctx context.Context, job metav1.ObjectMeta, workers int, worker corev1.PodTemplateSpec) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": resource.GroupVersion().String(), "kind": "TrainingJob",
		"metadata": map[string]any{"name": job.Name, "namespace": job.Namespace},
		"spec":     map[string]any{"workers": int64(workers)},
	}}
	made, err := o.Jobs.Resource(resource).Namespace(job.Namespace).Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create TrainingJob %s/%s: %w", job.Namespace, job.Name, err)
	}
	o.owner = *metav1.NewControllerRef(made, made.GroupVersionKind())
	o.job, o.worker, o.ranks, o.failed = job, worker, workers, map[string]bool{}
	return nil
}

// Delete deletes the job and, by garbage collection, its pods. It may be gone.
func (o *Operator) Delete(ctx context.Context) error {
	err := o.Jobs.Resource(resource).Namespace(o.job.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
		metav1.ListOptions{FieldSelector: "metadata.name=" + o.job.Name})
	if err != nil {
		return fmt.Errorf("delete TrainingJob %s/%s: %w", o.job.Namespace, o.job.Name, err)
	}
	return nil
}

// Run sees to the job until all ranks have succeeded or ctx ends, and returns what it has seen.
func (o *Operator) Run(ctx context.Context) (Status, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := o.look(ctx); err != nil {
			return o.status, err
		}
		if o.status.Succeeded == o.ranks {
			return o.status, nil
		}
		select {
		case <-ctx.Done():
			return o.status, ctx.Err()
		case <-tick.C:
		}
	}
}

// look counts the pods and makes those that are missing.
func (o *Operator) look(ctx context.Context) error {
	pods, err := o.Pods.CoreV1().Pods(o.job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelJob + "=" + o.job.Name})
	if err != nil {
		return fmt.Errorf("list workers of %s: %w", o.job.Name, err)
	}
	there := map[string]bool{}
	o.status.Succeeded = 0
	for i := range pods.Items {
		pod := &pods.Items[i]
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			o.status.Succeeded++
		case pod.Status.Phase == corev1.PodFailed:
			if !interrupted(pod) {
				o.failed[pod.Name] = true
			}
			continue
		case pod.DeletionTimestamp != nil:
			continue
		}
		there[pod.Labels[LabelRank]] = true
	}
	o.status.Failed = len(o.failed)
	for rank := range o.ranks {
		if there[strconv.Itoa(rank)] {
			continue
		}
		if err := o.start(ctx, rank); err != nil {
			return err
		}
	}
	return nil
}

func interrupted(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	for i := range pod.Status.ContainerStatuses {
		if end := pod.Status.ContainerStatuses[i].State.Terminated; end != nil && end.ExitCode > 128 {
			return true
		}
	}
	return false
}

func (o *Operator) start(ctx context.Context, rank int) error {
	pod := &corev1.Pod{ObjectMeta: *o.worker.ObjectMeta.DeepCopy(), Spec: *o.worker.Spec.DeepCopy()}
	pod.GenerateName = fmt.Sprintf("%s-worker-%d-", o.job.Name, rank)
	pod.OwnerReferences = []metav1.OwnerReference{o.owner}
	pod.Labels[LabelJob], pod.Labels[LabelRank] = o.job.Name, strconv.Itoa(rank)
	pod.Spec.Hostname = fmt.Sprintf("%s-worker-%d", o.job.Name, rank)
	pod.Spec.EnableServiceLinks = ptr.To(false)
	if _, err := o.Pods.CoreV1().Pods(o.job.Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create worker %d of %s: %w", rank, o.job.Name, err)
	}
	return nil
}
