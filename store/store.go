package store

import (
	"context"
	"sync"
)

// Store reads and writes generations in one bucket under one ring of master keys. Its methods may be called
// concurrently.
type Store struct {
	bucket Bucket
	keys   Keyring

	mu sync.Mutex
	// unwrapped are the keys of targets seen lately, by prefix. A data key never changes.
	unwrapped map[string]*targetKeys
}

// maxUnwrapped bounds what a Store remembers; a node has far fewer targets.
const maxUnwrapped = 1024

// New makes a Store. It does not call the bucket.
func New(bucket Bucket, keys Keyring) *Store {
	return &Store{bucket: bucket, keys: keys, unwrapped: map[string]*targetKeys{}}
}

func (s *Store) cached(prefix string) *targetKeys {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unwrapped[prefix]
}

func (s *Store) keep(keys *targetKeys) *targetKeys {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unwrapped) >= maxUnwrapped {
		clear(s.unwrapped)
	}
	s.unwrapped[keys.prefix] = keys
	return keys
}

func (s *Store) forget(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unwrapped, prefix)
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
