package controller

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Meter counts what the loss of nodes has cost. Nil counts nothing.
type Meter struct {
	lost *prometheus.CounterVec
	work prometheus.Histogram
}

// NewMeter returns a Meter; it is to be registered once.
func NewMeter() *Meter {
	return &Meter{
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_lost_pods_total",
			Help: "Pods whose node was gone without a final generation of theirs, by what became of them.",
		}, []string{"outcome"}),
		work: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "lifeboat_lost_work_seconds",
			Help:    "From the safety generation that such a pod goes on from to the last sign of life of its node.",
			Buckets: []float64{1, 5, 15, 60, 150, 300, 600, 1200, 3600, 4 * 3600, 24 * 3600},
		}),
	}
}

// Describe implements prometheus.Collector.
func (m *Meter) Describe(into chan<- *prometheus.Desc) {
	m.lost.Describe(into)
	m.work.Describe(into)
}

// Collect implements prometheus.Collector.
func (m *Meter) Collect(into chan<- prometheus.Metric) {
	m.lost.Collect(into)
	m.work.Collect(into)
}

func (m *Meter) resumed(lost time.Duration) {
	if m != nil {
		m.lost.WithLabelValues("resumed").Inc()
		m.work.Observe(lost.Seconds())
	}
}

func (m *Meter) beganAnew() {
	if m != nil {
		m.lost.WithLabelValues("anew").Inc()
	}
}
