package main

import (
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

func TestFlagsWinOverEnvironmentOverDefaults(t *testing.T) {
	env := map[string]string{"LIFEBOAT_CONTROLLER_NAMESPACE": "from-env", "LIFEBOAT_CONTROLLER_LOG_LEVEL": "debug", "LIFEBOAT_CONTROLLER_LEADER_ELECT": "false", "LIFEBOAT_NODE_NAME": "a", "LIFEBOAT_CONTROLLER_WEBHOOK_PORT": "8443"}
	var c config
	flags := pflag.NewFlagSet("t", pflag.ContinueOnError)
	require.NoError(t, c.bind(flags, func(k string) (string, bool) { v, ok := env[k]; return v, ok }))
	require.NoError(t, flags.Parse([]string{"--log-level=warn"}))
	require.Equal(t, config{":9641", ":9642", 8443, false, "from-env", "a", "warn"}, c)
	require.NoError(t, c.Validate())
}

func TestValidateJoinsAllFaults(t *testing.T) {
	err := (&config{metricsAddress: "nine", healthAddress: "", leaderElect: true, logLevel: "loud"}).Validate()
	for _, part := range []string{"--metrics-address", "--health-address", "--namespace", "--webhook-port", "--log-level"} {
		require.ErrorContains(t, err, part)
	}
}

func TestEnvironmentThatCannotBeRead(t *testing.T) {
	cmd := newCommand(func(k string) (string, bool) { return "perhaps", k == "LIFEBOAT_CONTROLLER_LEADER_ELECT" })
	cmd.SetArgs(nil)
	require.ErrorContains(t, cmd.Execute(), `"perhaps" is neither true nor false`)
}
