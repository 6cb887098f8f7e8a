package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/file"
)

// train is the target of the examples in docs/operations.md, with three generations of which the first is hardly needed.
var train = store.Target{Cluster: "prod", Namespace: "team-a", Name: "train", UID: "6f1d6c1c-0000-4000-8000-000000000001"}

// place is a bucket in a folder, with what the program needs to read it.
type place struct {
	folder  string
	keyFile string
	env     map[string]string
}

const keyText = "1f2e3d4c5b6a79880123456789abcdef1f2e3d4c5b6a79880123456789abcdef"

func newPlace(t *testing.T) *place {
	t.Helper()
	dir := t.TempDir()
	p := &place{folder: filepath.Join(dir, "bucket"), keyFile: filepath.Join(dir, "key")}
	require.NoError(t, os.WriteFile(p.keyFile, []byte(keyText+"\n"), 0o600))
	p.env = map[string]string{"LIFEBOAT_BUCKET": "file://" + p.folder, "LIFEBOAT_KEY_FILE": p.keyFile}
	p.write(t, train, 3)
	return p
}

func (p *place) bucket(t *testing.T) *file.Bucket {
	t.Helper()
	b, err := file.Open(p.folder)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// write commits generations whose memory is 40 pages, of which the first 30 differ in each.
func (p *place) write(t *testing.T, target store.Target, generations int) {
	t.Helper()
	ring, err := store.ParseKeyring([]byte(keyText))
	require.NoError(t, err)
	s := store.New(p.bucket(t), ring)
	var base *store.Base
	for number := int64(1); number <= int64(generations); number++ {
		meta := store.Meta{
			Number: number, PodUID: "pod", Node: "node-a", Created: time.Date(2026, 11, 20, 12, int(number), 0, 0, time.UTC),
			Containers:   []store.ContainerMeta{{Name: "main", Image: "img:1", ImageDigest: "sha256:aa", RSSBytes: 40 << 12}},
			Requirements: map[string]string{"arch": "amd64"},
		}
		w, err := s.Begin(t.Context(), target, meta, store.WriteOptions{Base: base})
		require.NoError(t, err)
		pages := make([]byte, 40*store.BlockSize)
		for i := range 40 {
			age := number
			if i >= 30 {
				age = 1
			}
			pages[i*store.BlockSize], pages[i*store.BlockSize+1] = byte(i+1), byte(age)
		}
		require.NoError(t, w.AddPages(t.Context(), "main-1", 0x10000, pages))
		entry := store.Entry{Path: "criu/pages-1.img", Type: store.TypeRegular, Mode: 0o600, Size: int64(len(pages))}
		require.NoError(t, w.AddImage(t.Context(), entry, "main-1", []store.Run{{Address: 0x10000, Pages: 40}}))
		entry = store.Entry{Path: "rootfs/a\x1bb", Type: store.TypeRegular, Mode: 0o644, Size: 2}
		require.NoError(t, w.Add(t.Context(), entry, strings.NewReader("hi")))
		_, err = w.Commit(t.Context())
		require.NoError(t, err)
		base = w.Base()
	}
}

// files are those of the bucket below a folder of the target, in their order.
func (p *place) files(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(p.folder, train.Prefix(), pattern))
	require.NoError(t, err)
	return names
}

// needed are the packs of the newest generation; the others are gone after that.
func (p *place) needed(t *testing.T) []string {
	t.Helper()
	code, _, errs := p.run(t, "store", "reap", train.String(), "--keep", "1", "--grace", "0s")
	require.Equal(t, exitFine, code, errs)
	return p.files(t, "packs/*")
}

func (p *place) flip(t *testing.T, name string) {
	t.Helper()
	body, err := os.ReadFile(name)
	require.NoError(t, err)
	body[len(body)-1] ^= 1
	require.NoError(t, os.WriteFile(name, body, 0o600))
}

// run runs the program.
func (p *place) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	lookup := func(name string) (string, bool) {
		value, ok := p.env[name]
		return value, ok
	}
	code = run(t.Context(), args, lookup, &out, &errs)
	require.NotContains(t, out.String()+errs.String(), keyText)
	return code, out.String(), errs.String()
}

// json runs a command of store with -o json and decodes what it prints.
func (p *place) json(t *testing.T, code int, args ...string) map[string]any {
	t.Helper()
	got, out, errs := p.run(t, append([]string{"store", "-o", "json"}, args...)...)
	require.Equal(t, code, got, errs)
	var result map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &result), out)
	return result
}

// at follows names and indexes into decoded JSON.
func at(t *testing.T, from any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			object, ok := from.(map[string]any)
			require.True(t, ok, "%v in %v", step, from)
			require.Contains(t, object, step)
			from = object[step]
		case int:
			list, ok := from.([]any)
			require.True(t, ok)
			require.Greater(t, len(list), step)
			from = list[step]
		}
	}
	return from
}
