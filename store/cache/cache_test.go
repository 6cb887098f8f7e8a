package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestBucketContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Bucket { return open(t, mem.New(), Options{MaxBytes: 1 << 30}) })
}

func open(t *testing.T, bucket store.Bucket, options Options) *Bucket {
	t.Helper()
	if options.Dir == "" {
		options.Dir = filepath.Join(t.TempDir(), "cache")
	}
	b, err := Open(bucket, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// origin counts reads, and holds those back of keys that have a gate.
type origin struct {
	store.Bucket
	gates map[string]chan struct{}

	mu    sync.Mutex
	reads map[string]int
}

func newOrigin(t *testing.T, objects map[string]string) *origin {
	t.Helper()
	o := &origin{Bucket: mem.New(), gates: map[string]chan struct{}{}, reads: map[string]int{}}
	for key, body := range objects {
		_, err := o.Put(t.Context(), key, []byte(body), store.Condition{})
		require.NoError(t, err)
	}
	return o
}

func (o *origin) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o.mu.Lock()
	o.reads[key]++
	gate := o.gates[key]
	o.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return o.Bucket.Get(ctx, key, offset, length)
}

func read(t *testing.T, b store.Bucket, key string, offset, length int64) string {
	t.Helper()
	body, err := b.Get(t.Context(), key, offset, length)
	require.NoError(t, err)
	text, err := io.ReadAll(body)
	require.NoError(t, errors.Join(err, body.Close()))
	return string(text)
}

func files(t *testing.T, b *Bucket) (count int, bytes int64) {
	t.Helper()
	list, err := os.ReadDir(b.options.Dir)
	require.NoError(t, err)
	for _, f := range list {
		info, err := f.Info()
		require.NoError(t, err)
		bytes += info.Size()
	}
	return len(list), bytes
}

func TestWhatWasBroughtIsReadFromHere(t *testing.T) {
	bucket := newOrigin(t, map[string]string{"p/a": "0123456789", "p/b": "other"})
	b := open(t, bucket, Options{MaxBytes: 100})
	require.NoError(t, b.Bring(t.Context(), "pod", "p/a", 10))
	require.NoError(t, b.Bring(t.Context(), "another", "p/a", 10))
	for _, c := range []struct {
		offset, length int64
		want           string
	}{{0, -1, "0123456789"}, {3, 4, "3456"}, {8, 10, "89"}, {10, 1, ""}, {12, -1, ""}} {
		require.Equal(t, c.want, read(t, b, "p/a", c.offset, c.length))
	}
	require.Equal(t, 1, bucket.reads["p/a"], "copied once, and not read there again")
	require.Equal(t, "other", read(t, b, "p/b", 0, -1), "what nobody brought goes through")

	b.Release("pod")
	require.Equal(t, "0123456789", read(t, b, "p/a", 0, -1))
	require.Equal(t, 1, bucket.reads["p/a"], "it is another's still")
	b.Release("another")
	n, _ := files(t, b)
	require.Zero(t, n)
	require.Equal(t, "0123456789", read(t, b, "p/a", 0, -1))
	require.Equal(t, Stats{Brought: 10, Read: 10 + 4 + 2 + 10}, b.Stats())
}

func TestBounds(t *testing.T) {
	objects := map[string]string{}
	for i := range 4 {
		objects[fmt.Sprintf("p/%d", i)] = strings.Repeat("x", 10)
	}
	full := errors.New("no such disk")
	for _, c := range []struct {
		name    string
		options Options
		fault   error
		kept    int
	}{
		{"all fit", Options{MaxBytes: 40}, nil, 4},
		{"one does not", Options{MaxBytes: 39}, ErrNoRoom, 3},
		{"switched off", Options{}, ErrNoRoom, 0},
		{"the reserve of the disk", Options{MaxBytes: 100, ReserveBytes: 80, Free: func() (int64, error) { return 95, nil }}, nil, 4},
		{"the reserve of the disk is touched", Options{MaxBytes: 100, ReserveBytes: 90, Free: func() (int64, error) { return 95, nil }}, ErrNoRoom, 0},
		{"nobody knows what is free", Options{MaxBytes: 100, Free: func() (int64, error) { return 0, full }}, full, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, newOrigin(t, objects), c.options)
			var last error
			for i := range 4 {
				if err := b.Bring(t.Context(), "pod", fmt.Sprintf("p/%d", i), 10); err != nil {
					last = err
				}
			}
			require.ErrorIs(t, last, c.fault)
			n, bytes := files(t, b)
			require.Equal(t, c.kept, n)
			require.Equal(t, b.Stats().Bytes, bytes)
			for key, body := range objects {
				require.Equal(t, body, read(t, b, key, 0, -1))
			}
		})
	}
}

// The stale makes way, the oldest first, and only where room is wanted.
func TestTheStaleMakesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, newOrigin(t, map[string]string{"p/a": "aaaa", "p/b": "bbbb", "p/c": "cccc"}), Options{MaxBytes: 8})
		require.NoError(t, b.Bring(t.Context(), "first", "p/a", 4))
		<-time.After(time.Second)
		require.NoError(t, b.Bring(t.Context(), "second", "p/b", 4))
		require.ErrorIs(t, b.Bring(t.Context(), "third", "p/c", 4), ErrNoRoom, "what is about to be read stays")
		<-time.After(StaleAfter)
		require.NoError(t, b.Bring(t.Context(), "third", "p/c", 4))
		require.NotContains(t, b.kept, "p/a")
		require.Contains(t, b.kept, "p/b")
		b.Clear()
		n, _ := files(t, b)
		require.Zero(t, n)
	})
}

func TestReadingWhileItIsBrought(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(b *Bucket, bucket *origin, cancel func())
		fault bool
		reads int
	}{
		{"it comes", func(_ *Bucket, bucket *origin, _ func()) { close(bucket.gates["p/a"]) }, false, 1},
		{"who brings it gives up", func(_ *Bucket, bucket *origin, cancel func()) {
			cancel()
			synctest.Wait()
			close(bucket.gates["p/a"])
		}, true, 2},
		{"it is released meanwhile", func(b *Bucket, bucket *origin, _ func()) {
			b.Release("pod")
			close(bucket.gates["p/a"])
		}, false, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bucket := newOrigin(t, map[string]string{"p/a": "aaaa"})
				bucket.gates["p/a"] = make(chan struct{})
				b := open(t, bucket, Options{MaxBytes: 8})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				brought := make(chan error, 1)
				go func() { brought <- b.Bring(ctx, "pod", "p/a", 4) }()
				synctest.Wait()
				got := make(chan string, 1)
				go func() { got <- read(t, b, "p/a", 0, -1) }()
				synctest.Wait()
				c.end(b, bucket, cancel)
				require.Equal(t, "aaaa", <-got)
				require.Equal(t, c.fault, <-brought != nil)
				require.Equal(t, c.reads, bucket.reads["p/a"])
				b.Release("pod")
				n, _ := files(t, b)
				require.Zero(t, n)
				require.Zero(t, b.Stats().Bytes)
			})
		})
	}
}

func TestDamageOnTheDisk(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, path string)
		first  string
	}{
		{"the file is gone", func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }, "aaaa"},
		{"it has other content: the reader finds out", func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, []byte("abba"), 0o600))
		}, "abba"},
		{"it is short: the reader finds out", func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 2)) }, "aa"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, newOrigin(t, map[string]string{"p/a": "aaaa"}), Options{MaxBytes: 8})
			require.NoError(t, b.Bring(t.Context(), "pod", "p/a", 4))
			c.damage(t, filepath.Join(b.options.Dir, b.kept["p/a"].file))
			require.Equal(t, c.first, read(t, b, "p/a", 0, -1))
			b.Forget("p/a", "p/unknown")
			require.Equal(t, "aaaa", read(t, b, "p/a", 0, -1))
		})
	}
}

func TestObjectsOfAnotherSizeAreNotKept(t *testing.T) {
	for _, size := range []int64{3, 5} {
		b := open(t, newOrigin(t, map[string]string{"p/a": "aaaa"}), Options{MaxBytes: 8})
		require.ErrorContains(t, b.Bring(t.Context(), "pod", "p/a", size), "bytes that it should have")
		n, _ := files(t, b)
		require.Zero(t, n)
	}
}

// A small file system in memory: what the system itself says when it is full.
func TestAFullDiskCostsTheCacheAlone(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	body := strings.Repeat("x", 100<<10)
	b := open(t, newOrigin(t, map[string]string{"p/a": body}), Options{
		Dir: filepath.Join(dir, "cache"), MaxBytes: 1 << 20, Free: func() (int64, error) { return 1 << 20, nil }, // it lies
	})
	require.ErrorIs(t, b.Bring(t.Context(), "pod", "p/a", int64(len(body))), syscall.ENOSPC)
	n, _ := files(t, b)
	require.Zero(t, n, "nothing half written stays")
	require.Equal(t, body, read(t, b, "p/a", 0, -1))
}

func TestOpenEmptiesTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "1"), []byte("of an earlier life"), 0o644))
	b := open(t, mem.New(), Options{Dir: dir, MaxBytes: 8})
	n, _ := files(t, b)
	require.Zero(t, n)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.EqualValues(t, 0o700, info.Mode().Perm())
}

func TestManyAtOnce(t *testing.T) {
	objects := map[string]string{}
	for i := range 50 {
		objects[fmt.Sprintf("p/%d", i)] = strings.Repeat(string(rune('a'+i%26)), 1000)
	}
	b := open(t, newOrigin(t, objects), Options{MaxBytes: 20 << 10, AtOnce: 4})
	var group sync.WaitGroup
	for i := range 8 {
		owner := fmt.Sprint(i)
		group.Go(func() {
			for key, body := range objects {
				if err := b.Bring(t.Context(), owner, key, 1000); err != nil && !errors.Is(err, ErrNoRoom) && !strings.Contains(err.Error(), "gave up") {
					t.Error(err)
				}
				if got := read(t, b, key, 0, -1); got != body {
					t.Errorf("%s: other content", key)
				}
			}
			b.Release(owner)
		})
	}
	group.Wait()
	n, _ := files(t, b)
	require.Zero(t, n)
	require.Zero(t, b.Stats().Bytes)
	require.Zero(t, b.coming)
}
