// Command lifeboat-agent is the node's part of Lifeboat: it puts the runtime on the host (install, uninstall), and runs
// there (run): it watches for interruption notices, evacuates protected pods, and prepares restores.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	root := &cobra.Command{
		Use:           "lifeboat-agent",
		Short:         "The node's part of Lifeboat",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	log := newLogger(os.Stderr)
	root.AddCommand(newRunCommand(os.LookupEnv, log), newInstallCommand(log), newUninstallCommand(log), newPreDumpCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lifeboat-agent:", err)
		os.Exit(1)
	}
}
