// Command bench measures Lifeboat against what one would use without it; `make bench` calls it.
//
//	bench [--cpuprofile FILE] [PART ...] [--sizes 256MiB,1GiB] [--steps containers,growth] [--nodes 1000]
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

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
	profile := pflag.String("cpuprofile", "", "write a CPU profile of this process into the `FILE`, for go tool pprof")
	sizes := pflag.StringSlice("sizes", nil, "sizes of containers of parts snapshot and restore: 256MiB,1GiB (default: up to 8GiB, 4GiB)")
	steps := pflag.StringSlice("steps", nil, "steps of parts snapshot, restore and scale (default: all)")
	nodes := pflag.Int("nodes", 0, "Nodes of part scale (default: 1000)")
	pflag.Parse()
	if pflag.Arg(0) == bench.MemoryVerb {
		return measureMemory(ctx, pflag.Arg(1))
	}
	root, err := deploy.Checkout()
	if err != nil {
		return err
	}
	options := bench.Options{Root: root, Parts: pflag.Args(), Steps: *steps, Nodes: *nodes, Out: os.Stdout, Progress: os.Stderr}
	for _, size := range *sizes {
		quantity, err := resource.ParseQuantity(strings.TrimSuffix(size, "B"))
		if err != nil {
			return fmt.Errorf("read size %q: %w; give one as 256MiB or 1GiB", size, err)
		}
		options.SizesMiB = append(options.SizesMiB, int(quantity.Value()>>20))
	}
	if *profile == "" {
		return bench.Run(ctx, options)
	}
	f, err := os.Create(*profile)
	if err != nil {
		return fmt.Errorf("make profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(fmt.Errorf("make profile: %w", err), f.Close())
	}
	err = bench.Run(ctx, options)
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// measureMemory is what the bench has a process of its own do.
func measureMemory(ctx context.Context, gibs string) error {
	size, err := strconv.Atoi(gibs)
	if err != nil {
		return fmt.Errorf("size of the target in GiB: %w", err)
	}
	peak, err := bench.MeasureMemory(ctx, size)
	if err != nil {
		return err
	}
	_, err = fmt.Println(peak)
	return err
}
