package controller

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestSettings(t *testing.T) {
	for _, tc := range []struct {
		name, annotation, value string
		status                  metav1.ConditionStatus
		says                    string
	}{
		{name: "none"},
		{"another's", "example.com/interval", "x", "", ""},
		{"understood", v1alpha1.AnnotationInterval, "10s", metav1.ConditionTrue, ""},
		{"not understood", v1alpha1.AnnotationInterval, "10", metav1.ConditionFalse, "lifeboat.dev/interval"},
		{"misspelt", "lifeboat.dev/recoverypoint", "10s", metav1.ConditionFalse, "lifeboat.dev/recovery-point"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates(func(p *corev1.Pod) { p.Annotations = map[string]string{tc.annotation: tc.value} })
			w.settle()
			s := w.checkpoint().Status
			require.True(t, s.IsTrue(v1alpha1.ConditionProtectable), "a typo leaves nobody unprotected")
			c := s.Condition(v1alpha1.ConditionSettingsValid)
			if tc.status == "" {
				require.Nil(t, c)
				return
			}
			require.Equal(t, tc.status, c.Status)
			require.True(t, v1alpha1.KnownReason(c.Type, c.Reason))
			require.Contains(t, c.Message, tc.says)
			want := []string{v1alpha1.ReasonProtected}
			if tc.says != "" {
				want = append(want, v1alpha1.ReasonSettingInvalid)
			}
			require.ElementsMatch(t, want, w.reasons("Pod"))
			applied := w.applied
			w.settle()
			require.Equal(t, applied, w.applied, "a second look writes nothing")
		})
	}
}

func TestProtectableTakesOverWhatTheAgentFinds(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	text := obstacle.Text([]obstacle.Obstacle{{Reason: v1alpha1.ReasonMPTCP, Message: "multipath; mend it"}})
	w.agentSees(metav1.ConditionFalse, v1alpha1.ReasonMPTCP, text)
	w.settle()
	c := w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable)
	require.Equal(t, []string{"False", v1alpha1.ReasonMPTCP, text}, []string{string(c.Status), c.Reason, c.Message})
	w.agentSees(metav1.ConditionTrue, v1alpha1.ReasonNothingFound, "")
	w.settle()
	require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable))
	require.Equal(t, []string{v1alpha1.ReasonProtected}, w.reasons("Pod"), "the agent tells what it finds")
}

func TestTheVerdictGoesWithTheAgentsSay(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	judged := func() {
		w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
			s.Protection = &v1alpha1.Protection{PodUID: s.Pod.UID, Level: "Safe"}
			s.SetCondition(v1alpha1.ConditionCurrent, metav1.ConditionTrue, v1alpha1.ReasonWithinShare, "Safe")
		})
		w.settle()
	}
	judged()
	w.agentSees(metav1.ConditionFalse, v1alpha1.ReasonTraced, "Traced: by strace; end it")
	w.settle()
	require.NotNil(t, w.checkpoint().Status.Protection, "the agent has found it and judges on")
	w.setNode("a", func(n *corev1.Node) { delete(n.Labels, v1alpha1.LabelRuntimeReady) })
	w.settle()
	for range 2 {
		s := w.checkpoint().Status
		require.Nil(t, s.Protection, "nobody is there to say so")
		require.Nil(t, s.Condition(v1alpha1.ConditionCurrent))
		judged() // a write that was under way
	}
}

func TestObstaclesOfThePodBeforeAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.agentSees(metav1.ConditionFalse, v1alpha1.ReasonTraced, "Traced: by strace; end it")
	w.settle()
	w.interrupt("b") // by then strace had ended
	w.settle()
	s := w.checkpoint().Status
	require.Nil(t, s.Condition(v1alpha1.ConditionDumpable))
	require.True(t, s.IsTrue(v1alpha1.ConditionProtectable))
}

func (w *world) agentSees(status metav1.ConditionStatus, reason, message string) {
	w.agentWrites(func(s *v1alpha1.CheckpointStatus) {
		s.SetCondition(v1alpha1.ConditionDumpable, status, reason, message)
	})
}
