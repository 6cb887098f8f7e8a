// Package storetest holds the contract that every store.Bucket passes, and a bucket that fails on command.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

// Run puts a kind of bucket to the contract of store.Bucket. open returns an empty bucket each time.
func Run(t *testing.T, open func(t *testing.T) store.Bucket) {
	cases := []struct {
		name string
		test func(*testing.T, store.Bucket)
	}{
		{"what was put is got", putGet},
		{"ranges", ranges},
		{"absent objects", absent},
		{"if absent", ifAbsent},
		{"if match", ifMatch},
		{"an etag never comes back", etagsDiffer},
		{"a body is the caller's again", bodyIsTheCallers},
		{"racing if-absent puts have one winner", raceIfAbsent},
		{"racing if-match puts lose no update", raceIfMatch},
		{"racing writers of a generation have one winner", raceWriters},
		{"readers never see a mixture", noMixture},
		{"list", list},
		{"list a thousand and more", listMany},
		{"delete", remove},
		{"ended contexts", endedContext},
		{"keys that lead astray", badKeys},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func put(t *testing.T, b store.Bucket, key, body string) store.Info {
	t.Helper()
	info, err := b.Put(t.Context(), key, []byte(body), store.Condition{})
	require.NoError(t, err)
	return info
}

func get(t *testing.T, b store.Bucket, key string, offset, length int64) string {
	t.Helper()
	stream, err := b.Get(t.Context(), key, offset, length)
	require.NoError(t, err)
	defer stream.Close()
	body, err := io.ReadAll(stream)
	require.NoError(t, err)
	return string(body)
}

func putGet(t *testing.T, b store.Bucket) {
	random := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	bodies := []struct{ name, body string }{{"empty", ""}, {"small", "hello"}, {"a whole pack", string(random)}}
	for _, c := range bodies {
		t.Run(c.name, func(t *testing.T) {
			before := time.Now()
			info := put(t, b, "deep/er/key", c.body)
			require.Equal(t, "deep/er/key", info.Key)
			require.Equal(t, int64(len(c.body)), info.Size)
			require.NotEmpty(t, info.ETag)
			require.True(t, get(t, b, "deep/er/key", 0, -1) == c.body, "content differs")
			stat, err := b.Stat(t.Context(), "deep/er/key")
			require.NoError(t, err)
			require.Equal(t, "deep/er/key", stat.Key)
			require.Equal(t, info.Size, stat.Size)
			require.Equal(t, info.ETag, stat.ETag)
			require.WithinDuration(t, before, stat.Modified, time.Minute)
		})
	}
}

func ranges(t *testing.T, b store.Bucket) {
	put(t, b, "key", "0123456789")
	cases := []struct {
		name           string
		offset, length int64
		want           string
	}{
		{"whole", 0, -1, "0123456789"},
		{"head", 0, 3, "012"},
		{"middle", 3, 4, "3456"},
		{"one byte", 9, 1, "9"},
		{"tail", 7, -1, "789"},
		{"longer than the object", 7, 100, "789"},
		{"nothing", 4, 0, ""},
		{"from the end", 10, -1, ""},
		{"behind the end", 20, 5, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, get(t, b, "key", c.offset, c.length)) })
	}
	_, err := b.Get(t.Context(), "key", -1, 1)
	require.Error(t, err)
}

func absent(t *testing.T, b store.Bucket) {
	put(t, b, "folder/key", "x")
	for _, key := range []string{"key", "folder", "folder/key/below", "folder/other"} {
		for _, length := range []int64{-1, 0, 1} {
			stream, err := b.Get(t.Context(), key, 0, length)
			require.ErrorIs(t, err, store.ErrNotFound, key)
			require.ErrorContains(t, err, key)
			require.Nil(t, stream, key)
		}
		_, err := b.Stat(t.Context(), key)
		require.ErrorIs(t, err, store.ErrNotFound, key)
		require.ErrorContains(t, err, key)
	}
}

func ifAbsent(t *testing.T, b store.Bucket) {
	_, err := b.Put(t.Context(), "key", []byte("first"), store.Condition{IfAbsent: true})
	require.NoError(t, err)
	_, err = b.Put(t.Context(), "key", []byte("second"), store.Condition{IfAbsent: true})
	require.ErrorIs(t, err, store.ErrPrecondition)
	require.ErrorContains(t, err, "key")
	require.Equal(t, "first", get(t, b, "key", 0, -1))
}

func ifMatch(t *testing.T, b store.Bucket) {
	_, err := b.Put(t.Context(), "key", []byte("x"), store.Condition{IfMatch: "0123456789abcdef0123456789abcdef"})
	require.ErrorIs(t, err, store.ErrPrecondition, "absent")
	first := put(t, b, "key", "first")
	second, err := b.Put(t.Context(), "key", []byte("second"), store.Condition{IfMatch: first.ETag})
	require.NoError(t, err)
	_, err = b.Put(t.Context(), "key", []byte("third"), store.Condition{IfMatch: first.ETag})
	require.ErrorIs(t, err, store.ErrPrecondition)
	require.Equal(t, "second", get(t, b, "key", 0, -1))
	require.NoError(t, b.Delete(t.Context(), "key"))
	_, err = b.Put(t.Context(), "key", []byte("third"), store.Condition{IfMatch: second.ETag})
	require.ErrorIs(t, err, store.ErrPrecondition, "deleted")
}

func etagsDiffer(t *testing.T, b store.Bucket) {
	cases := []struct {
		name       string
		size, puts int
	}{{"small", 2, 50}, {"large", 3 << 20, 10}}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			seen := map[string]bool{}
			for i := range c.puts {
				info := put(t, b, "key", fmt.Sprintf("%0*d", c.size, i))
				require.False(t, seen[info.ETag])
				seen[info.ETag] = true
			}
		})
	}
}

// bodyIsTheCallers: packs are written into buffers that are used again.
func bodyIsTheCallers(t *testing.T, b store.Bucket) {
	body := []byte("first")
	_, err := b.Put(t.Context(), "key", body, store.Condition{})
	require.NoError(t, err)
	require.Equal(t, "first", string(body), "a bucket writes into the body")
	copy(body, "other")
	require.Equal(t, "first", get(t, b, "key", 0, -1))
}

const racers = 64

func raceIfAbsent(t *testing.T, b store.Bucket) {
	var winners, others atomic.Int32
	var running sync.WaitGroup
	var winner atomic.Int32
	for i := range racers {
		running.Go(func() {
			_, err := b.Put(t.Context(), "race/key", []byte(fmt.Sprint(i)), store.Condition{IfAbsent: true})
			switch {
			case err == nil:
				winners.Add(1)
				winner.Store(int32(i))
			case !errors.Is(err, store.ErrPrecondition):
				others.Add(1)
				t.Error(err)
			}
		})
	}
	running.Wait()
	require.Equal(t, int32(1), winners.Load())
	require.Zero(t, others.Load())
	require.Equal(t, fmt.Sprint(winner.Load()), get(t, b, "race/key", 0, -1))
}

// raceIfMatch counts up in one object: no two racers may both move it on from the same state.
func raceIfMatch(t *testing.T, b store.Bucket) {
	info := put(t, b, "counter", "round 0")
	const rounds = 8
	for round := range rounds {
		var winners atomic.Int32
		var running sync.WaitGroup
		for i := range racers {
			running.Go(func() {
				body := fmt.Sprintf("round %d by %d", round+1, i)
				_, err := b.Put(t.Context(), "counter", []byte(body), store.Condition{IfMatch: info.ETag})
				if err == nil {
					winners.Add(1)
				} else if !errors.Is(err, store.ErrPrecondition) {
					t.Error(err)
				}
			})
		}
		running.Wait()
		require.Equal(t, int32(1), winners.Load())
		var err error
		info, err = b.Stat(t.Context(), "counter")
		require.NoError(t, err)
	}
}

// raceWriters is the reason for the conditions: of 64 writers of a generation one commits, and all others are told.
func raceWriters(t *testing.T, b store.Bucket) {
	s := store.New(b, store.Keyring{{1}})
	target := store.Target{Cluster: "c", Namespace: "ns", Name: "name", UID: "uid"}
	for number := range int64(3) {
		winner := raceForGeneration(t, s, target, number+1)
		r, err := s.Open(t.Context(), target, number+1, 0)
		require.NoError(t, err)
		require.Equal(t, winner, r.Meta().Node)
		got := &oneFile{}
		require.NoError(t, r.Fetch(got).Run(t.Context()))
		require.Equal(t, winner, string(got.body))
	}
}

// raceForGeneration returns the one node that committed.
func raceForGeneration(t *testing.T, s *store.Store, target store.Target, number int64) string {
	t.Helper()
	var mu sync.Mutex
	var winners []string
	var running sync.WaitGroup
	for i := range racers {
		running.Go(func() {
			node := fmt.Sprintf("node-%d", i)
			err := writeGeneration(t.Context(), s, target, store.Meta{Number: number, Node: node})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners = append(winners, node)
			} else if !errors.Is(err, store.ErrFenced) {
				t.Error(err)
			}
		})
	}
	running.Wait()
	require.Len(t, winners, 1)
	return winners[0]
}

// oneFile is a store.Sink for a generation of one small file.
type oneFile struct{ body []byte }

func (f *oneFile) Make(e store.Entry) error                { f.body = make([]byte, e.Size); return nil }
func (f *oneFile) Open(store.Entry) (store.File, error)    { return f, nil }
func (f *oneFile) Finish(store.Entry) error                { return nil }
func (f *oneFile) Close() error                            { return nil }
func (f *oneFile) WriteAt(b []byte, at int64) (int, error) { return copy(f.body[at:], b), nil }

func writeGeneration(ctx context.Context, s *store.Store, target store.Target, meta store.Meta) error {
	w, err := s.Begin(ctx, target, meta, store.WriteOptions{})
	if err != nil {
		return err
	}
	defer w.Abort(ctx)
	entry := store.Entry{Path: "node", Type: store.TypeRegular, Size: int64(len(meta.Node))}
	if err := w.Add(ctx, entry, strings.NewReader(meta.Node)); err != nil {
		return err
	}
	_, err = w.Commit(ctx)
	return err
}

func noMixture(t *testing.T, b store.Bucket) {
	const size = 256 << 10
	body := func(c byte) []byte { return bytes.Repeat([]byte{c}, size) }
	_, err := b.Put(t.Context(), "key", body('a'), store.Condition{})
	require.NoError(t, err)
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range byte(20) {
			if _, err := b.Put(t.Context(), "key", body('a'+i), store.Condition{}); err != nil {
				t.Error(err)
			}
		}
	})
	for range 20 {
		got := get(t, b, "key", 0, -1)
		require.Len(t, got, size)
		require.True(t, got == string(body(got[0])), "a mixture of two objects")
	}
	writing.Wait()
}

func listed(t *testing.T, b store.Bucket, prefix string) []string {
	t.Helper()
	keys := []string{}
	for info, err := range b.List(t.Context(), prefix) {
		require.NoError(t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

func list(t *testing.T, b store.Bucket) {
	require.Empty(t, listed(t, b, ""))
	for _, key := range []string{"a/b", "a.b", "a/b.c", "a/c/d", "ab", "b"} {
		put(t, b, key, key)
	}
	cases := []struct {
		prefix string
		want   []string
	}{
		{"", []string{"a.b", "a/b", "a/b.c", "a/c/d", "ab", "b"}},
		{"a", []string{"a.b", "a/b", "a/b.c", "a/c/d", "ab"}},
		{"a/", []string{"a/b", "a/b.c", "a/c/d"}},
		{"a/b", []string{"a/b", "a/b.c"}},
		{"a/c/", []string{"a/c/d"}},
		{"nothing/here", []string{}},
	}
	for _, c := range cases {
		t.Run("prefix "+c.prefix, func(t *testing.T) { require.Equal(t, c.want, listed(t, b, c.prefix)) })
	}
	for info, err := range b.List(t.Context(), "a/c") {
		require.NoError(t, err)
		require.Equal(t, int64(len("a/c/d")), info.Size)
		require.WithinDuration(t, time.Now(), info.Modified, time.Minute)
	}
	for range b.List(t.Context(), "") {
		break // a caller may stop early
	}
}

func listMany(t *testing.T, b store.Bucket) {
	const many = 1100 // more than one page of S3
	want := make([]string, many)
	var running sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range want {
		want[i] = fmt.Sprintf("many/%04d", i)
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if _, err := b.Put(t.Context(), want[i], nil, store.Condition{}); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	require.Equal(t, want, listed(t, b, "many/"))
}

func remove(t *testing.T, b store.Bucket) {
	put(t, b, "key", "x")
	require.NoError(t, b.Delete(t.Context(), "key"))
	_, err := b.Stat(t.Context(), "key")
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, b.Delete(t.Context(), "key"), "again")
	require.NoError(t, b.Delete(t.Context(), "never/there"))
	_, err = b.Put(t.Context(), "key", []byte("y"), store.Condition{IfAbsent: true})
	require.NoError(t, err)
}

func endedContext(t *testing.T, b store.Bucket) {
	info := put(t, b, "key", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Put(ctx, "key", []byte("y"), store.Condition{IfMatch: info.ETag})
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Get(ctx, "key", 0, -1)
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Stat(ctx, "key")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Delete(ctx, "key"), context.Canceled)
	var last error
	for _, err := range b.List(ctx, "") {
		last = err
	}
	require.ErrorIs(t, last, context.Canceled)
	require.Equal(t, "x", get(t, b, "key", 0, -1))
}

func badKeys(t *testing.T, b store.Bucket) {
	keys := []string{
		"", "/", "/abs", "a//b", "a/", "..", "../x", "a/../b", ".hidden", "a/.hidden", "a\x00b", "a b", "ä",
	}
	for _, key := range keys {
		_, err := b.Put(t.Context(), key, nil, store.Condition{})
		require.ErrorIs(t, err, store.ErrInvalid, "%q", key)
		_, err = b.Get(t.Context(), key, 0, -1)
		require.ErrorIs(t, err, store.ErrInvalid, "%q", key)
		_, err = b.Stat(t.Context(), key)
		require.ErrorIs(t, err, store.ErrInvalid, "%q", key)
		require.ErrorIs(t, b.Delete(t.Context(), key), store.ErrInvalid, "%q", key)
	}
	require.Empty(t, listed(t, b, ""))
}
