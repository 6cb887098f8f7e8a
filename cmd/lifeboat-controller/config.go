package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"
)

// config is what flags and environment say. Flags win over variables, those over the defaults.
type config struct {
	metricsAddress string
	healthAddress  string
	webhookPort    int
	leaderElect    bool
	namespace      string
	nodeName       string
	logLevel       string
}

// bind declares the flags, with defaults from the environment. A variable that cannot be read is an error of its flag.
func (c *config) bind(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	text := func(into *string, flag, env, fallback, usage string) {
		if v, ok := lookup(env); ok {
			fallback = v
		}
		flags.StringVar(into, flag, fallback, usage+" ("+env+")")
	}
	text(&c.metricsAddress, "metrics-address", "LIFEBOAT_CONTROLLER_METRICS_ADDRESS", ":9641", "host:port of /metrics; 0 for none")
	text(&c.healthAddress, "health-address", "LIFEBOAT_CONTROLLER_HEALTH_ADDRESS", ":9642", "host:port of /healthz and /readyz")
	text(&c.namespace, "namespace", "LIFEBOAT_CONTROLLER_NAMESPACE", "lifeboat-system", "namespace of the leader's lease and of the webhook's Service and Secret")
	text(&c.nodeName, "node-name", "LIFEBOAT_NODE_NAME", "", "this node: while it is evacuated, other replicas lead; empty: not watched")
	text(&c.logLevel, "log-level", "LIFEBOAT_CONTROLLER_LOG_LEVEL", "info", "debug, info, warn or error")
	port := 9443
	if v, ok := lookup("LIFEBOAT_CONTROLLER_WEBHOOK_PORT"); ok {
		var err error
		if port, err = strconv.Atoi(v); err != nil {
			return fmt.Errorf("read LIFEBOAT_CONTROLLER_WEBHOOK_PORT: %q is no number", v)
		}
	}
	flags.IntVar(&c.webhookPort, "webhook-port", port, "port of the admission webhook (LIFEBOAT_CONTROLLER_WEBHOOK_PORT)")
	elect := true
	if v, ok := lookup("LIFEBOAT_CONTROLLER_LEADER_ELECT"); ok {
		var err error
		if elect, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("read LIFEBOAT_CONTROLLER_LEADER_ELECT: %q is neither true nor false", v)
		}
	}
	flags.BoolVar(&c.leaderElect, "leader-elect", elect, "act only while holding the lease (LIFEBOAT_CONTROLLER_LEADER_ELECT)")
	return nil
}

// Validate returns all faults joined.
func (c *config) Validate() error {
	var faults []error
	address := func(flag, value string) {
		if _, _, err := net.SplitHostPort(value); err != nil {
			faults = append(faults, fmt.Errorf("--%s: %q is not host:port, as in \":9642\"", flag, value))
		}
	}
	if c.metricsAddress != "0" {
		address("metrics-address", c.metricsAddress)
	}
	address("health-address", c.healthAddress)
	if c.namespace == "" {
		faults = append(faults, errors.New("--namespace: empty; the leader's lease and the webhook's Secret need a namespace"))
	}
	if c.webhookPort < 1 || c.webhookPort > 65535 {
		faults = append(faults, fmt.Errorf("--webhook-port: %d is not between 1 and 65535", c.webhookPort))
	}
	if _, err := zerolog.ParseLevel(c.logLevel); err != nil || c.logLevel == "" {
		faults = append(faults, fmt.Errorf("--log-level: %q is none of debug, info, warn, error", c.logLevel))
	}
	return errors.Join(faults...)
}
