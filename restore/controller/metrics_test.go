package controller

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func gather(t *testing.T, m *Meter) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(m))
	families, err := registry.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, x := range f.Metric {
			name := f.GetName()
			for _, l := range x.Label {
				name += " " + l.GetValue()
			}
			out[name] = x.GetCounter().GetValue() + x.GetHistogram().GetSampleSum()
		}
	}
	return out
}

// workLost is the sum of the histogram.
func workLost(t *testing.T, m *Meter) float64 { return gather(t, m)["lifeboat_lost_work_seconds"] }

func TestMeter(t *testing.T) {
	m := NewMeter()
	m.resumed(90e9)
	m.resumed(10e9)
	m.beganAnew()
	require.Equal(t, map[string]float64{
		"lifeboat_lost_pods_total resumed": 2, "lifeboat_lost_pods_total anew": 1, "lifeboat_lost_work_seconds": 100,
	}, gather(t, m))
	(*Meter)(nil).resumed(1)
	(*Meter)(nil).beganAnew()
}

func TestEveryMetricIsDocumented(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	for _, name := range []string{"lifeboat_lost_pods_total", "lifeboat_lost_work_seconds"} {
		require.Contains(t, string(raw), "| `"+name+"` |")
	}
}
