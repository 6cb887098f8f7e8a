package bench

import (
	"context"

	"github.com/lifeboat-dev/lifeboat/test/bench/resume"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// measureRestore is package resume's.
func measureRestore(ctx context.Context, o Options, folder string) ([]rows.Row, error) {
	return resume.Measure(ctx, resume.Options{
		Root: o.Root, Folder: folder, SizesMiB: o.SizesMiB, Only: o.Steps, Progress: o.Progress,
	})
}
