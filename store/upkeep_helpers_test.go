package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

var (
	upkept  = store.Target{Cluster: "prod", Namespace: "team-a", Name: "train-1", UID: "6f1d6c1c-0000-4000-8000-000000000001"}
	upkeyed = store.Keyring{{9, 8, 7}}
)

const upkeepTask = "main-1"

// memory is the content of a target: pages of one task, of which some are zeros, and a file.
type memory struct {
	pages []byte
	file  []byte
}

func newMemory(pages int) memory {
	m := memory{pages: noise(1, pages*store.BlockSize), file: noise(2, 3*store.BlockSize+5)}
	clear(m.pages[:store.BlockSize])
	return m
}

// noise is content that no codec makes shorter.
func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}

// changed is the memory with other content in n pages from page first on.
func (m memory) changed(seed uint64, first, n int) memory {
	m.pages = bytes.Clone(m.pages)
	copy(m.pages[first*store.BlockSize:], noise(seed+100, n*store.BlockSize))
	return m
}

const upkeepAddress = 0x7f0000000000

// add hands all of it to a Writer.
func (m memory) add(ctx context.Context, w *store.Writer) error {
	if err := w.AddPages(ctx, upkeepTask, upkeepAddress, m.pages); err != nil {
		return err
	}
	regular := func(path string, size int) store.Entry {
		return store.Entry{Path: path, Type: store.TypeRegular, Mode: 0o600, Size: int64(size)}
	}
	runs := []store.Run{{Address: upkeepAddress, Pages: int64(len(m.pages) / store.BlockSize)}}
	inline := regular("criu/core-1.img", 4)
	inline.Inline = true
	return errors.Join(
		w.Add(ctx, inline, strings.NewReader("core")),
		w.AddImage(ctx, regular("criu/pages-1.img", len(m.pages)), upkeepTask, runs),
		w.Add(ctx, regular("rootfs/file", len(m.file)), bytes.NewReader(m.file)),
	)
}

func upkeepMeta(number, epoch int64) store.Meta {
	return store.Meta{Number: number, Epoch: epoch, PodUID: "pod", Node: "node-a", Created: time.Unix(1700000000+number, 0).UTC()}
}

// commit writes m as the next generation, on the base that the bucket has, and calls before the commit what is not nil.
func (m memory) commit(ctx context.Context, s *store.Store, epoch int64, before func(*store.Writer) error) (store.Generation, error) {
	base, err := s.Base(ctx, upkept)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Generation{}, err
	}
	number := int64(1)
	if base != nil {
		number = base.Head().Number + 1
	}
	w, err := s.Begin(ctx, upkept, upkeepMeta(number, epoch), store.WriteOptions{Base: base})
	if err != nil {
		return store.Generation{}, err
	}
	defer w.Abort(ctx)
	if err := m.add(ctx, w); err != nil {
		return store.Generation{}, err
	}
	if before != nil {
		if err := before(w); err != nil {
			return store.Generation{}, err
		}
	}
	return w.Commit(ctx)
}

// committed writes one generation after the other.
func committed(t *testing.T, b store.Bucket, all ...memory) {
	t.Helper()
	s := store.New(b, upkeyed)
	for _, m := range all {
		_, err := m.commit(t.Context(), s, 0, nil)
		require.NoError(t, err)
	}
}

// shelf is a sink in memory.
type shelf struct {
	mu    sync.Mutex
	files map[string][]byte
}

type shelved struct {
	shelf *shelf
	path  string
}

func (s *shelf) Make(e store.Entry) error {
	s.files[e.Path] = make([]byte, e.Size)
	return nil
}

func (s *shelf) Open(e store.Entry) (store.File, error) { return shelved{s, e.Path}, nil }

func (s *shelf) Finish(store.Entry) error { return nil }

func (f shelved) WriteAt(p []byte, at int64) (int, error) {
	f.shelf.mu.Lock()
	defer f.shelf.mu.Unlock()
	return copy(f.shelf.files[f.path][at:], p), nil
}

func (f shelved) Close() error { return nil }

// restored reads a generation whole.
func restored(ctx context.Context, r *store.Reader) (memory, error) {
	s := &shelf{files: map[string][]byte{}}
	err := r.Fetch(s).Run(ctx)
	return memory{pages: s.files["criu/pages-1.img"], file: s.files["rootfs/file"]}, err
}

// requireRestores reads a generation, 0 for HEAD's, from a Store that knows nothing yet.
func requireRestores(t *testing.T, b store.Bucket, number int64, want memory) {
	t.Helper()
	s := store.New(b, upkeyed)
	generations, err := s.Generations(t.Context(), upkept)
	require.NoError(t, err)
	at := slices.IndexFunc(generations, func(g store.GenerationInfo) bool { return number == 0 || g.Number == number })
	require.GreaterOrEqual(t, at, 0, "generation %d is in no chain", number)
	r, err := s.Open(t.Context(), upkept, generations[at].Number, generations[at].Epoch)
	require.NoError(t, err)
	got, err := restored(t.Context(), r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.pages, got.pages), "pages differ")
	require.True(t, bytes.Equal(want.file, got.file), "file differs")
	report, err := r.Verify(t.Context(), store.VerifyOptions{})
	require.NoError(t, err)
	require.Empty(t, report.Faults)
}

// requireNextWriter commits one more generation, and reads it.
func requireNextWriter(t *testing.T, b store.Bucket, now memory) {
	t.Helper()
	s := store.New(b, upkeyed)
	var epoch int64
	if head, err := s.Head(t.Context(), upkept); err == nil {
		epoch = head.Epoch
	}
	next := now.changed(77, 3, 5)
	_, err := next.commit(t.Context(), s, epoch, nil)
	require.NoError(t, err)
	requireRestores(t, b, 0, next)
}

// crashEverywhere stops act at each of its bucket calls, made or not made, or has it go on after a lost reply, and has the
// bucket checked by after.
func crashEverywhere(t *testing.T, prepare func(t *testing.T) *mem.Bucket, act func(context.Context, *store.Store) error,
	after func(t *testing.T, b *mem.Bucket)) {
	t.Helper()
	counting := storetest.NewFaulty(t, prepare(t))
	require.NoError(t, act(t.Context(), store.New(counting, upkeyed)))
	calls := len(counting.Calls())
	require.Positive(t, calls)
	cases := []struct {
		name  string
		fault storetest.Fault
	}{
		{"dies before", storetest.Fault{Effect: storetest.Fail, Down: true}},
		{"dies after", storetest.Fault{Effect: storetest.Lose, Down: true}},
		{"lost reply", storetest.Fault{Effect: storetest.Lose}},
	}
	for at := 1; at <= calls; at++ {
		for _, c := range cases {
			t.Run(fmt.Sprintf("%s call %d of %d", c.name, at, calls), func(t *testing.T) {
				bucket := prepare(t)
				c.fault.At = at
				err := act(t.Context(), store.New(storetest.NewFaulty(t, bucket, c.fault), upkeyed))
				if c.fault.Down || err != nil {
					require.ErrorIs(t, err, storetest.ErrInjected)
				}
				after(t, bucket)
			})
		}
	}
}

// upkeepKeys are the keys of all objects of the target, without its prefix.
func upkeepKeys(t *testing.T, b store.Bucket) []string {
	t.Helper()
	var keys []string
	for info, err := range b.List(t.Context(), upkept.Prefix()) {
		require.NoError(t, err)
		keys = append(keys, strings.TrimPrefix(info.Key, upkept.Prefix()))
	}
	return keys
}

func manifestsOf(t *testing.T, b store.Bucket) []string {
	return slices.DeleteFunc(upkeepKeys(t, b), func(key string) bool { return !strings.HasPrefix(key, "gen/") })
}

// packsOf are the packs in the order in which they were put; that of their names is another within a millisecond.
func packsOf(t *testing.T, b store.Bucket) []string {
	t.Helper()
	var packs []store.Info
	for info, err := range b.List(t.Context(), upkept.Prefix()+"packs/") {
		require.NoError(t, err)
		packs = append(packs, info)
	}
	slices.SortFunc(packs, func(a, b store.Info) int { return a.Modified.Compare(b.Modified) })
	var keys []string
	for _, info := range packs {
		keys = append(keys, strings.TrimPrefix(info.Key, upkept.Prefix()))
	}
	return keys
}

// copied is a bucket with the same objects.
func copied(t *testing.T, from store.Bucket) *mem.Bucket {
	t.Helper()
	to := mem.New()
	for info, err := range from.List(t.Context(), "") {
		require.NoError(t, err)
		_, err = to.Put(t.Context(), info.Key, objectBytes(t, from, info.Key), store.Condition{})
		require.NoError(t, err)
	}
	return to
}

func objectBytes(t *testing.T, b store.Bucket, key string) []byte {
	t.Helper()
	stream, err := b.Get(t.Context(), key, 0, -1)
	require.NoError(t, err)
	defer stream.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(stream)
	require.NoError(t, err)
	return body.Bytes()
}

// flip changes one bit of an object; at counts from its end where it is negative.
func flip(t *testing.T, b store.Bucket, key string, at int) {
	t.Helper()
	body := objectBytes(t, b, key)
	if at < 0 {
		at += len(body)
	}
	body[at] ^= 1
	_, err := b.Put(t.Context(), key, body, store.Condition{})
	require.NoError(t, err)
}
