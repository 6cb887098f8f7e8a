package store

import (
	"context"
	"sync"
)

// Store reads and writes generations in one bucket under one master key. Its methods may be called concurrently.
type Store struct {
	bucket Bucket
	key    Key
}

// New makes a Store. It does not call the bucket.
func New(bucket Bucket, key Key) *Store {
	return &Store{bucket: bucket, key: key}
}

// Generation is what a commit made durable.
type Generation struct {
	Number int64
	Epoch  int64
	// StoredBytes is what the bucket took: packs and manifest.
	StoredBytes int64
	// Puts counts the objects written, HEAD included; retries are not counted.
	Puts int
}

func (s *Store) keysOf(target Target) (*targetKeys, error) {
	if err := target.Validate(); err != nil {
		return nil, err
	}
	return deriveKeys(s.key, target)
}

// inParallel calls fn for 0 to n-1, at most limit at a time, and returns the first error; it ends the others' ctx.
func inParallel(ctx context.Context, n, limit int, fn func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, limit)
	var running sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			defer func() { <-slots }()
			if err := fn(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
