package runtime

import (
	"context"
	"fmt"
	"os"
	"time"
)

// CountArgument is the hidden first argument that makes lifeboat-runtime run Count instead: the process that the
// installation's self-test dumps and restores. It takes the file to count into.
const CountArgument = "lifeboat-self-test-count"

// CountPause is the time between two numbers.
const CountPause = 20 * time.Millisecond

// Count writes 1, 2, 3 … to the file at path, each number over the one before, until the context ends.
func Count(ctx context.Context, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("count: %w", err)
	}
	defer func() { _ = file.Close() }()
	for number := 1; ; number++ {
		if _, err := file.WriteAt([]byte(fmt.Sprintf("%d\n", number)), 0); err != nil {
			return fmt.Errorf("count: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(CountPause):
		}
	}
}
