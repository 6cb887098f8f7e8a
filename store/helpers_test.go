package store_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

var (
	target   = store.Target{Cluster: "test", Namespace: "default", Name: "train", UID: "6f1d6c1c-0000-4000-8000-000000000001"}
	testRing = store.Keyring{{1, 2, 3}}
	codecs   = []store.Codec{store.CodecNone, store.CodecS2, store.CodecZstd}
)

const page = store.BlockSize

// sample is an entry and its content, if it is a file of its own. With a task it is an image of the runs.
type sample struct {
	entry   store.Entry
	content []byte
	task    string
	runs    []store.Run
}

func random(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func file(path string, content []byte) sample {
	entry := store.Entry{
		Path: path, Type: store.TypeRegular, Mode: 0o640, Size: int64(len(content)),
		ModTime: time.Unix(1700000000, 123456789).UTC(),
	}
	return sample{entry: entry, content: content}
}

func inline(path string, content []byte) sample {
	s := file(path, content)
	s.entry.Inline = true
	return s
}

// image is pages-ID.img of a task, of runs as long as content.
func image(task string, content []byte, runs ...store.Run) sample {
	s := file("criu/pages-"+task+".img", content)
	s.task, s.runs = task, runs
	return s
}

// smallSamples has every type of entry, in a few hundred bytes.
func smallSamples() []sample {
	at := time.Unix(1700000001, 7).UTC()
	other := func(path string, typ store.Type) sample {
		return sample{entry: store.Entry{Path: path, Type: typ, Mode: 0o600, UID: 1000, GID: 4294967295, ModTime: at}}
	}
	root, opaque, link := other(".", store.TypeDir), other("rootfs/opaque", store.TypeDir), other("rootfs/link", store.TypeSymlink)
	root.entry.Mode = 0o1777
	opaque.entry.Opaque = true
	link.entry.Linkname = "../../etc/passwd"
	second := other("rootfs/a/second", store.TypeRegular)
	second.entry.HardlinkTo = "rootfs/a/first"
	first := file("rootfs/a/first", []byte("first\n"))
	first.entry.Mode = 0o6755
	first.entry.Xattrs = map[string][]byte{"user.x": []byte("value\x00"), "security.capability": {1, 0, 0, 2}, "user.empty": {}}
	return []sample{
		root, first, second, other("rootfs/a", store.TypeDir), opaque, link,
		other("rootfs/fifo", store.TypeFIFO), other("rootfs/sock", store.TypeSocket), other("rootfs/gone", store.TypeWhiteout),
		file("rootfs/empty", nil), file("rootfs/not utf-8 \xff", []byte("x")),
		inline("criu/core-1.img", []byte("registers")), inline("criu/empty.img", nil),
	}
}

// samples adds contents of all shapes: several packs, zeros, frames' edges, images of fragmented runs.
func samples() []sample {
	sparse := make([]byte, 3<<20+5)
	copy(sparse[1<<20+100:], "an island")
	all := append(smallSamples(),
		image("1", random(1, 20<<20), store.Run{Address: 0x7f0000000000, Pages: 5000}, store.Run{Address: 0x7fffff000000, Pages: 120}),
		file("criu/zeros", make([]byte, 5<<20+1)),
		file("criu/sparse", sparse),
		file("criu/text", bytes.Repeat([]byte("the same again "), 100_000)),
		fragmented("2", 3, 700),
	)
	for i, size := range []int{1, 4095, 4096, 4097, 65535, 65536, 65537, 131072} {
		all = append(all, file(fmt.Sprintf("edges/%d", size), random(byte(i+2), size)))
	}
	return append(all, file("criu/other", random(20, 17<<20)), image("3", nil))
}

// fragmented is an image of n runs of 1 to 3 pages with gaps; some of the pages are zeros.
func fragmented(task string, seed byte, n int) sample {
	rng := rand.New(rand.NewChaCha8([32]byte{seed}))
	var runs []store.Run
	var content []byte
	at := uint64(0x400000)
	for range n {
		run := store.Run{Address: at, Pages: 1 + rng.Int64N(3)}
		runs = append(runs, run)
		for range run.Pages {
			if rng.IntN(4) == 0 {
				content = append(content, make([]byte, page)...)
			} else {
				content = append(content, random(byte(rng.Uint32()), page)...)
			}
		}
		at += uint64(run.Pages+rng.Int64N(3)) * page
	}
	return image(task, content, runs...)
}

func meta(number, epoch int64) store.Meta {
	return store.Meta{
		Number: number, Epoch: epoch, PodUID: "pod-uid", Node: "node-a", Final: true,
		Containers:   []store.ContainerMeta{{Name: "main", Image: "img:1", ImageDigest: "sha256:aa", RSSBytes: 1 << 30}},
		Requirements: map[string]string{"arch": "amd64", "criu": "4.2"},
		Created:      time.Unix(1700000002, 3).UTC(),
	}
}

func add(ctx context.Context, w *store.Writer, all []sample) error {
	for _, s := range all {
		var err error
		if s.task == "" {
			err = w.Add(ctx, s.entry, bytes.NewReader(s.content))
		} else if err = addPages(ctx, w, s); err == nil {
			err = w.AddImage(ctx, s.entry, s.task, s.runs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func addPages(ctx context.Context, w *store.Writer, s sample) error {
	content := s.content
	for _, run := range s.runs {
		n := run.Pages * page
		if err := w.AddPages(ctx, s.task, run.Address, content[:n]); err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

// write makes one generation without a base and returns the first error of any step.
func write(ctx context.Context, s *store.Store, number, epoch int64, all []sample) (store.Generation, error) {
	gen, _, err := writeDelta(ctx, s, meta(number, epoch), all, store.WriteOptions{})
	return gen, err
}

// writeDelta makes one generation and returns the base that it offers.
func writeDelta(ctx context.Context, s *store.Store, m store.Meta, all []sample, opts store.WriteOptions) (store.Generation, *store.Base, error) {
	w, err := s.Begin(ctx, target, m, opts)
	if err != nil {
		return store.Generation{}, nil, err
	}
	if err := add(ctx, w, all); err != nil {
		w.Abort(ctx)
		return store.Generation{}, nil, err
	}
	gen, err := w.Commit(ctx)
	if err != nil {
		w.Abort(ctx)
	}
	return gen, w.Base(), err
}

// memSink keeps what is fetched, and complains of calls out of order.
type memSink struct {
	mu       sync.Mutex
	entries  []store.Entry
	files    map[string]*memFile
	opened   bool
	finished int
	// before, if set, may refuse a call.
	before func(op, path string) error
}

type memFile struct {
	sink *memSink
	path string
	body []byte
}

func newSink() *memSink { return &memSink{files: map[string]*memFile{}} }

func (s *memSink) ask(op, path string) error {
	if s.before == nil {
		return nil
	}
	return s.before(op, path)
}

func (s *memSink) Make(e store.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ask("make", e.Path); err != nil {
		return err
	}
	if s.files[e.Path] != nil || s.opened {
		return fmt.Errorf("make %q: twice, or after content", e.Path)
	}
	s.entries = append(s.entries, e)
	s.files[e.Path] = &memFile{sink: s, path: e.Path, body: make([]byte, e.Size)}
	return nil
}

func (s *memSink) Open(e store.Entry) (store.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = true
	if f := s.files[e.Path]; f == nil || e.Type != store.TypeRegular || s.finished > 0 {
		return nil, fmt.Errorf("open %q: not made, or no file, or finished", e.Path)
	}
	return s.files[e.Path], s.ask("open", e.Path)
}

func (s *memSink) Finish(e store.Entry) error {
	if err := s.ask("finish", e.Path); err != nil {
		return err
	}
	if s.finished >= len(s.entries) || s.entries[s.finished].Path != e.Path {
		return fmt.Errorf("finish %q: out of order", e.Path)
	}
	s.finished++
	return nil
}

func (f *memFile) WriteAt(b []byte, at int64) (int, error) {
	f.sink.mu.Lock()
	defer f.sink.mu.Unlock()
	if err := f.sink.ask("write", f.path); err != nil {
		return 0, err
	}
	if at < 0 || at+int64(len(b)) > int64(len(f.body)) {
		return 0, fmt.Errorf("write %q: %d bytes at %d of %d", f.path, len(b), at, len(f.body))
	}
	return copy(f.body[at:], b), nil
}

func (f *memFile) Close() error { return f.sink.ask("close", f.path) }

func (s *memSink) samples() []sample {
	var all []sample
	for _, e := range s.entries {
		all = append(all, sample{entry: e, content: s.files[e.Path].body})
	}
	return all
}

// read fetches a generation; it returns what was written even where that fails.
func read(ctx context.Context, s *store.Store, number, epoch int64) ([]sample, store.Meta, error) {
	r, err := s.Open(ctx, target, number, epoch)
	if err != nil {
		return nil, store.Meta{}, err
	}
	sink := newSink()
	err = r.Fetch(sink).Run(ctx)
	if err == nil && sink.finished != len(sink.entries) {
		err = fmt.Errorf("%d of %d entries finished", sink.finished, len(sink.entries))
	}
	return sink.samples(), r.Meta(), err
}

func requireSame(t testing.TB, want, got []sample) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i].entry, got[i].entry)
		require.True(t, bytes.Equal(want[i].content, got[i].content), "content of %s differs", want[i].entry.Path)
	}
}

func requireGeneration(t testing.TB, s *store.Store, number, epoch int64, want []sample) {
	t.Helper()
	got, m, err := read(t.Context(), s, number, epoch)
	require.NoError(t, err)
	require.Equal(t, meta(number, epoch), m)
	requireSame(t, want, got)
}

// objects reads a bucket's objects below a prefix.
func objects(t testing.TB, bucket store.Bucket, prefix string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for info, err := range bucket.List(t.Context(), prefix) {
		require.NoError(t, err)
		stream, err := bucket.Get(t.Context(), info.Key, 0, -1)
		require.NoError(t, err)
		all[info.Key], err = io.ReadAll(stream)
		require.NoError(t, err)
	}
	return all
}

func replace(t testing.TB, bucket store.Bucket, key string, body []byte) {
	t.Helper()
	_, err := bucket.Put(t.Context(), key, body, store.Condition{})
	require.NoError(t, err)
}

// bucketOf is a new bucket that holds these objects.
func bucketOf(t testing.TB, all map[string][]byte) *mem.Bucket {
	t.Helper()
	bucket := mem.New()
	for key, body := range all {
		replace(t, bucket, key, body)
	}
	return bucket
}
