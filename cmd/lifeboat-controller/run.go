package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/zerologr"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/lifeboat-dev/lifeboat/restore/controller"
)

// A notice leaves 30 seconds at worst: a leader that died is followed well within that.
const (
	leaseDuration = 8 * time.Second
	renewDeadline = 5 * time.Second
	retryPeriod   = 1 * time.Second
)

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
	mgr, err := newManager(config, c)
	if err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

func newManager(config *rest.Config, c *config) (ctrl.Manager, error) {
	scheme, err := controller.NewScheme()
	if err != nil {
		return nil, err
	}
	cacheOptions, err := controller.CacheOptions()
	if err != nil {
		return nil, err
	}
	lease, renew, retry := leaseDuration, renewDeadline, retryPeriod
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions,
		Metrics:                       metricsserver.Options{BindAddress: c.metricsAddress},
		HealthProbeBindAddress:        c.healthAddress,
		LeaderElection:                c.leaderElect,
		LeaderElectionID:              "lifeboat-controller",
		LeaderElectionNamespace:       c.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
	})
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
	r := &controller.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Now: time.Now, Instance: instance}
	return mgr, r.Setup(mgr)
}
