// Package meter counts the requests to a bucket.
package meter

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lifeboat-dev/lifeboat/store"
)

// Meter adds up what the buckets that are made with it do. As a prometheus.Collector it has
// lifeboat_bucket_requests_total and lifeboat_bucket_request_seconds by op and outcome, and lifeboat_bucket_bytes_total
// by op: put sends bytes, get receives them. Outcomes are ok, not_found, precondition, canceled, temporary, error.
type Meter struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec

	mu    sync.Mutex
	total Snapshot
}

var _ prometheus.Collector = (*Meter)(nil)

// Snapshot is what has ended so far, by method of store.Bucket.
type Snapshot struct {
	Put, Get, Stat, List, Delete Count
}

// Count is of one method.
type Count struct {
	// Calls that have ended, and those of them that returned an error, ErrNotFound and ErrPrecondition included.
	Calls, Errors int64
	// Bytes that Put was given, or that were read from what Get returned.
	Bytes int64
	// Seconds from call to return, added up over calls that may overlap. Of Get and List until they were read or given
	// up, so the reader's own time is in them.
	Seconds float64
}

// NewMeter makes a Meter that has counted nothing.
func NewMeter() *Meter {
	labels := []string{"op", "outcome"}
	return &Meter{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_bucket_requests_total", Help: "Requests to the bucket that have ended.",
		}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_bucket_request_seconds", Help: "Duration of requests to the bucket, reading of the answer included.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2.5, 11), // 2 ms to 19 s
		}, labels),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_bucket_bytes_total", Help: "Bytes of objects sent to the bucket (put) and received from it (get).",
		}, labels[:1]),
	}
}

// Snapshot returns the counts so far.
func (m *Meter) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

// Describe implements prometheus.Collector.
func (m *Meter) Describe(descriptions chan<- *prometheus.Desc) {
	m.requests.Describe(descriptions)
	m.seconds.Describe(descriptions)
	m.bytes.Describe(descriptions)
}

// Collect implements prometheus.Collector.
func (m *Meter) Collect(metrics chan<- prometheus.Metric) {
	m.requests.Collect(metrics)
	m.seconds.Collect(metrics)
	m.bytes.Collect(metrics)
}

func (m *Meter) note(op string, began time.Time, bytes int64, err error) {
	seconds := time.Since(began).Seconds()
	m.requests.WithLabelValues(op, outcome(err)).Inc()
	m.seconds.WithLabelValues(op, outcome(err)).Observe(seconds)
	if op == opPut || op == opGet {
		m.bytes.WithLabelValues(op).Add(float64(bytes))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	count := m.total.of(op)
	count.Calls++
	count.Bytes += bytes
	count.Seconds += seconds
	if err != nil {
		count.Errors++
	}
}

const (
	opPut    = "put"
	opGet    = "get"
	opStat   = "stat"
	opList   = "list"
	opDelete = "delete"
)

func (s *Snapshot) of(op string) *Count {
	switch op {
	case opPut:
		return &s.Put
	case opGet:
		return &s.Get
	case opStat:
		return &s.Stat
	case opList:
		return &s.List
	}
	return &s.Delete
}

func outcome(err error) string {
	temporary := (*store.TemporaryError)(nil)
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, store.ErrNotFound):
		return "not_found"
	case errors.Is(err, store.ErrPrecondition):
		return "precondition"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	case errors.As(err, &temporary):
		return "temporary"
	}
	return "error"
}

// Bucket decorates a bucket.
type Bucket struct {
	bucket store.Bucket
	meter  *Meter
}

var _ store.Bucket = (*Bucket)(nil)

// New decorates bucket. Several buckets may share a meter.
func New(bucket store.Bucket, meter *Meter) *Bucket { return &Bucket{bucket: bucket, meter: meter} }

// Put implements store.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	began := time.Now()
	info, err := b.bucket.Put(ctx, key, body, cond)
	b.meter.note(opPut, began, int64(len(body)), err)
	return info, err
}

// Get implements store.Bucket. The request ends when the stream is closed.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	began := time.Now()
	body, err := b.bucket.Get(ctx, key, offset, length)
	if err != nil {
		b.meter.note(opGet, began, 0, err)
		return nil, err
	}
	return &stream{ReadCloser: body, ended: func(n int64, err error) { b.meter.note(opGet, began, n, err) }}, nil
}

// stream counts what is read of an object.
type stream struct {
	io.ReadCloser
	n      int64
	failed error
	once   sync.Once
	ended  func(n int64, err error)
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed = err
	}
	return n, err
}

// Close implements io.Closer.
func (s *stream) Close() error {
	err := s.ReadCloser.Close()
	s.once.Do(func() { s.ended(s.n, s.failed) })
	return err
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	began := time.Now()
	info, err := b.bucket.Stat(ctx, key)
	b.meter.note(opStat, began, 0, err)
	return info, err
}

// List implements store.Bucket. It counts as one call, though S3 answers by the thousand.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		began := time.Now()
		var failed error
		defer func() { b.meter.note(opList, began, 0, failed) }()
		for info, err := range b.bucket.List(ctx, prefix) {
			failed = err
			if !yield(info, err) {
				return
			}
		}
	}
}

// Delete implements store.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	began := time.Now()
	err := b.bucket.Delete(ctx, key)
	b.meter.note(opDelete, began, 0, err)
	return err
}
