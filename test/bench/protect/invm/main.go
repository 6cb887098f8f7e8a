// Command invm measures engines within a virtual machine whose kernel tracks writes: package softdirty's, whose processor is
// emulated and whose network has no cluster. It prints what it measured as lines of JSON, measured.Value each.
//
//	invm -mib N
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/hold"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/measured"
)

// holdVerb has this program be the job in a container.
const holdVerb = "hold"

// atMost bounds a run.
const atMost = 20 * time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "invm:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) > 0 && args[0] == holdVerb:
		return hold.Run(args[1:])
	case len(args) == 2 && args[0] == criu.PreDumpCommand:
		return criu.PreDump(args[1])
	}
	flags := flag.NewFlagSet("invm", flag.ContinueOnError)
	mib := flags.Int("mib", 256, "memory of the job, in MiB")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	m, err := newMachine()
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	tell := func(name string, value float64) error {
		return encoder.Encode(measured.Value{Name: name, Value: value})
	}
	for _, engine := range measured.Engines {
		if err := m.measure(ctx, engine, *mib, tell); err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}
