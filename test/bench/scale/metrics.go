package scale

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// figures are what the controller's /metrics say.
type figures map[string]*dto.MetricFamily

func (c *controller) figures(ctx context.Context) (figures, error) {
	body, err := c.get(ctx, metricsURL)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("read metrics of the controller: %w", err)
	}
	return all, nil
}

// sum adds up a counter's or a gauge's values of all labels.
func (f figures) sum(name string) float64 {
	var sum float64
	for _, m := range f[name].GetMetric() {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// buckets adds up a histogram's cumulative counts of all labels, by their upper bounds.
func (f figures) buckets(name string) map[float64]float64 {
	out := map[float64]float64{}
	for _, m := range f[name].GetMetric() {
		h := m.GetHistogram()
		for _, b := range h.GetBucket() {
			out[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
		out[math.Inf(1)] = max(out[math.Inf(1)], 0)
	}
	return out
}

// quantile is that of what a histogram counted between before and after: within its bucket as if evenly spread, and the
// largest bound where it is beyond. NaN where nothing was counted.
func quantile(before, after map[float64]float64, q float64) float64 {
	var bounds []float64
	for bound := range after {
		if !math.IsInf(bound, 1) {
			bounds = append(bounds, bound)
		}
	}
	slices.Sort(bounds)
	if len(bounds) == 0 {
		return math.NaN()
	}
	count := func(bound float64) float64 { return after[bound] - before[bound] }
	all := max(count(math.Inf(1)), count(bounds[len(bounds)-1]))
	if all <= 0 {
		return math.NaN()
	}
	lower, below := 0.0, 0.0
	for _, bound := range bounds {
		if n := count(bound); n >= q*all {
			return lower + (bound-lower)*(q*all-below)/max(n-below, 1)
		}
		lower, below = bound, count(bound)
	}
	return bounds[len(bounds)-1]
}

// percentile is the smallest of values that is not less than the share q of them; NaN of none.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	values = slices.Sorted(slices.Values(values))
	at := int(math.Ceil(q*float64(len(values)))) - 1
	return values[max(0, at)]
}

// request is what of a line of the API server's audit log counts.
type request struct {
	Verb      string `json:"verb"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	At time.Time `json:"requestReceivedTimestamp"`
}

func (r request) name() string {
	name := r.Verb + " " + r.ObjectRef.Resource
	if r.ObjectRef.Subresource != "" {
		name += "/" + r.ObjectRef.Subresource
	}
	return name
}

// audited counts what the controller asked between from and to, by verb and resource. Its lease is not what a pod costs.
func audited(log io.Reader, from, to time.Time) (map[string]int, error) {
	counted := map[string]int{}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		if !r.At.Before(from) && r.At.Before(to) && r.ObjectRef.Resource != "" && r.ObjectRef.Resource != "leases" && !strings.HasSuffix(r.ObjectRef.Resource, "reviews") {
			counted[r.name()]++
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return counted, nil
}

func (l *lab) audited(from, to time.Time) (map[string]int, error) {
	f, err := os.Open(l.bed.AuditLog())
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	defer f.Close()
	return audited(f, from, to)
}
