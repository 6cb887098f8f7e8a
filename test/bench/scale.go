package bench

import (
	"context"

	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
	"github.com/lifeboat-dev/lifeboat/test/bench/scale"
)

// measureScale is package scale's.
func measureScale(ctx context.Context, o Options, folder string) ([]rows.Row, error) {
	return scale.Measure(ctx, scale.Options{Root: o.Root, Folder: folder, Nodes: o.Nodes, Only: o.Steps, Progress: o.Progress})
}
