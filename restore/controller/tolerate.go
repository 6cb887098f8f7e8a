package controller

import (
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// killedExitCode is what a container shows that SIGKILL has ended, as the source of a final generation.
const killedExitCode = 137

// ignoreDisruptions is what a Job wants, in YAML.
const ignoreDisruptions = "podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}"

// tolerate says on the Checkpoint of a Job's pod whether the Job takes an interruption for a failure. What it looks at never
// changes in a Job, so one look is enough.
func (r *Reconciler) tolerate(ctx context.Context, o *observation) (verdict, error) {
	id := &o.checkpoint.Spec.Identity
	isJob := id.Kind == v1alpha1.KindJob || id.Kind == v1alpha1.KindIndexedJob
	if !isJob || o.pod == nil || o.checkpoint.Status.Condition(v1alpha1.ConditionTolerated) != nil {
		return goOn, nil
	}
	job, err := get(ctx, r.Live, types.NamespacedName{Namespace: o.Namespace, Name: id.Owner.Name}, &batchv1.Job{})
	if err != nil || job == nil || job.UID != id.Owner.UID {
		return goOn, err
	}
	status, reason, message := tolerance(job)
	err = r.patchStatus(ctx, o, func(s *v1alpha1.CheckpointStatus) bool {
		return s.SetCondition(v1alpha1.ConditionTolerated, status, reason, message)
	})
	if err == nil && status == metav1.ConditionFalse {
		o.tell(corev1.EventTypeWarning, reason, "Protect", message)
	}
	return goOn, err
}

// tolerance reads a Job's podFailurePolicy. Its first rule that matches a pod decides.
func tolerance(job *batchv1.Job) (status metav1.ConditionStatus, reason, message string) {
	counted := fmt.Sprintf("Job %s takes each interruption of this pod for a failure, of which it bears %d (backoffLimit)",
		job.Name, ptr.Deref(job.Spec.BackoffLimit, 6))
	mend := "; it cannot be changed in a Job that exists: the next one should have in its spec " + ignoreDisruptions
	if job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyNever {
		mend += ", for which its pods need restartPolicy: Never"
	}
	if policy := job.Spec.PodFailurePolicy; policy != nil {
		for i := range policy.Rules {
			rule := &policy.Rules[i]
			switch {
			case onDisruption(rule) && rule.Action == batchv1.PodFailurePolicyActionIgnore:
				return metav1.ConditionTrue, v1alpha1.ReasonDisruptionsIgnored, fmt.Sprintf("Job %s does not count interruptions", job.Name)
			case onDisruption(rule) || onKill(rule):
				return metav1.ConditionFalse, v1alpha1.ReasonDisruptionsCounted,
					fmt.Sprintf("%s: rule %d of its podFailurePolicy, %s, comes first%s", counted, i+1, rule.Action, mend)
			}
		}
	}
	return metav1.ConditionFalse, v1alpha1.ReasonDisruptionsCounted, counted + mend
}

func onDisruption(rule *batchv1.PodFailurePolicyRule) bool {
	return slices.ContainsFunc(rule.OnPodConditions, func(p batchv1.PodFailurePolicyOnPodConditionsPattern) bool {
		return p.Type == corev1.DisruptionTarget && p.Status != corev1.ConditionFalse && p.Status != corev1.ConditionUnknown
	})
}

func onKill(rule *batchv1.PodFailurePolicyRule) bool {
	codes := rule.OnExitCodes
	return codes != nil && slices.Contains(codes.Values, killedExitCode) == (codes.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn)
}
