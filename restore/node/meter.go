package node

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lifeboat-dev/lifeboat/store/cache"
)

// Outcomes of a restore, for the metric.
const (
	outcomeRestored     = "restored"
	outcomeFallback     = "restored_older"
	outcomeStartedClean = "started_clean"
	outcomeRefused      = "refused"
)

// Meter is a prometheus.Collector of what restores on this node come to. docs/operations.md has the list. A nil one counts
// nothing.
type Meter struct {
	restores, failures, prefetches *prometheus.CounterVec
	fetched                        prometheus.Counter
	seconds, lost                  prometheus.Histogram
	under                          prometheus.Gauge
	kept, moved                    *prometheus.Desc

	packs atomic.Pointer[cache.Bucket]
}

var _ prometheus.Collector = (*Meter)(nil)

// NewMeter returns a Meter that has counted nothing.
func NewMeter() *Meter {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return &Meter{
		restores:   counter("lifeboat_restores_total", "Restores that have ended, by outcome.", "outcome"),
		failures:   counter("lifeboat_restore_failures_total", "Attempts that did not bring a pod back, by reason.", "reason"),
		prefetches: counter("lifeboat_prefetch_failures_total", "Prefetches that were cut short, by reason.", "reason"),
		fetched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lifeboat_restore_fetched_bytes_total", Help: "Files and images written for restores, not compressed.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lifeboat_restore_fetch_seconds", Help: "Duration of fetches for restores that went well.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 12), // 50 ms to 102 s
		}),
		lost: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lifeboat_restore_lost_seconds", Help: "Work done again where an older generation was restored.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 14), // 1 s to 2 h
		}),
		under: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lifeboat_restores_fetching", Help: "Restores that are being fetched.",
		}),
		kept:  prometheus.NewDesc("lifeboat_prefetch_bytes", "What prefetched packs take on this node's disk.", nil, nil),
		moved: prometheus.NewDesc("lifeboat_prefetched_bytes_total", "Packs prefetched (brought), and read from there (read).", []string{"step"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *Meter) Describe(descriptions chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(descriptions)
	}
	descriptions <- m.kept
	descriptions <- m.moved
}

// Collect implements prometheus.Collector.
func (m *Meter) Collect(metrics chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(metrics)
	}
	var stats cache.Stats
	if packs := m.packs.Load(); packs != nil {
		stats = packs.Stats()
	}
	metrics <- prometheus.MustNewConstMetric(m.kept, prometheus.GaugeValue, float64(stats.Bytes))
	metrics <- prometheus.MustNewConstMetric(m.moved, prometheus.CounterValue, float64(stats.Brought), "brought")
	metrics <- prometheus.MustNewConstMetric(m.moved, prometheus.CounterValue, float64(stats.Read), "read")
}

func (m *Meter) all() []prometheus.Collector {
	return []prometheus.Collector{m.restores, m.failures, m.prefetches, m.fetched, m.seconds, m.lost, m.under}
}

func (m *Meter) ended(outcome string)     { m.restores.WithLabelValues(outcome).Inc() }
func (m *Meter) failed(reason string)     { m.failures.WithLabelValues(reason).Inc() }
func (m *Meter) notPrefetched(err error)  { m.prefetches.WithLabelValues(notPrefetched(err)).Inc() }
func (m *Meter) again(lost time.Duration) { m.lost.Observe(lost.Seconds()) }

func (m *Meter) fetchedIn(took time.Duration, bytes int64) {
	m.seconds.Observe(took.Seconds())
	m.fetched.Add(float64(bytes))
}
