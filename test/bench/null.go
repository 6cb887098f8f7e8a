package bench

import (
	"context"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// nullBucket swallows packs and keeps their sizes alone: on it, a write costs what the Writer costs. All else it keeps,
// for a Writer reads HEAD and manifest back. A pack cannot be read.
type nullBucket struct {
	empty *mem.Bucket // packs are empty in it
	mu    sync.Mutex
	sizes map[string]int64
}

var _ store.Bucket = (*nullBucket)(nil)

func newNullBucket() *nullBucket {
	return &nullBucket{empty: mem.New(), sizes: map[string]int64{}}
}

// Put implements store.Bucket.
func (b *nullBucket) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	kept := body
	if strings.Contains(key, "/packs/") {
		kept = nil
	}
	info, err := b.empty.Put(ctx, key, kept, cond)
	if err != nil {
		return store.Info{}, err
	}
	b.mu.Lock()
	b.sizes[key] = int64(len(body))
	b.mu.Unlock()
	return b.sized(info), nil
}

// Get implements store.Bucket.
func (b *nullBucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return b.empty.Get(ctx, key, offset, length)
}

// Stat implements store.Bucket.
func (b *nullBucket) Stat(ctx context.Context, key string) (store.Info, error) {
	info, err := b.empty.Stat(ctx, key)
	return b.sized(info), err
}

// List implements store.Bucket.
func (b *nullBucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for info, err := range b.empty.List(ctx, prefix) {
			if !yield(b.sized(info), err) {
				return
			}
		}
	}
}

// Delete implements store.Bucket.
func (b *nullBucket) Delete(ctx context.Context, key string) error { return b.empty.Delete(ctx, key) }

// sized gives a pack the size that it was put with.
func (b *nullBucket) sized(info store.Info) store.Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	info.Size = b.sizes[info.Key]
	return info
}
