package store_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// Objects that were written once are read for ever. -update writes them anew: only a new version of the format may.
var update = flag.Bool("update", false, "write testdata/v1 anew")

const goldenFolder = "testdata/v1"

// goldenGenerations are what the objects hold: a chain of three, each written with another codec.
func goldenGenerations() [][]sample {
	text := bytes.Repeat([]byte("step 000123 loss 0.482913\n"), 200)[:page+100]
	memory := append(random(1, page), bytes.Repeat([]byte("weights "), 3*page/8)...)
	runs := []store.Run{at(0x7f0000001000, 3), at(0x7fffffffe000, 2)}
	one := append(memory, make([]byte, page)...)
	two := with(one, 1, bytes.Repeat([]byte("changed "), page/8))
	three := with(two, 4, bytes.Repeat([]byte("stack "), 100))
	var all [][]sample
	for i, content := range [][]byte{one, two, three} {
		all = append(all, append(smallSamples(), file("rootfs/log", text[:page+30*i]), image("1", content, runs...)))
	}
	return all
}

func writeGolden(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	var base *store.Base
	for i, all := range goldenGenerations() {
		var err error
		_, base, err = writeDelta(t.Context(), s, meta(int64(i+1), 0), all, store.WriteOptions{Base: base, Codec: codecs[i]})
		require.NoError(t, err)
	}
	require.NoError(t, os.RemoveAll(goldenFolder))
	for key, body := range objects(t, bucket, "") {
		name := filepath.Join(goldenFolder, strings.TrimPrefix(key, target.Prefix()))
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, body, 0o644))
	}
	for i := range goldenGenerations() {
		stored, _, err := store.ManifestSections(t.Context(), s, target, int64(i+1), 0)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(goldenManifest(i+1), []byte(inHex(stored)), 0o644))
	}
}

// goldenManifest is the plaintext of a manifest in hex, a line a section.
func goldenManifest(number int) string {
	return filepath.Join(goldenFolder, "gen", fmt.Sprintf("%d-0", number), "manifest.hex")
}

func inHex(sections [][]byte) string {
	var text strings.Builder
	for _, section := range sections {
		text.WriteString(hex.EncodeToString(section) + "\n")
	}
	return text.String()
}

// goldenBucket holds the objects of testdata.
func goldenBucket(t *testing.T) *mem.Bucket {
	t.Helper()
	bucket := mem.New()
	folder := os.DirFS(goldenFolder)
	require.NoError(t, fs.WalkDir(folder, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(name, ".hex") {
			return err
		}
		body, err := fs.ReadFile(folder, name)
		replace(t, bucket, target.Prefix()+name, body)
		return err
	}))
	return bucket
}

func TestGoldenObjects(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	bucket := goldenBucket(t)
	require.Len(t, objects(t, bucket, ""), 8, "KEY, HEAD, three manifests, three packs")
	s := store.New(bucket, testRing)
	all := goldenGenerations()
	for i := range all {
		requireGeneration(t, s, int64(i+1), 0, all[i])
	}
	r, err := s.Open(t.Context(), target, 3, 0)
	require.NoError(t, err)
	src, err := r.Pages(t.Context())
	require.NoError(t, err)
	defer src.Close()
	got := make([]byte, page)
	last := all[2][len(all[2])-1].content
	for i, address := range []uint64{0x7f0000001000, 0x7f0000002000, 0x7f0000003000, 0x7fffffffe000, 0x7ffffffff000} {
		require.NoError(t, src.ReadPage(t.Context(), "1", address, got))
		require.True(t, bytes.Equal(last[i*page:(i+1)*page], got), "page %#x", address)
	}
	base, err := s.Base(t.Context(), target)
	require.NoError(t, err)
	gen, _, err := writeDelta(t.Context(), s, meta(4, 0), all[2], store.WriteOptions{Base: base})
	require.NoError(t, err)
	require.Zero(t, gen.NewBlocks, "hashes are the same too")
}

// A manifest is encoded today as it was then.
func TestGoldenManifests(t *testing.T) {
	s := store.New(goldenBucket(t), testRing)
	for i := range goldenGenerations() {
		want, err := os.ReadFile(goldenManifest(i + 1))
		require.NoError(t, err)
		stored, again, err := store.ManifestSections(t.Context(), s, target, int64(i+1), 0)
		require.NoError(t, err)
		require.Equal(t, string(want), inHex(stored))
		require.Equal(t, string(want), inHex(again))
	}
}
