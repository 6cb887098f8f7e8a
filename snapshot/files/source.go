package files

import (
	"context"
	"time"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// Source implements snapshot.Files by a Reader, whose own Limit does not count.
type Source struct {
	Reader *Reader
}

var _ snapshot.Files = Source{}

// Preload implements snapshot.Files.
func (s Source) Preload(ctx context.Context, t snapshot.Target, share float64, w snapshot.FileWriter) (snapshot.FilePass, error) {
	bound := *s.Reader
	bound.Limit = memory.NewLimit(share)
	stats, err := bound.Preload(ctx, t.Containers, t.LeaveOut, w)
	return passOf(stats), err
}

// Add implements snapshot.Files.
func (s Source) Add(ctx context.Context, t snapshot.Target, w snapshot.FileWriter) (snapshot.FilePass, error) {
	stats, err := s.Reader.AddTo(ctx, t.Containers, t.LeaveOut, w)
	return passOf(stats), err
}

func passOf(s Stats) snapshot.FilePass {
	return snapshot.FilePass{
		Bytes: s.BytesRead + s.BytesSpared, BytesRead: s.BytesRead, CPU: time.Duration(s.CPUSeconds * float64(time.Second)),
	}
}
