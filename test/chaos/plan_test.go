package chaos

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDraw(t *testing.T) {
	faults, jobs, stages := map[FaultKind]int{}, map[JobKind]int{}, map[Stage]int{}
	for seed := range uint64(100) {
		p := Draw(seed)
		require.Equal(t, p, Draw(seed), "a seed gives one plan")
		require.NotEmpty(t, p.Jobs)
		pods := 0
		for _, j := range p.Jobs {
			jobs[j.Kind]++
			pods += j.Pods
		}
		require.LessOrEqual(t, pods, maxPods)
		require.NotEmpty(t, p.Faults)
		for _, f := range p.Faults {
			faults[f.Kind]++
			stages[f.Stage]++
			require.Contains(t, p.String(), f.String())
			if of, ok := stagesOf[f.Kind]; ok {
				require.True(t, of[0] <= f.Stage && f.Stage <= of[1], f)
			}
		}
	}
	for _, kind := range FaultKinds {
		require.GreaterOrEqual(t, faults[kind], 5, kind)
	}
	for _, kind := range JobKinds {
		require.GreaterOrEqual(t, jobs[kind], 10, kind)
	}
	require.Len(t, stages, len(stageNames))
}
