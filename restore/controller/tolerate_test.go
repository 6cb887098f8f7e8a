package controller

import (
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestTolerance(t *testing.T) {
	const disruption = "{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}"
	for name, tc := range map[string]struct {
		spec    string
		ignores bool
		says    string
	}{
		"what the message asks for": {ignoreDisruptions, true, ""},
		"none":                      {"{}", false, "of which it bears 6 (backoffLimit); it cannot be changed"},
		"none, and restarts":        {"{backoffLimit: 0, template: {spec: {restartPolicy: OnFailure}}}", false, "need restartPolicy: Never"},
		"others first":              {"podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [1, 42]}}, " + disruption + "]}", true, ""},
		"killed pods fail the Job first": {
			"podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: NotIn, values: [1]}}, " + disruption + "]}",
			false, "rule 1 of its podFailurePolicy, FailJob, comes first",
		},
		"disruptions fail the Job": {"podFailurePolicy: {rules: [{action: FailJob, onPodConditions: [{type: DisruptionTarget}]}]}", false, "rule 1"},
		"another condition":        {"podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: Other}]}]}", false, "it cannot be changed"},
	} {
		t.Run(name, func(t *testing.T) {
			job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "train"}}
			require.NoError(t, yaml.UnmarshalStrict([]byte(tc.spec), &job.Spec))
			if job.Spec.Template.Spec.RestartPolicy == "" {
				job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
			}
			status, reason, message := tolerance(job)
			require.Equal(t, tc.ignores, status == metav1.ConditionTrue)
			require.True(t, v1alpha1.KnownReason(v1alpha1.ConditionTolerated, reason))
			require.Contains(t, message, tc.says)
			if !tc.ignores {
				require.Contains(t, message, ignoreDisruptions, "the exact text to add")
			}
		})
	}
}

func TestAJobThatCountsInterruptionsIsToldOfOnce(t *testing.T) {
	w := newWorld(t)
	_, of := w.job()
	w.userCreates(of("train-a"))
	w.settle()
	w.settle()
	require.False(t, w.checkpointNamed("train-a").Status.IsTrue(v1alpha1.ConditionTolerated))
	require.Equal(t, []string{v1alpha1.ReasonDisruptionsCounted, v1alpha1.ReasonProtected}, sorted(w.reasons("Pod")))
}
