package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/cmd/internal/environment"
	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/restore/node"
	"github.com/lifeboat-dev/lifeboat/restore/runtime/install"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/snapshot/eligible"
	"github.com/lifeboat-dev/lifeboat/snapshot/files"
	"github.com/lifeboat-dev/lifeboat/snapshot/kube"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/watcher"
	"github.com/lifeboat-dev/lifeboat/watcher/aws"
)

func newLogger(w io.Writer) zerolog.Logger {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	zerolog.DurationFieldUnit = time.Second
	return zerolog.New(w).With().Timestamp().Logger()
}

func newRunCommand(lookup func(string) (string, bool), log zerolog.Logger) *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Watch for notices, evacuate protected pods, prepare restores",
		Long:  "Every flag can also be given as a variable: --node-name as LIFEBOAT_NODE_NAME.",
		Args:  cobra.NoArgs,
	}
	c.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := environment.Fill(cmd.Flags(), lookup); err != nil {
			return err
		}
		if err := c.Validate(); err != nil {
			return err
		}
		a, err := newAgent(cmd.Context(), &c, log)
		if err != nil {
			return err
		}
		return a.run(cmd.Context())
	}
	return cmd
}

// agent is the wired program.
type agent struct {
	config    *config
	log       zerolog.Logger
	dumps     engine
	watcher   *watcher.Watcher
	evacuator *snapshot.Evacuator
	lookout   *eligible.Lookout
	tainter   *kube.Tainter
	own       kube.Node
	preparer  *node.Preparer
	publisher *publisher
	health    *health
}

func newAgent(ctx context.Context, c *config, log zerolog.Logger) (*agent, error) {
	kubeConfig, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	// The default of 5 requests a second would eat up the window of a node with many pods.
	kubeConfig.QPS, kubeConfig.Burst = 50, 100
	client, err := kubernetes.NewForConfig(kubeConfig)
	if err != nil {
		return nil, fmt.Errorf("make client of the API server: %w", err)
	}
	points, err := checkpoints.New(kubeConfig)
	if err != nil {
		return nil, err
	}
	meters := newMeters()
	buckets, err := openBuckets(ctx, c, meters.requests)
	if err != nil {
		return nil, err
	}
	runc, err := newRunc(c)
	if err != nil {
		return nil, err
	}
	dumps, err := newEngine(ctx, c, log, runc, meters.filters)
	if err != nil {
		return nil, err
	}
	offer, err := offerOf(ctx, c)
	if err != nil {
		return nil, err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	events := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "lifeboat-agent", Host: c.nodeName})

	own := kube.Node{Name: c.nodeName, Client: client}
	a := &agent{config: c, log: log, own: own, dumps: dumps, health: newHealth(c.healthAddress, meters.collectors()...), tainter: kube.NewTainter(own, log)}
	journal := &kube.Journal{Node: own, Tainter: a.tainter, Checkpoints: points, Runtime: runc, Events: events, Requirements: offer.Requirements()}
	options := snapshotOptions(c, log, dumps, journal, buckets.generations, buckets.patient)
	options.Meter = meters.targets
	a.evacuator = snapshot.New(options)
	a.lookout = newLookout(c, log, journal)
	packs, restores := buckets.ahead(c, log)
	a.preparer = node.New(node.Options{
		NodeName: c.nodeName, Cluster: c.cluster, Store: restores, Packs: packs, FetchesAtOnce: c.restoresAtOnce, Meter: meters.restores, Client: client, Checkpoints: points, Events: events,
		HostRoot: c.hostRoot, WorkDir: filepath.Join(c.stateDir, "restore"), CRIUConfig: runc.ConfigFile,
		Finishing: a.evacuator.Finishing,
		Running: func(ctx context.Context, id string) (bool, error) {
			status, err := runc.Status(ctx, id)
			return status == snapshot.StatusRunning || status == snapshot.StatusPaused, err
		},
		Live:   liveOf(runc),
		Thaw:   thaw(c.hostRoot, runc),
		Kill:   kill(runc),
		OnHost: runc.OnHost,
		Offer:  offer,
		Images: newImages(c).of,
		Log:    log.With().Str("part", "restore").Logger(),
	})
	a.publisher = &publisher{node: own, offer: offer, config: c, log: log, again: make(chan struct{}, 1)}
	a.watcher = watcher.New(&sink{agent: a, log: log.With().Str("part", "watcher").Logger()},
		aws.New(c.awsMetadataEndpoint, c.pollInterval))
	return a, nil
}

func snapshotOptions(c *config, log zerolog.Logger, dumps engine, journal *kube.Journal, generations, patient *store.Store) snapshot.Options {
	options := snapshot.Options{
		Runtime: dumps.Engine, Files: files.Source{Reader: files.New(c.hostRoot)}, Store: generations, Patient: patient, Journal: journal,
		Holds:    snapshot.Holds{Dir: filepath.Join(c.hostRoot, handover.HoldDir)},
		Cluster:  c.cluster,
		NodeName: c.nodeName, WorkDir: filepath.Join(c.stateDir, "dump"), HostRoot: c.hostRoot, Proc: "/proc",
		Requirements: journal.Requirements, Margin: c.margin, Log: log.With().Str("part", "snapshot").Logger(),
		Together: eligible.Looker{Proc: "/proc"}.Refuse,
		Policy:   c.policy, Window: c.window, Cores: float64(runtime.NumCPU()), Board: journal, Succession: journal,
	}
	if c.preDump {
		options.Scanner = dumps.scanner
	}
	return options
}

// newLookout looks at files only where they are not copied before a notice: else the verdict on what is measured counts.
func newLookout(c *config, log zerolog.Logger, journal *kube.Journal) *eligible.Lookout {
	l := &eligible.Lookout{
		Looker: eligible.Looker{Proc: "/proc", Files: files.New(c.hostRoot)}, Board: journal,
		Log: log.With().Str("part", "lookout").Logger(),
	}
	if !c.preDump {
		l.MostFileBytes = c.policy.MostFileBytes(c.window, c.margin)
	}
	return l
}

// run runs all parts until ctx ends or one of them fails.
func (a *agent) run(ctx context.Context) error {
	socket := filepath.Join(a.config.hostRoot, handover.Socket)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.evacuator.Run(ctx) })
	group.Go(func() error { return a.lookout.Run(ctx) })
	group.Go(func() error { return a.tainter.Run(ctx) })
	group.Go(func() error { return a.own.Follow(ctx, a.evacuator.Doubt, a.publisher.renewed) })
	group.Go(func() error { return a.watcher.Run(ctx) })
	group.Go(func() error { return a.preparer.Serve(ctx, socket) })
	group.Go(func() error { return a.preparer.Prefetch(ctx) })
	group.Go(func() error { return a.sweep(ctx) })
	group.Go(func() error { return a.publisher.Run(ctx) })
	group.Go(func() error { return a.health.Run(ctx) })
	a.log.Info().Str("node", a.config.nodeName).Msg("agent runs")
	return errors.Join(group.Wait(), a.dumps.clear())
}

// sweepEvery is how often restores are looked after that nobody reports on.
const sweepEvery = 5 * time.Second

// sweep looks after restores: what lifeboat-runtime could not report while this agent was away, what pods that are gone have left.
func (a *agent) sweep(ctx context.Context) error {
	for {
		if err := a.preparer.Sweep(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn().Err(err).Msg("restores not looked after")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}

// newRunc writes the CRIU configuration to the host and finds the runtime that `install` noted.
func newRunc(c *config) (*criu.Runc, error) {
	settings, err := install.ReadSettings(filepath.Join(c.hostRoot, c.lifeboatDir))
	if err != nil {
		return nil, fmt.Errorf("find the OCI runtime of the host: %w; has `lifeboat-agent install` run?", err)
	}
	configFile := filepath.Join(filepath.Dir(handover.Socket), "criu.conf")
	seen := filepath.Join(c.hostRoot, configFile)
	if err := os.MkdirAll(filepath.Dir(seen), 0o700); err != nil {
		return nil, fmt.Errorf("make folder for CRIU's configuration: %w", err)
	}
	if err := os.WriteFile(seen, []byte(criu.Config), 0o600); err != nil {
		return nil, fmt.Errorf("write CRIU's configuration: %w", err)
	}
	return &criu.Runc{
		Binary: settings.Runtime, Root: c.runtimeRoot, CRIUDir: filepath.Join(c.lifeboatDir, "bin"),
		ConfigFile: configFile, HostRoot: c.hostRoot,
	}, nil
}
