// Package hold is a job of the bench: it holds memory and changes some of it when it is told, or writes to it at random all
// the time.
package hold

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
)

// hugeSize is the size and alignment of a huge page.
const hugeSize = 2 << 20

// Run is the job; it ends with an error alone. It is told to change by the signals of package change.
//
//	[-mib N] [-huge] [-out FILE]   says "filled", and "changed" and how many pages after each signal
//	[-mib N] [-huge] -write        sets random keys and says every second "did" and how many
func Run(args []string) error {
	flags := flag.NewFlagSet("hold", flag.ContinueOnError)
	mib := flags.Int("mib", 256, "memory held, in MiB")
	huge := flags.Bool("huge", false, "in huge pages (madvise)")
	write := flags.Bool("write", false, "write at random all the time")
	file := flags.String("out", "", "where it says what it does (default: standard output)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	out := os.Stdout
	if *file != "" {
		var err error
		if out, err = os.Create(*file); err != nil {
			return fmt.Errorf("make file: %w", err)
		}
	}
	debug.SetGCPercent(-1) // what changes is to be what was told
	told := make(chan os.Signal, 1)
	for _, c := range change.All {
		signal.Notify(told, c.Signal)
	}
	memory, err := memoryOf(*mib<<20, *huge)
	if err != nil {
		return err
	}
	change.Fill(memory)
	fmt.Fprintln(out, "filled", *mib)
	if *write {
		return writeAtRandom(memory, out)
	}
	seed := uint64(0)
	for signal := range told {
		seed++
		for _, c := range change.All {
			if c.Signal == signal {
				fmt.Fprintln(out, "changed", c.Apply(memory, seed<<32))
			}
		}
	}
	return nil
}

// memoryOf maps size bytes, all of them in huge pages or none.
func memoryOf(size int, huge bool) ([]byte, error) {
	all, err := unix.Mmap(-1, 0, size+hugeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	advice := unix.MADV_NOHUGEPAGE
	if huge {
		advice = unix.MADV_HUGEPAGE
	}
	if err := unix.Madvise(all, advice); err != nil {
		return nil, fmt.Errorf("ask for the kind of pages: %w", err)
	}
	return all[change.Aligned(all, hugeSize):][:size], nil
}

const (
	// valueSize is that of a value, batch how many are set between two looks at the clock.
	valueSize = 512
	batch     = 1 << 14
)

// writeAtRandom is what redis-benchmark has a Redis do: it sets keys drawn at random, which it finds in a hash table.
func writeAtRandom(memory []byte, out io.Writer) error {
	places := make(map[uint64]int, len(memory)/valueSize)
	for at := 0; at < len(memory); at += valueSize {
		places[uint64(at/valueSize)] = at
	}
	draw := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, valueSize)
	second := time.NewTicker(time.Second)
	for sets := 0; ; {
		for range batch {
			at := places[draw.Uint64N(uint64(len(places)))]
			change.Write(value, draw.Uint64())
			copy(memory[at:], value)
		}
		sets += batch
		select {
		case <-second.C:
			if _, err := fmt.Fprintln(out, "did", sets); err != nil {
				return err
			}
		default:
		}
	}
}
