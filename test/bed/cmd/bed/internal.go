package main

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/nodeinit"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/relay"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/supervisor"
)

// internalCommands are the roles in which the bed starts itself.
func internalCommands() []*cobra.Command {
	var dir string
	supervise := &cobra.Command{Use: "supervise", Args: cobra.NoArgs, Hidden: true, RunE: func(cmd *cobra.Command, _ []string) error {
		return supervisor.Run(cmd.Context(), layout.Dir(dir))
	}}
	supervise.Flags().StringVar(&dir, "dir", "", "state folder")
	node := &cobra.Command{Use: "node-init", Args: cobra.NoArgs, Hidden: true, RunE: func(cmd *cobra.Command, _ []string) error {
		return nodeinit.Run(cmd.Context())
	}}
	var fd uint
	pass := &cobra.Command{Use: "relay TARGET", Args: cobra.ExactArgs(1), Hidden: true, RunE: func(cmd *cobra.Command, args []string) error {
		l, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
		if err != nil {
			return fmt.Errorf("take over listener: %w", err)
		}
		return relay.Serve(cmd.Context(), l, args[0])
	}}
	pass.Flags().UintVar(&fd, "listener-fd", 3, "descriptor of the listener")
	return []*cobra.Command{supervise, node, pass}
}
