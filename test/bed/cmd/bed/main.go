// Command bed brings up, uses and takes down the test bed: a two-node Kubernetes on one machine. Run it without
// arguments for help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/nodeinit"
)

func main() {
	if filepath.Base(os.Args[0]) == "systemctl" { // its name inside a node
		status, err := nodeinit.Systemctl(os.Args[1:], os.Stdout)
		if err != nil {
			fmt.Fprintln(os.Stderr, "systemctl:", err)
		}
		os.Exit(status)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := rootCommand().ExecuteContext(ctx)
	if status := exitStatus(0); errors.As(err, &status) {
		os.Exit(int(status))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bed:", err)
		os.Exit(1)
	}
}
