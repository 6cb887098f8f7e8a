package controller

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestStageOf(t *testing.T) {
	at := metav1.NowMicro()
	type status = v1alpha1.CheckpointStatus
	set := func(kind string, value metav1.ConditionStatus, reason string) func(*status) {
		return func(s *status) { s.SetCondition(kind, value, reason, "") }
	}
	protected := func(s *status) { s.Pod = &v1alpha1.PodReference{UID: "source"} }
	noticed := func(s *status) { s.Timeline = &v1alpha1.Timeline{PodUID: "source", Notice: &at} }
	durable := func(s *status) {
		s.Generation = &v1alpha1.GenerationReference{Number: 1, PodUID: "source", Final: true}
		set(v1alpha1.ConditionDurable, "True", v1alpha1.ReasonCommitted)(s)
	}
	evacuated := set(v1alpha1.ConditionEvacuated, "True", v1alpha1.ReasonFinalGeneration)
	released := func(s *status) {
		s.Timeline.Released = &at
		set(v1alpha1.ConditionReleased, "True", v1alpha1.ReasonSourceGone)(s)
	}
	claimed := func(s *status) {
		s.Claim = &v1alpha1.Claim{Generation: 1, PodUID: "new"}
		set(v1alpha1.ConditionRestored, "Unknown", v1alpha1.ReasonRestoreImpending)(s)
	}
	resumed := set(v1alpha1.ConditionRestored, "True", v1alpha1.ReasonRestored)
	followed := func(s *status) { s.Pod.UID = "new" }
	again := func(s *status) { s.Timeline = &v1alpha1.Timeline{PodUID: "new", Notice: &at} }
	toClaim := []func(*status){protected, noticed, durable, evacuated, released, claimed}

	for name, tc := range map[string]struct {
		steps []func(*status)
		want  Stage
	}{
		"nothing":                   {nil, StageNone},
		"protected":                 {[]func(*status){protected}, StageNone},
		"notice":                    {[]func(*status){protected, noticed}, StageEvacuating},
		"generation not evacuated":  {[]func(*status){protected, noticed, durable}, StageEvacuating},
		"dump failed":               {[]func(*status){protected, noticed, set(v1alpha1.ConditionEvacuated, "False", v1alpha1.ReasonDumpFailed)}, StageFailed},
		"final":                     {toClaim[:4], StageFinal},
		"released":                  {toClaim[:5], StageWaiting},
		"claimed":                   {toClaim, StageClaimed},
		"restore failed, tried on":  {append(toClaim[:6:6], set(v1alpha1.ConditionRestored, "False", v1alpha1.ReasonRestoreFailed)), StageClaimed},
		"started clean":             {append(toClaim[:6:6], set(v1alpha1.ConditionRestored, "False", v1alpha1.ReasonStartedClean)), StageNone},
		"restored":                  {append(toClaim[:6:6], resumed), StageNone},
		"restored and followed":     {append(toClaim[:6:6], resumed, followed), StageNone},
		"interrupted a second time": {append(toClaim[:6:6], resumed, followed, again), StageEvacuating},
		"ended before the notice":   {[]func(*status){protected, set(v1alpha1.ConditionProtectable, "False", v1alpha1.ReasonPodEnded), noticed, durable, evacuated}, StageNone},
		"notice for an earlier pod": {[]func(*status){protected, noticed, followed}, StageNone},
	} {
		t.Run(name, func(t *testing.T) {
			var s status
			for _, step := range tc.steps {
				step(&s)
			}
			require.Equal(t, tc.want, StageOf(&s))
		})
	}
}
