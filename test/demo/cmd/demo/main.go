// Command demo runs the demonstration of package demo; `make demo` calls it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/lifeboat-dev/lifeboat/test/demo"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := deploy.Checkout()
	if err != nil {
		return err
	}
	o, stage := demo.Options{Root: root}, &demo.BedStage{Root: root}
	flag.StringVar(&stage.Store, "store", deploy.StoreS3, "where generations go: s3 (a real S3 server) or file (a folder that both nodes share)")
	flag.StringVar(&stage.Dir, "bed", "", "state folder of the test bed (default build/bed, that of make cluster)")
	flag.BoolVar(&stage.Keep, "keep", false, "leave the test bed up afterwards")
	flag.DurationVar(&o.Window, "window", 2*time.Minute, "from the notice to the deadline")
	flag.DurationVar(&o.Train, "train", 10*time.Second, "how long the job trains before the notice")
	flag.IntVar(&o.Steps, "steps", 700, "how many steps the job takes")
	flag.IntVar(&o.BallastMB, "ballast", 0, "memory that the job holds besides, in MiB")
	flag.Parse()
	o.Live = term.IsTerminal(int(os.Stdout.Fd()))
	o.Colour = o.Live && os.Getenv("NO_COLOR") == ""
	return demo.Run(ctx, o, stage, os.Stdout)
}
