package main

import (
	"context"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/restore/runtime/install"
)

// newInstallCommand is `lifeboat-agent install`, the DaemonSet's init container.
func newInstallCommand(logger zerolog.Logger) *cobra.Command {
	return newHostCommand("install", "Put CRIU, the runtime wrapper and its runtime handler onto this host", logger, install.Install)
}

// newUninstallCommand is `lifeboat-agent uninstall`. The node's label must be off before.
func newUninstallCommand(logger zerolog.Logger) *cobra.Command {
	return newHostCommand("uninstall", "Take Lifeboat off this host, its containerd configuration as it was", logger, install.Uninstall)
}

func newHostCommand(use, short string, logger zerolog.Logger,
	work func(context.Context, install.Options) (install.Result, error),
) *cobra.Command {
	options := install.DefaultOptions("/host", logger)
	restart := strings.Join(options.RestartCommand, " ")
	command := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			options.RestartCommand = strings.Fields(restart)
			result, err := work(command.Context(), options)
			if err != nil {
				return err
			}
			logger.Info().Str("containerd", result.Containerd).Int64("schema", result.Schema).Str("file", result.File).
				Str("runtime", result.Runtime).Int("files_written", result.FilesWritten).Bool("changed", result.Changed).
				Bool("restarted", result.Restarted).Str("in_use", result.InUse).Msg(use + " done")
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.Host.Root, "host-root", options.Host.Root, "where the host's root is mounted")
	flags.StringVar(&options.Source, "source", options.Source, "folder with bin/ and lib/ to install")
	flags.StringVar(&options.Containerd, "containerd", "", "containerd's binary on the host (default: the running one)")
	flags.StringVar(&options.Config, "containerd-config", "", "containerd's main file on the host (default: the running one's)")
	flags.StringVar(&options.Socket, "containerd-socket", "", "containerd's socket on the host (default: /run/containerd/containerd.sock)")
	flags.StringVar(&restart, "restart-command", restart, "what restarts containerd, run in the host's namespaces")
	flags.DurationVar(&options.RestartTimeout, "restart-timeout", options.RestartTimeout, "how long containerd may take to answer again")
	return command
}
