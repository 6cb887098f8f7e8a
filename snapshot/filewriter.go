package snapshot

import (
	"context"
	"io"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// fileWriter is a Writer as those who read files see it: its failures are errBucket, and what is preloaded keeps within
// bounds, from file to file.
type fileWriter struct {
	*openWriter
	began  time.Time
	first  store.Progress
	bounds Bounds
}

// Add implements FileWriter.
func (w *fileWriter) Add(ctx context.Context, e store.Entry, r io.Reader) error {
	return inBucket(w.openWriter.Add(ctx, e, r))
}

// AddKept implements FileWriter.
func (w *fileWriter) AddKept(ctx context.Context, e store.Entry, version string) error {
	return inBucket(w.openWriter.AddKept(ctx, e, version))
}

// Preload implements FileWriter.
func (w *fileWriter) Preload(ctx context.Context, path string, size int64, r io.Reader) error {
	if err := w.openWriter.Preload(ctx, path, size, r); err != nil {
		return inBucket(err)
	}
	if w.bounds.BytesPerSecond <= 0 || w.bounds.CPU <= 0 {
		return nil
	}
	now := w.Progress()
	sending := float64(now.StoredBytes-w.first.StoredBytes) / w.bounds.BytesPerSecond
	encoding := (now.EncodeTime - w.first.EncodeTime).Seconds() / w.bounds.CPU
	due := time.Duration(max(sending, encoding) * float64(time.Second))
	return wait(ctx, due-time.Since(w.began))
}
