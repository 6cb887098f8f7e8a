package chaos

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// history is what was done and seen in a run, with times since its begin.
type history struct {
	mu    sync.Mutex
	began time.Time
	lines []string
}

func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, fmt.Sprintf("%8.3f  ", time.Since(h.began).Seconds())+fmt.Sprintf(format, args...))
}

// String is all of it, a line for each.
func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
