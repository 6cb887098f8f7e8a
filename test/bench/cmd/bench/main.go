// Command bench measures Lifeboat against what one would use without it; `make bench` calls it.
//
//	bench [PART ...]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/test/bench"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	flag.Parse()
	root, err := deploy.Checkout()
	if err != nil {
		return err
	}
	return bench.Run(ctx, bench.Options{Root: root, Parts: flag.Args(), Out: os.Stdout, Progress: os.Stderr})
}
