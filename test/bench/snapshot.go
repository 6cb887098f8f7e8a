package bench

import (
	"context"

	"github.com/lifeboat-dev/lifeboat/test/bench/protect"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// measureSnapshot is package protect's.
func measureSnapshot(ctx context.Context, o Options, folder string) ([]rows.Row, error) {
	return protect.Measure(ctx, protect.Options{
		Root: o.Root, Folder: folder, SizesMiB: o.SizesMiB, Only: o.Steps, Progress: o.Progress,
	})
}
