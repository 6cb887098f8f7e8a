package chaos

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// namespace is where all jobs are.
const namespace = "default"

// label on pods names their run's job.
const label = "chaos"

// job is an owner with its pods, each of which runs the counter.
type job struct {
	JobPlan
	name string
	// ended says that its user deleted its bare pod where that ran again: its end, and that of its Checkpoint.
	ended bool
	// pods is how many processes there are to be; ReplacedTwice adds some.
	pods int
}

// alone are the jobs, in the words of package lease, of which there may be one process at a time. Kubernetes promises nothing of
// the kind for the pods of a Deployment.
func (j *job) alone() []string {
	switch j.Kind {
	case Bare, Job:
		return []string{j.name}
	case IndexedJob, StatefulSet:
		var names []string
		for i := range j.Pods {
			names = append(names, fmt.Sprintf("%s-%d", j.name, i))
		}
		return names
	}
	return nil
}

// template is of the counter's pods, which prefer node.
func (j *job) template(node, image, leases string) corev1.PodTemplateSpec {
	id := int64(65534)
	args := []string{"-mib", "16", "-churn", "16", "-every", "50ms", "-lease", leases, "-job", j.name}
	restart, env := corev1.RestartPolicyNever, []corev1.EnvVar(nil)
	switch j.Kind {
	case IndexedJob:
		args[len(args)-1] += "-$(JOB_COMPLETION_INDEX)" // which the Job's controller adds
	case StatefulSet:
		args[len(args)-1] = "$(POD)"
		env = []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	}
	if j.Kind == StatefulSet || j.Kind == Deployment {
		restart, args = corev1.RestartPolicyAlways, append(args, "-linger")
	}
	meta := metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelProtect: "true", label: j.name}}
	if j.Safety {
		meta.Annotations = map[string]string{v1alpha1.AnnotationRecoveryPoint: "5s"}
	}
	var tolerations []corev1.Toleration
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerations = append(tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(30)), // a busy machine's nodes are silent at times
		})
	}
	return corev1.PodTemplateSpec{ObjectMeta: meta, Spec: corev1.PodSpec{
		RestartPolicy: restart, TerminationGracePeriodSeconds: ptr.To(int64(1)), Tolerations: tolerations,
		// Without a webhook, which may be away, it is in the template.
		RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName),
		Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
				}},
			}},
		}},
		SecurityContext: &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id, FSGroup: &id},
		Containers: []corev1.Container{{
			Name: "counter", Image: image, Args: args, Env: env,
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
		}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
	}}
}

// create makes the owner, or the bare pod.
func (r *run) create(ctx context.Context, j *job) error {
	k, template := r.Kube, j.template(r.plan.Source, r.Image, r.server)
	meta := metav1.ObjectMeta{Name: j.name, Namespace: namespace, Labels: map[string]string{label: j.name}}
	selector, pods := &metav1.LabelSelector{MatchLabels: map[string]string{label: j.name}}, ptr.To(int32(j.Pods))
	var err error
	switch j.Kind {
	case Bare:
		pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Name = j.name
		_, err = k.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	case Job, IndexedJob:
		spec := batchv1.JobSpec{
			Parallelism: pods, Completions: pods, BackoffLimit: ptr.To(int32(10)), Template: template,
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:          batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			}}},
		}
		if j.Kind == IndexedJob {
			spec.CompletionMode, spec.BackoffLimit, spec.BackoffLimitPerIndex = ptr.To(batchv1.IndexedCompletion), nil, ptr.To(int32(10))
		}
		_, err = k.BatchV1().Jobs(namespace).Create(ctx, &batchv1.Job{ObjectMeta: meta, Spec: spec}, metav1.CreateOptions{})
	case StatefulSet:
		spec := appsv1.StatefulSetSpec{Replicas: pods, Selector: selector, Template: template, PodManagementPolicy: appsv1.ParallelPodManagement}
		_, err = k.AppsV1().StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta, Spec: spec}, metav1.CreateOptions{})
	case Deployment:
		spec := appsv1.DeploymentSpec{Replicas: pods, Selector: selector, Template: template}
		_, err = k.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: meta, Spec: spec}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("create %s %s: %w", j.Kind, j.name, err)
	}
	return nil
}

// podsOf lists the pods of a job.
func (r *run) podsOf(ctx context.Context, j *job) ([]corev1.Pod, error) {
	list, err := r.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: label + "=" + j.name})
	if err != nil {
		return nil, fmt.Errorf("list pods of %s: %w", j.name, err)
	}
	return list.Items, nil
}

// satisfied says whether the owner's work is done as it counts it, and what is left. An error is a Job that has failed.
func (r *run) satisfied(ctx context.Context, j *job) (bool, string, error) {
	switch j.Kind {
	case Bare:
		pod, err := r.Kube.CoreV1().Pods(namespace).Get(ctx, j.name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		return pod.Status.Phase == corev1.PodSucceeded, j.name + " is " + string(pod.Status.Phase), nil
	case Job, IndexedJob:
		o, err := r.Kube.BatchV1().Jobs(namespace).Get(ctx, j.name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		for _, c := range o.Status.Conditions {
			switch {
			case c.Status != corev1.ConditionTrue:
			case c.Type == batchv1.JobFailed:
				return false, "", fmt.Errorf("%s has failed: %s: %s", j.name, c.Reason, c.Message)
			case c.Type == batchv1.JobComplete && int(o.Status.Succeeded) != j.Pods:
				return false, "", fmt.Errorf("%s is complete with %d of %d pods", j.name, o.Status.Succeeded, j.Pods)
			case c.Type == batchv1.JobComplete:
				return true, "", nil
			}
		}
		return false, fmt.Sprintf("%s: %d succeeded of %d", j.name, o.Status.Succeeded, j.Pods), nil
	}
	return true, "", nil
}

// remove takes away whatever is left of the run's jobs, again and again: a bare pod that is deleted in a hand-over is made anew.
func (r *run) remove(ctx context.Context) error {
	now := []string{"-n", namespace, "delete", "--ignore-not-found", "--wait=false"}
	return r.until(ctx, time.Minute, "end of all jobs", func(ctx context.Context) (bool, string, error) {
		left := ""
		for _, j := range r.jobs {
			owners := append(now, "job/"+j.name, "deployment/"+j.name, "statefulset/"+j.name)
			if _, err := r.Kube.Kubectl(ctx, nil, owners...); err != nil {
				return false, err.Error(), nil
			}
			pods, err := r.podsOf(ctx, j)
			if err != nil {
				return false, err.Error(), nil
			}
			for i := range pods {
				left += " pod " + pods[i].Name
				err := r.Kube.CoreV1().Pods(namespace).Delete(ctx, pods[i].Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))})
				if err != nil && !apierrors.IsNotFound(err) {
					return false, err.Error(), nil
				}
			}
		}
		for _, c := range r.sight.checkpoints() {
			if _, err := r.Kube.Checkpoint(ctx, namespace, c.Name); apierrors.IsNotFound(err) {
				continue
			}
			left += " checkpoint " + c.Name
			if _, err := r.Kube.Kubectl(ctx, nil, append(now, "checkpoint/"+c.Name)...); err != nil {
				return false, err.Error(), nil
			}
		}
		return left == "", left, nil
	})
}
