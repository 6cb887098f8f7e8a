package metrics

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

func target(uid, pod string) snapshot.Target {
	return snapshot.Target{Namespace: "team", Pod: pod, PodUID: uid}
}

// figuresOf are the values of all figures, of a histogram its count, by name and the labels in the order of their names.
func figuresOf(t *testing.T, m *Meter) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(m))
	families, err := registry.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				if label.GetName() != "namespace" {
					name += " " + label.GetValue()
				}
			}
			switch {
			case metric.GetHistogram() != nil:
				out[name] = float64(metric.GetHistogram().GetSampleCount())
			case metric.GetCounter() != nil:
				out[name] = metric.GetCounter().GetValue()
			default:
				out[name] = metric.GetGauge().GetValue()
			}
		}
	}
	return out
}

func TestMeter(t *testing.T) {
	m := New()
	a := target("u1", "a")
	frozen := time.Unix(1_700_000_000, 500_000_000)
	m.Stepped(a, snapshot.Stepped{Action: snapshot.ActionRound, ReadBytes: 100, ChangedBytes: 50, UploadedBytes: 20, CPU: time.Second})
	m.Stepped(a, snapshot.Stepped{Action: snapshot.ActionRound, ReadBytes: 100, CPU: time.Second})
	m.Stepped(a, snapshot.Stepped{Action: snapshot.ActionDump, ReadBytes: 70, ChangedBytes: 7, UploadedBytes: 3, CPU: 2 * time.Second, Still: time.Second, Frozen: frozen})
	m.Failed(a, snapshot.ActionDump, "DumpFailed")
	m.Judged(a, snapshot.Verdict{Level: snapshot.AtRisk, Reason: "Neighbours"}, snapshot.Prediction{Durable: 3 * time.Second, Uploaded: 99})
	want := map[string]float64{
		"lifeboat_rounds_total a":           2,
		"lifeboat_read_bytes_total a round": 200, "lifeboat_changed_bytes_total a round": 50,
		"lifeboat_uploaded_bytes_total a round": 20, "lifeboat_cpu_seconds_total a round": 2,
		"lifeboat_read_bytes_total a dump": 70, "lifeboat_changed_bytes_total a dump": 7,
		"lifeboat_uploaded_bytes_total a dump": 3, "lifeboat_cpu_seconds_total a dump": 2,
		"lifeboat_safety_dump_freeze_seconds a":         1,
		"lifeboat_failed_steps_total a DumpFailed dump": 1,
		"lifeboat_target_verdict a Neighbours AtRisk":   1,
		"lifeboat_target_predicted_seconds a":           3, "lifeboat_target_dirty_bytes a": 99,
		"lifeboat_target_recovery_point_timestamp_seconds a": 1_700_000_000.5,
		"lifeboat_evacuation_seconds":                        0, "lifeboat_evacuation_predicted_seconds": 0, "lifeboat_evacuation_window_bytes": 0,
	}
	require.Equal(t, want, figuresOf(t, m))

	m.Judged(a, snapshot.Verdict{Level: snapshot.Safe, Reason: "WithinShare"}, snapshot.Prediction{Durable: 2 * time.Second, Uploaded: 9})
	delete(want, "lifeboat_target_verdict a Neighbours AtRisk")
	want["lifeboat_target_verdict a WithinShare Safe"] = 1
	want["lifeboat_target_predicted_seconds a"], want["lifeboat_target_dirty_bytes a"] = 2, 9
	require.Equal(t, want, figuresOf(t, m), "one verdict holds")

	m.Evacuated(a, snapshot.Evacuated{Reason: v1alpha1.ReasonFinalGeneration, WindowBytes: 5, Took: time.Second})
	m.Evacuated(target("u2", "b"), snapshot.Evacuated{Reason: v1alpha1.ReasonDumpFailed})
	want["lifeboat_evacuations_total FinalGeneration"], want["lifeboat_evacuations_total DumpFailed"] = 1, 1
	want["lifeboat_evacuation_seconds"], want["lifeboat_evacuation_predicted_seconds"], want["lifeboat_evacuation_window_bytes"] = 1, 1, 1
	require.Equal(t, want, figuresOf(t, m))

	m.Judged(a, snapshot.Verdict{Level: snapshot.Unprotected, Reason: "IOUring"}, snapshot.Prediction{})
	delete(want, "lifeboat_target_verdict a WithinShare Safe")
	delete(want, "lifeboat_target_predicted_seconds a")
	delete(want, "lifeboat_target_dirty_bytes a")
	want["lifeboat_target_verdict a IOUring Unprotected"] = 1
	require.Equal(t, want, figuresOf(t, m), "nothing is predicted of what is not copied")
}

func TestFiguresGoWithTheTarget(t *testing.T) {
	all := func(m *Meter, of snapshot.Target) {
		m.Stepped(of, snapshot.Stepped{Action: snapshot.ActionRound})
		m.Stepped(of, snapshot.Stepped{Action: snapshot.ActionDump})
		m.Failed(of, snapshot.ActionRound, "ReadFailed")
		m.Judged(of, snapshot.Verdict{Reason: "WithinShare"}, snapshot.Prediction{Durable: time.Second})
	}
	m := New()
	all(m, target("u2", "b"))
	before := figuresOf(t, m)
	all(m, target("u1", "a"))
	require.Greater(t, len(figuresOf(t, m)), len(before))
	m.Gone(target("u1", "a"))
	require.Equal(t, before, figuresOf(t, m))

	m.Gone(target("u1", "b"))
	require.Equal(t, before, figuresOf(t, m), "another pod of the name goes on")
	m.Gone(target("u3", "never seen"))
	m.Gone(target("u2", "b"))
	require.Len(t, figuresOf(t, m), 3, "histograms of the node")
}
