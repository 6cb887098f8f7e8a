// Package mem is a bucket in memory, for tests.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// Bucket keeps its objects until it is garbage. The zero value is empty and ready.
type Bucket struct {
	mu      sync.Mutex
	objects map[string]object
	puts    int64
}

type object struct {
	body     []byte
	etag     string
	modified time.Time
}

var _ store.Bucket = (*Bucket)(nil)

// New makes an empty bucket.
func New() *Bucket { return &Bucket{} }

func (o object) info(key string) store.Info {
	return store.Info{Key: key, Size: int64(len(o.body)), ETag: o.etag, Modified: o.modified}
}

// Put implements store.Bucket. It copies body.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if err := store.CheckRequest(ctx, "put", key); err != nil {
		return store.Info{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, exists := b.objects[key]
	if cond.IfAbsent && exists || cond.IfMatch != "" && cond.IfMatch != old.etag {
		return store.Info{}, fmt.Errorf("put %s: %w", key, store.ErrPrecondition)
	}
	if b.objects == nil {
		b.objects = map[string]object{}
	}
	b.puts++
	created := object{body: bytes.Clone(body), etag: strconv.FormatInt(b.puts, 10), modified: time.Now()}
	b.objects[key] = created
	return created.info(key), nil
}

// Get implements store.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	obj, err := b.find(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, fmt.Errorf("get %s: negative offset: %w", key, store.ErrInvalid)
	}
	body := obj.body[min(offset, int64(len(obj.body))):]
	if length >= 0 {
		body = body[:min(length, int64(len(body)))]
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	obj, err := b.find(ctx, "stat", key)
	if err != nil {
		return store.Info{}, err
	}
	return obj.info(key), nil
}

// List implements store.Bucket. It shows what there was when it began.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		b.mu.Lock()
		objects := maps.Clone(b.objects)
		b.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			if !strings.HasPrefix(key, prefix) {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(store.Info{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			if !yield(objects[key].info(key), nil) {
				return
			}
		}
	}
}

// Delete implements store.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := store.CheckRequest(ctx, "delete", key); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, key)
	return nil
}

func (b *Bucket) find(ctx context.Context, verb, key string) (object, error) {
	if err := store.CheckRequest(ctx, verb, key); err != nil {
		return object{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	obj, exists := b.objects[key]
	if !exists {
		return object{}, fmt.Errorf("%s %s: %w", verb, key, store.ErrNotFound)
	}
	return obj, nil
}
