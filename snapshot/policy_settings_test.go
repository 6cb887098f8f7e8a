package snapshot

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestWhatCannotBeDumpedIsLeftAloneButTriedLast(t *testing.T) {
	stuck := with(workload("a", 1<<30), func(f *TargetFacts) {
		f.Priority = 1000
		f.Obstacles = []obstacle.Obstacle{{Reason: v1alpha1.ReasonIOUring, Message: "no"}}
	})
	other := workload("b", 1<<30)
	n := aws()
	alone := plans(t, n, []TargetFacts{other}).Targets[0]
	both := plans(t, n, []TargetFacts{stuck, other})
	require.Equal(t, ActionNone, both.Targets[0].Step.Action)
	require.Equal(t, Prediction{}, both.Targets[0].Prediction)
	require.Equal(t, alone, both.Targets[1], "its neighbours do not feel it")

	n.Deadline = n.Now.Add(n.Window)
	order := plans(t, n, []TargetFacts{stuck, other}).Evacuation.Order
	require.Len(t, order, 2)
	require.Equal(t, "b", order[0].ID)
	require.Equal(t, []any{"a", true}, []any{order[1].ID, order[1].Alone})
}

func TestMostFileBytes(t *testing.T) {
	p := DefaultPolicy()
	require.EqualValues(t, 62_500_000*113, p.MostFileBytes(2*time.Minute, 5*time.Second))
	require.Zero(t, p.MostFileBytes(5*time.Second, 5*time.Second))
}

func TestOwnersSetTheInterval(t *testing.T) {
	for _, c := range []struct {
		name        string
		asked, want time.Duration
	}{
		{"none", 0, DefaultPolicy().Interval},
		{"shorter", 10 * time.Second, 10 * time.Second},
		{"shorter than any", time.Second, DefaultPolicy().MinInterval},
		{"longer", 2 * time.Minute, 2 * time.Minute},
		{"longer than any", 20 * time.Minute, DefaultPolicy().MaxInterval},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := with(workload("a", 1<<28), func(f *TargetFacts) { f.Settings.Interval = c.asked })
			n := aws()
			n.Cores = 64
			got := plans(t, n, []TargetFacts{f}).Targets[0].Interval
			require.InEpsilon(t, c.want.Seconds(), got.Seconds(), 0.01)
		})
	}
}
