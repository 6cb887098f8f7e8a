package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// rounds is how often everything is measured; rows show medians. Ours and theirs take turns, so that what else runs on
// the machine meets both.
const rounds = 3

// Options say what to measure.
type Options struct {
	// Root is the checkout. Results go to build/bench beneath it.
	Root string
	// Parts are measured in this order; none means all.
	Parts []string
	// SizesMiB are the sizes of containers of parts snapshot and restore, Steps which steps of these and of scale are taken;
	// none means all. Nodes is how many Nodes part scale has; 0 means 1000.
	SizesMiB []int
	Steps    []string
	Nodes    int
	// Out takes the tables, Progress a line for every step.
	Out, Progress io.Writer
}

// parts measure. folder is one of the part's own, empty, and removed afterwards. Beside an error there may be rows, of what
// could be measured all the same.
var parts = map[string]func(ctx context.Context, o Options, folder string) ([]rows.Row, error){
	"store":    measureStore,
	"handover": measureHandover,
	"snapshot": measureSnapshot,
	"restore":  measureRestore,
	"scale":    measureScale,
}

// Run measures the parts, writes build/bench/<part>.json for each, and prints its table. A missed target is no error.
func Run(ctx context.Context, o Options) error {
	known := slices.Sorted(maps.Keys(parts))
	if len(o.Parts) == 0 {
		o.Parts = known
	}
	for _, name := range o.Parts {
		if parts[name] == nil {
			return fmt.Errorf("no part %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	for _, name := range o.Parts {
		if err := runPart(ctx, o, name); err != nil {
			return fmt.Errorf("measure %s: %w", name, err)
		}
	}
	return nil
}

func runPart(ctx context.Context, o Options, name string) error {
	results := filepath.Join(o.Root, "build", "bench")
	if err := os.MkdirAll(results, 0o755); err != nil {
		return fmt.Errorf("make folder for results: %w", err)
	}
	folder, err := os.MkdirTemp(results, name+"-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(folder)
	all, fault := parts[name](ctx, o, folder)
	if fault != nil && len(all) == 0 {
		return fault
	}
	var encoded bytes.Buffer
	if err := rows.Encode(&encoded, all); err != nil {
		return err
	}
	file := filepath.Join(results, name+".json")
	if err := os.WriteFile(file, encoded.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	fmt.Fprintf(o.Out, "%s: medians of %d rounds where a row does not say otherwise; also in %s\n", name, rounds, file)
	return errors.Join(fault, rows.Print(o.Out, all))
}
