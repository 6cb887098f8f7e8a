package store_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

var (
	target  = store.Target{Cluster: "test", Namespace: "default", Name: "train", UID: "6f1d6c1c-0000-4000-8000-000000000001"}
	testKey = store.Key{1, 2, 3}
)

// sample is an entry and its content, if it is a file of its own.
type sample struct {
	entry   store.Entry
	content []byte
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
	return sample{entry, content}
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
	}
}

// samples adds contents of all shapes: several packs, zeros, frames' edges.
func samples() []sample {
	sparse := make([]byte, 3<<20+5)
	copy(sparse[1<<20+100:], "an island")
	all := append(smallSamples(),
		file("criu/pages-1.img", random(1, 20<<20)),
		file("criu/zeros", make([]byte, 5<<20+1)),
		file("criu/sparse", sparse),
		file("criu/text", bytes.Repeat([]byte("the same again "), 100_000)),
	)
	for i, size := range []int{1, 4095, 4096, 4097, 65535, 65536, 65537, 131072} {
		all = append(all, file(fmt.Sprintf("edges/%d", size), random(byte(i+2), size)))
	}
	return append(all, file("criu/pages-2.img", random(20, 17<<20)))
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
		if err := w.Add(ctx, s.entry, bytes.NewReader(s.content)); err != nil {
			return err
		}
	}
	return nil
}

// write makes one generation and returns the first error of any step.
func write(ctx context.Context, s *store.Store, number, epoch int64, all []sample) (store.Generation, error) {
	w, err := s.Begin(ctx, target, meta(number, epoch))
	if err != nil {
		return store.Generation{}, err
	}
	if err := add(ctx, w, all); err != nil {
		w.Abort(ctx)
		return store.Generation{}, err
	}
	gen, err := w.Commit(ctx)
	if err != nil {
		w.Abort(ctx)
	}
	return gen, err
}

// read fetches a generation; it returns all that fn saw even where Fetch fails.
func read(ctx context.Context, s *store.Store, number, epoch int64) ([]sample, store.Meta, error) {
	r, err := s.Open(ctx, target, number, epoch)
	if err != nil {
		return nil, store.Meta{}, err
	}
	var got []sample
	err = r.Fetch(ctx, func(e store.Entry, content io.Reader) error {
		body, err := io.ReadAll(content)
		if err == nil {
			got = append(got, sample{e, body})
		}
		return err
	})
	return got, r.Meta(), err
}

func requireSame(t *testing.T, want, got []sample) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i].entry, got[i].entry)
		require.True(t, bytes.Equal(want[i].content, got[i].content), "content of %s differs", want[i].entry.Path)
	}
}

func requireGeneration(t *testing.T, s *store.Store, number, epoch int64, want []sample) {
	t.Helper()
	got, m, err := read(t.Context(), s, number, epoch)
	require.NoError(t, err)
	require.Equal(t, meta(number, epoch), m)
	requireSame(t, want, got)
}
