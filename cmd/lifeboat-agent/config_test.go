package main

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/cmd/internal/environment"
)

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		name        string
		args        []string
		environment map[string]string
		fault       string
		check       func(*config) bool
	}{
		{name: "defaults", check: func(c *config) bool { return c.preDump && c.window == 2*time.Minute }},
		{
			name: "switched off by the environment", environment: map[string]string{"LIFEBOAT_PRE_DUMP": "false"},
			check: func(c *config) bool { return !c.preDump },
		},
		{
			name: "flags win", args: []string{"--interval=1m"}, environment: map[string]string{"LIFEBOAT_INTERVAL": "2m"},
			check: func(c *config) bool { return c.policy.Interval == time.Minute },
		},
		{name: "an engine that is none", args: []string{"--engine=phaul"}, fault: `--engine: "phaul" is none of [auto lazy criu full]`},
		{name: "tracking that is neither", args: []string{"--soft-dirty=yes"}, fault: `--soft-dirty: "yes" is neither auto nor off`},
		{name: "no share", args: []string{"--cpu-share=0"}, fault: "CPUShare is 0"},
		{name: "no number of bytes", args: []string{"--prefetch-disk=much"}, fault: `--prefetch-disk: "much" is no number of bytes`},
		{name: "less than nothing", args: []string{"--prefetch-reserve=-1Gi"}, fault: `--prefetch-reserve: "-1Gi" is no number of bytes`},
		{name: "nothing at once", args: []string{"--restores-at-once=0"}, fault: "--restores-at-once: 0 is not between 1 and 64"},
		{name: "window within the margin", args: []string{"--window=5s"}, fault: "--window: 5s is not longer than --margin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got config
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			got.bind(flags)
			require.NoError(t, flags.Parse(append([]string{"--node-name=a", "--cluster=c", "--bucket=mem://"}, c.args...)))
			require.NoError(t, environment.Fill(flags, func(name string) (string, bool) {
				value, ok := c.environment[name]
				return value, ok
			}))
			err := got.Validate()
			if c.fault != "" {
				require.ErrorContains(t, err, c.fault)
				return
			}
			require.NoError(t, err)
			require.True(t, c.check(&got))
		})
	}
}
