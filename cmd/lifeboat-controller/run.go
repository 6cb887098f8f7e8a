package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-logr/zerologr"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/lifeboat-dev/lifeboat/restore/controller"
)

// A notice leaves 30 seconds at worst: a leader that died is followed well within that, and a lease that was released
// is taken within about a second (the elector's wait is up to 2.2 times retryPeriod).
const (
	leaseDuration = 8 * time.Second
	renewDeadline = 5 * time.Second
	retryPeriod   = 500 * time.Millisecond
)

// stopTime bounds the end of a term: reconciliations under way end with their context, and the lease waits for them.
const stopTime = 3 * time.Second

func newCommand(lookup func(string) (string, bool)) *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:           "lifeboat-controller",
		Short:         "Protects labelled pods, releases them when their node goes, creates their replacements",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	bindErr := c.bind(cmd.Flags(), lookup)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if bindErr != nil {
			return bindErr
		}
		if err := c.Validate(); err != nil {
			return err
		}
		return run(cmd.Context(), &c)
	}
	return cmd
}

// run blocks until ctx ends or the lease is lost.
func run(ctx context.Context, c *config) error {
	level, err := zerolog.ParseLevel(c.logLevel)
	if err != nil {
		return fmt.Errorf("read log level: %w", err)
	}
	zl := zerolog.New(os.Stderr).Level(level).With().Timestamp().Logger()
	ctrl.SetLogger(zerologr.New(&zl))
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	shared, err := newSharedCache(config)
	if err != nil {
		return err
	}
	hook := newWebhook(client, shared, c)
	meter := controller.NewMeter()
	if err := metrics.Registry.Register(meter); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	one := func(ctx context.Context, leaving bool) error {
		return term(ctx, parts{rest: config, config: c, cache: shared, webhook: hook, meter: meter}, leaving)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return shared.run(ctx) })
	group.Go(func() error { return hook.run(ctx) })
	if !c.leaderElect || c.nodeName == "" {
		group.Go(func() error { return one(ctx, false) })
		return group.Wait()
	}
	node := newOwnNode()
	group.Go(func() error { return node.follow(ctx, client, c.nodeName) })
	group.Go(func() error { return terms(ctx, node, one) })
	return group.Wait()
}

// parts are what outlives terms.
type parts struct {
	rest    *rest.Config
	config  *config
	cache   *sharedCache
	webhook *webhook
	meter   *controller.Meter
}

// terms runs one term after the other until ctx ends or one fails. A term lasts as long as the node stays as it is,
// leaving or not: its end releases the lease, and the next one campaigns as becomes the node.
func terms(ctx context.Context, node *ownNode, one func(ctx context.Context, leaving bool) error) error {
	for ctx.Err() == nil {
		leaving, changed := node.look()
		ctrl.Log.Info("term begins", "node_leaving", leaving)
		err := until(ctx, changed, func(ctx context.Context) error { return one(ctx, leaving) })
		if err != nil {
			return err
		}
	}
	return nil
}

// until runs do under a context that ends with ctx or when over is closed.
func until(ctx context.Context, over <-chan struct{}, do func(context.Context) error) error {
	ctx, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-over:
			end()
		case <-ctx.Done():
		}
	})
	defer watch.Wait()
	defer end()
	return do(ctx)
}

// term runs a manager until ctx ends or the lease is lost.
func term(ctx context.Context, p parts, leaving bool) error {
	mgr, err := newManager(p, leaving)
	if err != nil {
		return err
	}
	// A manager that is stopped before it has started says so by an error; that is no fault of this process.
	if err := mgr.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

func newManager(p parts, leaving bool) (ctrl.Manager, error) {
	options, err := managerOptions(p, leaving)
	if err != nil {
		return nil, err
	}
	mgr, err := ctrl.NewManager(p.rest, options)
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	instance, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name: %w", err)
	}
	for _, add := range []func(string, healthz.Checker) error{mgr.AddHealthzCheck, mgr.AddReadyzCheck} {
		if err := add("ping", healthz.Ping); err != nil {
			return nil, fmt.Errorf("add health check: %w", err)
		}
	}
	if err := mgr.AddReadyzCheck("webhook", p.webhook.ready); err != nil {
		return nil, fmt.Errorf("add health check: %w", err)
	}
	r := &controller.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Now: time.Now, Instance: instance, Meter: p.meter}
	return mgr, r.Setup(mgr)
}

func managerOptions(p parts, leaving bool) (ctrl.Options, error) {
	scheme, err := controller.NewScheme()
	if err != nil {
		return ctrl.Options{}, err
	}
	c := p.config
	lease, renew, retry, stop, again := leaseDuration, renewDeadline, retryPeriod, stopTime, true
	options := ctrl.Options{
		Scheme:                        scheme,
		NewCache:                      func(*rest.Config, cache.Options) (cache.Cache, error) { return p.cache, nil },
		Metrics:                       metricsserver.Options{BindAddress: c.metricsAddress},
		HealthProbeBindAddress:        c.healthAddress,
		LeaderElection:                c.leaderElect,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		GracefulShutdownTimeout:       &stop,
		// Every term sets the controllers up anew, under the same names.
		Controller: ctrlconfig.Controller{SkipNameValidation: &again},
	}
	if c.leaderElect {
		if options.LeaderElectionResourceLockInterface, err = newLock(p.rest, c.namespace, leaving); err != nil {
			return ctrl.Options{}, err
		}
	}
	return options, nil
}
