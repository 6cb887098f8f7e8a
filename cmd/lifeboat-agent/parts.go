package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/node"
	"github.com/lifeboat-dev/lifeboat/restore/runtime/install"
	"github.com/lifeboat-dev/lifeboat/snapshot/kube"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/snapshot/metrics"
	"github.com/lifeboat-dev/lifeboat/store/meter"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

const (
	publishEvery    = 2 * time.Second
	publishAtMost   = time.Minute
	shutdownTimeout = 2 * time.Second
)

// sink turns what the watcher reports into work.
type sink struct {
	agent *agent
	log   zerolog.Logger
}

// Heard implements watcher.Sink.
func (s *sink) Heard(n watcher.Notice) {
	s.log.Warn().Str("source", n.Source).Str("action", string(n.Action)).Time("deadline", n.Deadline).Msg("interruption notice")
	s.agent.health.hears(n.Source)
	if n.Action.Evacuates() {
		s.agent.evacuator.Heard(n)
		s.agent.tainter.Want(true)
	}
}

// Quiet implements watcher.Sink.
func (s *sink) Quiet(source string) {
	s.log.Info().Str("source", source).Msg("no interruption notice")
	s.agent.health.hears(source)
	s.agent.evacuator.Quiet()
	s.agent.tainter.Want(false)
}

// Blind implements watcher.Sink.
func (s *sink) Blind(source string, reason error) {
	s.log.Error().Err(reason).Str("source", source).Msg("source of notices is blind")
	s.agent.health.blind(source)
}

// publisher makes the node known as one that can restore, once that has been tried.
type publisher struct {
	node   kube.Node
	offer  placement.Offer
	config *config
	log    zerolog.Logger
	// again wakes Run when what was published is gone.
	again chan struct{}
}

// Run publishes the node, and does so again when its object is a new one, until ctx ends.
func (p *publisher) Run(ctx context.Context) error {
	wait := publishEvery
	for {
		var after <-chan time.Time
		if err := p.publish(ctx); err == nil {
			p.log.Info().Msg("node published: it can restore")
			wait = publishEvery
		} else if ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("node not published yet")
			after = time.After(wait)
			wait = min(2*wait, publishAtMost)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.again:
		case <-after:
		}
	}
}

// renewed tells that the node's object is a new one.
func (p *publisher) renewed() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

func (p *publisher) publish(ctx context.Context) error {
	listed, err := p.node.HasHandler(ctx)
	if err != nil {
		return err
	}
	if !listed {
		return errors.New("the kubelet does not list runtime handler lifeboat yet")
	}
	if err := install.SelfTest(ctx, install.SelfTestOptions{HostRoot: p.config.hostRoot, Dir: p.config.lifeboatDir}); err != nil {
		return fmt.Errorf("self-test of checkpoint and restore: %w", err)
	}
	return p.node.Publish(ctx, p.offer.Labels())
}

// meters count what the agent does.
type meters struct {
	requests *meter.Meter
	targets  *metrics.Meter
	filters  *memory.Filters
	restores *node.Meter
}

func newMeters() meters {
	return meters{requests: meter.NewMeter(), targets: metrics.New(), filters: memory.NewFilters(), restores: node.NewMeter()}
}

func (m meters) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.targets, m.filters, m.restores}
}

// health serves /healthz and /metrics: of the sources of notices, and of what others count.
type health struct {
	server *http.Server
	since  *prometheus.GaugeVec
}

func newHealth(address string, others ...prometheus.Collector) *health {
	registry := prometheus.NewRegistry()
	since := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "lifeboat_watcher_blind_since_timestamp_seconds",
		Help: "When the source of notices was last heard, as Unix time, while it is blind; 0 while it hears.",
	}, []string{"source"})
	registry.MustRegister(append(others, since)...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return &health{server: &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: shutdownTimeout}, since: since}
}

func (h *health) hears(source string) { h.since.WithLabelValues(source).Set(0) }
func (h *health) blind(source string) { h.since.WithLabelValues(source).SetToCurrentTime() }

// Run serves until ctx ends.
func (h *health) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { h.server.Close() })
	defer stop()
	if err := h.server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health: %w", err)
	}
	return nil
}

// shared refuses a file:// bucket within this container's own root: it would look durable and end with the pod.
func shared(bucket, root string) error {
	folder, ok := strings.CutPrefix(bucket, "file://")
	if !ok {
		return nil
	}
	device := func(path string) (uint64, error) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return 0, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		return st.Dev, nil
	}
	own, err := device(root)
	if err != nil {
		return err
	}
	there, err := device(folder)
	if err != nil {
		return fmt.Errorf("%w; mount the folder that the nodes share there", err)
	}
	if own == there {
		return errors.New("the folder is not a mount, so it would end with this container; mount the folder that the nodes share there")
	}
	return nil
}
