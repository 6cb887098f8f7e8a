package watcher_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/watcher"
)

// script is a Source that reports as told and ends.
type script struct {
	name string
	tell func(watcher.Sink)
	err  error
}

func (s script) Name() string { return s.name }

func (s script) Run(ctx context.Context, sink watcher.Sink) error {
	s.tell(sink)
	return s.err
}

// notes writes down what it is told.
type notes []string

func (n *notes) Heard(x watcher.Notice) {
	*n = append(*n, fmt.Sprintf("%s heard %s", x.Source, x.Action))
}
func (n *notes) Quiet(source string)          { *n = append(*n, source+" quiet") }
func (n *notes) Blind(source string, _ error) { *n = append(*n, source+" blind") }

func TestWatcherHandsOnChangesOnly(t *testing.T) {
	deadline := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	heard := watcher.Notice{Source: "aws", Action: watcher.ActionTerminate, Deadline: deadline}
	later := heard
	later.Heard, later.Deadline = time.Now(), deadline.Local()
	moved := heard
	moved.Deadline = deadline.Add(time.Minute)
	for _, c := range []struct {
		name string
		tell func(watcher.Sink)
		want notes
	}{
		{"quiet once", func(s watcher.Sink) { s.Quiet("aws"); s.Quiet("aws") }, notes{"aws quiet"}},
		{"same notice again", func(s watcher.Sink) { s.Heard(heard); s.Heard(later) }, notes{"aws heard terminate"}},
		{"deadline moved", func(s watcher.Sink) { s.Heard(heard); s.Heard(moved) }, notes{"aws heard terminate", "aws heard terminate"}},
		{"withdrawn", func(s watcher.Sink) { s.Heard(heard); s.Quiet("aws") }, notes{"aws heard terminate", "aws quiet"}},
		{
			"blind in between, the notice stands",
			func(s watcher.Sink) {
				s.Heard(heard)
				s.Blind("aws", errors.New("timeout"))
				s.Blind("aws", errors.New("reset"))
			},
			notes{"aws heard terminate", "aws blind"},
		},
		{
			"blind from the start, then quiet",
			func(s watcher.Sink) { s.Blind("aws", errors.New("timeout")); s.Quiet("aws") },
			notes{"aws blind", "aws quiet"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got notes
			require.NoError(t, watcher.New(&got, script{name: "aws", tell: c.tell}).Run(t.Context()))
			require.Equal(t, c.want, got)
		})
	}
}

func TestWatcherNeedsASource(t *testing.T) {
	require.ErrorContains(t, watcher.New(&notes{}).Run(t.Context()), "no source")
}

func TestWatcherEndsWithASourceThatCannotGoOn(t *testing.T) {
	broken := errors.New("endpoint is no URL")
	err := watcher.New(&notes{}, script{name: "aws", tell: func(watcher.Sink) {}, err: broken}).Run(t.Context())
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, "watch aws")
}
