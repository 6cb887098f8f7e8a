// Command chaos has jobs handed over on a test bed while things go wrong (package chaos); `make chaos` calls it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/test/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o chaos.Options
	flag.IntVar(&o.Runs, "runs", 100, "how many runs")
	flag.Uint64Var(&o.Seed, "seed", 1, "seed of the first run; each further one has the next")
	flag.StringVar(&o.Dir, "bed", "", "state folder of a test bed that is up, to use that and leave it up (default: a bed of its own)")
	flag.Parse()
	if err := chaos.Main(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}
