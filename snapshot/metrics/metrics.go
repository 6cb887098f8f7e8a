// Package metrics has the figures of what an agent does with its targets, for Prometheus. docs/operations.md has the list.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// Meter implements snapshot.Meter and prometheus.Collector. What is told by target goes with the target.
type Meter struct {
	rounds, read, changed, uploaded, cpu, failed *prometheus.CounterVec
	freeze                                       *prometheus.HistogramVec
	verdict, predicted, dirty, recoveryPoint     *prometheus.GaugeVec

	evacuations                              *prometheus.CounterVec
	evacuation, evacuationPredicted, inBytes prometheus.Histogram

	mu sync.Mutex
	// known are the targets with figures, by their labels.
	known map[labels]*figures
}

var (
	_ snapshot.Meter       = (*Meter)(nil)
	_ prometheus.Collector = (*Meter)(nil)
)

// labels tell targets apart.
type labels struct{ namespace, pod string }

// figures are what is remembered of one target.
type figures struct {
	// uid is the pod's.
	uid string
	// verdict is the level and the reason.
	verdict   [2]string
	predicted time.Duration
}

func labelsOf(t snapshot.Target) labels { return labels{t.Namespace, t.Pod} }

func (l labels) values(more ...string) []string {
	return append([]string{l.namespace, l.pod}, more...)
}

// New makes a Meter that has counted nothing.
func New() *Meter {
	of := []string{"namespace", "pod"}
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append(of[:2:2], more...))
	}
	gauge := func(name, help string, more ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, append(of[:2:2], more...))
	}
	seconds := prometheus.ExponentialBuckets(0.05, 2, 12) // 50 ms to 102 s
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	return &Meter{
		known:    map[labels]*figures{},
		rounds:   counter("lifeboat_rounds_total", "Rounds of pre-dump that have ended well."),
		read:     counter("lifeboat_read_bytes_total", "Memory and files read by rounds and safety dumps.", "step"),
		changed:  counter("lifeboat_changed_bytes_total", "What of them had changed, not compressed.", "step"),
		uploaded: counter("lifeboat_uploaded_bytes_total", "What of them was uploaded, compressed.", "step"),
		cpu:      counter("lifeboat_cpu_seconds_total", "Processor time of rounds and safety dumps: reading, comparing, compressing; of safety dumps without CRIU.", "step"),
		failed:   counter("lifeboat_failed_steps_total", "Rounds and safety dumps that have failed.", "step", "reason"),
		freeze: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_safety_dump_freeze_seconds", Help: "How long safety dumps held their targets still.", Buckets: seconds,
		}, of),
		verdict:       gauge("lifeboat_target_verdict", "1 for the verdict on a target that holds, with its reason.", "verdict", "reason"),
		predicted:     gauge("lifeboat_target_predicted_seconds", "From a notice at the worst moment to durable, as predicted."),
		dirty:         gauge("lifeboat_target_dirty_bytes", "What such a notice would find unsent, compressed, as predicted."),
		recoveryPoint: gauge("lifeboat_target_recovery_point_timestamp_seconds", "When the newest safety dump was taken, as Unix time."),
		evacuations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_evacuations_total", Help: "Evacuations of targets that have ended, by reason.",
		}, []string{"reason"}),
		evacuation:          histogram("lifeboat_evacuation_seconds", "From the notice to durable.", seconds),
		evacuationPredicted: histogram("lifeboat_evacuation_predicted_seconds", "The same, as it was predicted before the notice.", seconds),
		inBytes:             histogram("lifeboat_evacuation_window_bytes", "Bytes of a target uploaded after the notice.", prometheus.ExponentialBuckets(1<<16, 4, 10)),
	}
}

// Stepped implements snapshot.Meter.
func (m *Meter) Stepped(t snapshot.Target, s snapshot.Stepped) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := labelsOf(t)
	m.of(t)
	step := l.values(string(s.Action))
	m.read.WithLabelValues(step...).Add(float64(s.ReadBytes))
	m.changed.WithLabelValues(step...).Add(float64(s.ChangedBytes))
	m.uploaded.WithLabelValues(step...).Add(float64(s.UploadedBytes))
	m.cpu.WithLabelValues(step...).Add(s.CPU.Seconds())
	if s.Action == snapshot.ActionRound {
		m.rounds.WithLabelValues(l.values()...).Inc()
		return
	}
	m.freeze.WithLabelValues(l.values()...).Observe(s.Still.Seconds())
	m.recoveryPoint.WithLabelValues(l.values()...).Set(float64(s.Frozen.UnixMilli()) / 1000)
}

// Failed implements snapshot.Meter.
func (m *Meter) Failed(t snapshot.Target, action snapshot.Action, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(t)
	m.failed.WithLabelValues(labelsOf(t).values(string(action), reason)...).Inc()
}

// Judged implements snapshot.Meter.
func (m *Meter) Judged(t snapshot.Target, v snapshot.Verdict, p snapshot.Prediction) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, f := labelsOf(t), m.of(t)
	if now := [2]string{v.Level.String(), v.Reason}; f.verdict != now {
		m.verdict.DeleteLabelValues(l.values(f.verdict[:]...)...)
		m.verdict.WithLabelValues(l.values(now[:]...)...).Set(1)
		f.verdict = now
	}
	f.predicted = p.Durable
	if p == (snapshot.Prediction{}) {
		m.predicted.DeleteLabelValues(l.values()...)
		m.dirty.DeleteLabelValues(l.values()...)
		return
	}
	m.predicted.WithLabelValues(l.values()...).Set(p.Durable.Seconds())
	m.dirty.WithLabelValues(l.values()...).Set(float64(p.Uploaded))
}

// Evacuated implements snapshot.Meter. Its figures are of the node: the target goes.
func (m *Meter) Evacuated(t snapshot.Target, e snapshot.Evacuated) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.evacuations.WithLabelValues(e.Reason).Inc()
	if e.Reason != v1alpha1.ReasonFinalGeneration || e.Took <= 0 {
		return
	}
	m.evacuation.Observe(e.Took.Seconds())
	m.inBytes.Observe(float64(e.WindowBytes))
	if f := m.known[labelsOf(t)]; f != nil && f.predicted > 0 {
		m.evacuationPredicted.Observe(f.predicted.Seconds())
	}
}

// Gone implements snapshot.Meter. A pod that another one of its name has followed takes nothing away from that.
func (m *Meter) Gone(t snapshot.Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := labelsOf(t)
	if f := m.known[l]; f == nil || f.uid != t.PodUID {
		return
	}
	delete(m.known, l)
	match := prometheus.Labels{"namespace": l.namespace, "pod": l.pod}
	for _, vector := range m.byTarget() {
		vector.DeletePartialMatch(match)
	}
}

// of is what is known of t, whose figures they are from now on.
func (m *Meter) of(t snapshot.Target) *figures {
	l := labelsOf(t)
	f := m.known[l]
	if f == nil {
		f = &figures{}
		m.known[l] = f
	}
	f.uid = t.PodUID
	return f
}

type vector interface {
	prometheus.Collector
	DeletePartialMatch(prometheus.Labels) int
}

func (m *Meter) byTarget() []vector {
	return []vector{
		m.rounds, m.read, m.changed, m.uploaded, m.cpu, m.failed, m.freeze, m.verdict, m.predicted, m.dirty, m.recoveryPoint,
	}
}

func (m *Meter) all() []prometheus.Collector {
	all := []prometheus.Collector{m.evacuations, m.evacuation, m.evacuationPredicted, m.inBytes}
	for _, v := range m.byTarget() {
		all = append(all, v)
	}
	return all
}

// Describe implements prometheus.Collector.
func (m *Meter) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (m *Meter) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(to)
	}
}
