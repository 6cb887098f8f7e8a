package files

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

var target = store.Target{Cluster: "c", Namespace: "n", Name: "t", UID: "u"}

const page = store.BlockSize

// generations writes one generation after the other.
type generations struct {
	store *store.Store
	base  *store.Base
}

func newGenerations() *generations {
	return &generations{store: store.New(mem.New(), store.Keyring{{1}})}
}

func (g *generations) begin(t testing.TB) *store.Writer {
	t.Helper()
	var number int64 = 1
	if g.base != nil {
		number = g.base.Head().Number + 1
	}
	w, err := g.store.Begin(t.Context(), target, store.Meta{Number: number}, store.WriteOptions{Base: g.base})
	require.NoError(t, err)
	return w
}

func (g *generations) commit(t testing.TB, w *store.Writer) store.Generation {
	t.Helper()
	gen, err := w.Commit(t.Context())
	require.NoError(t, err)
	g.base = w.Base()
	return gen
}

// requireTrees holds that the newest generation is what the pod's trees are, read all anew.
func (g *generations) requireTrees(t testing.TB, p *pod) {
	t.Helper()
	entries, contents, err := p.read(t)
	require.NoError(t, err)
	head := g.base.Head()
	r, err := g.store.Open(t.Context(), target, head.Number, head.WrittenEpoch)
	require.NoError(t, err)
	got := collected{entries: map[string]store.Entry{}, contents: map[string]*collectedFile{}}
	require.NoError(t, r.Fetch(got).Run(t.Context()))
	for name, e := range entries {
		e.ModTime = e.ModTime.UTC()
		entries[name] = e
	}
	require.Equal(t, entries, got.entries)
	require.Len(t, got.contents, len(contents))
	for name, want := range contents {
		require.Truef(t, want == string(got.contents[name].raw), "content of %s", name)
	}
}

// collected is a store.Sink.
type collected struct {
	entries  map[string]store.Entry
	contents map[string]*collectedFile
}

func (c collected) Make(e store.Entry) error {
	e.ModTime = e.ModTime.UTC()
	c.entries[e.Path] = e
	if e.Type == store.TypeRegular && e.HardlinkTo == "" {
		c.contents[e.Path] = &collectedFile{raw: make([]byte, e.Size)}
	}
	return nil
}

func (c collected) Open(e store.Entry) (store.File, error) { return c.contents[e.Path], nil }
func (c collected) Finish(store.Entry) error               { return nil }

type collectedFile struct{ raw []byte }

func (f *collectedFile) WriteAt(b []byte, at int64) (int, error) { return copy(f.raw[at:], b), nil }
func (f *collectedFile) Close() error                            { return nil }

func random(seed uint64, size int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	out := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(out)
	return out
}

func (p *pod) write(t testing.TB, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(p.root, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, content, 0o644))
	return file
}

func overwrite(t testing.TB, file string, at int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(content, at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// settle preloads until all that can be kept is: what has just changed is read again, as its time may be the clock's.
func (p *pod) settle(t testing.TB, w Writer, reads int64) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		stats, err := p.reader.Preload(t.Context(), p.containers(), exclude.Patterns{}, w)
		require.NoError(c, err)
		require.Equal(c, reads, stats.Files)
	}, 10*time.Second, 20*time.Millisecond)
}

func (p *pod) addTo(t testing.TB, w Writer) Stats {
	t.Helper()
	stats, err := p.reader.AddTo(t.Context(), p.containers(), exclude.Patterns{}, w)
	require.NoError(t, err)
	require.Zero(t, stats.Vanished)
	return stats
}

func TestSecondPassReadsWhatChanged(t *testing.T) {
	p, g := newPod(t), newGenerations()
	big := p.write(t, "data/big", random(1, 300*page+11))
	same := p.write(t, "data/same", random(2, 3*page))
	p.write(t, "data/gone", random(3, page))
	for name := range 20 {
		p.write(t, "small/"+string(rune('a'+name)), random(4, 100))
	}
	require.NoError(t, os.Link(same, filepath.Join(p.root, "data/zz")))
	w := g.begin(t)
	p.settle(t, w, 0)
	before, err := os.Stat(same)
	require.NoError(t, err)

	overwrite(t, big, 200*page, random(5, page)) // in place
	overwrite(t, same, 0, random(6, page))       // and as if nothing had been
	require.NoError(t, os.Chtimes(same, before.ModTime(), before.ModTime()))
	require.NoError(t, os.Remove(filepath.Join(p.root, "data/gone")))
	require.NoError(t, os.Chmod(filepath.Join(p.root, "small/a"), 0o600))
	p.write(t, "data/new", random(7, 2*page))
	stats := p.addTo(t, w)
	require.Equal(t, int64(4), stats.Files, "big, same, a with other modes, and new")
	require.Equal(t, int64(19), stats.Spared)
	gen := g.commit(t, w)
	require.Equal(t, int64(301+3+1+20+1+1+2), gen.NewBlocks, "first what there was, then what changed")
	g.requireTrees(t, p)

	w = g.begin(t)
	p.settle(t, w, 0)
	require.Zero(t, p.addTo(t, w).Files)
	require.Zero(t, g.commit(t, w).NewBlocks)
	g.requireTrees(t, p)
}

// A store to a mapped page leaves no trace in the file's times once the page is writable.
func TestMappedFilesAreReadAgain(t *testing.T) {
	p, g := newPod(t), newGenerations()
	p.write(t, "other", random(3, page))
	layer, volume := p.write(t, "mapped", random(1, 4*page)), filepath.Join(p.volume, "mapped")
	require.NoError(t, os.WriteFile(volume, random(2, 4*page), 0o600))
	var views [][]byte
	for _, name := range []string{layer, volume} {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		view, err := unix.Mmap(int(f.Fd()), 0, 4*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		view[0] = 1
		views = append(views, view)
	}
	w := g.begin(t)
	p.settle(t, w, 2)
	var was, is unix.Stat_t
	require.NoError(t, unix.Stat(volume, &was))
	for _, view := range views {
		view[1]++
		require.NoError(t, unix.Munmap(view))
	}
	require.NoError(t, unix.Stat(volume, &is))
	require.Equal(t, was.Ctim, is.Ctim, "this is why")
	require.Equal(t, int64(2), p.addTo(t, w).Files)
	g.commit(t, w)
	g.requireTrees(t, p)
	w = g.begin(t)
	p.settle(t, w, 0)
	w.Abort(t.Context())
}

func TestMemoryIsReadEachTime(t *testing.T) {
	p, g := newPod(t), newGenerations()
	require.NoError(t, unix.Mount("tmpfs", p.volume, "tmpfs", 0, "size=16m"))
	defer func() { require.NoError(t, unix.Unmount(p.volume, 0)) }()
	name := filepath.Join(p.volume, "x")
	require.NoError(t, os.WriteFile(name, random(1, 8*page), 0o600))
	w := g.begin(t)
	for range 3 {
		p.settle(t, w, 1)
	}
	require.Equal(t, int64(1), p.addTo(t, w).Files)
	require.Equal(t, int64(8), g.commit(t, w).NewBlocks)
	g.requireTrees(t, p)
}

func TestHolesAreNotRead(t *testing.T) {
	p, g := newPod(t), newGenerations()
	file := p.write(t, "sparse", random(1, page))
	require.NoError(t, os.Truncate(file, 64<<20|5))
	overwrite(t, file, 20<<20+100, []byte("here"))
	w := g.begin(t)
	stats := p.addTo(t, w)
	require.LessOrEqual(t, stats.BytesRead, int64(1<<20))
	require.Equal(t, int64(2), g.commit(t, w).NewBlocks)
	g.requireTrees(t, p)

	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 30<<20))
	require.NoError(t, f.Close())
	w = g.begin(t)
	p.addTo(t, w)
	require.Zero(t, g.commit(t, w).NewBlocks)
	g.requireTrees(t, p)
}

func TestExcluded(t *testing.T) {
	p, g := newPod(t), newGenerations()
	p.write(t, "tmp/cache/a/b", random(1, page))
	kept := p.write(t, "tmp/kept", random(2, page))
	first := p.write(t, "a.tmp", random(3, page))
	require.NoError(t, os.Link(first, filepath.Join(p.root, "b")))
	require.NoError(t, os.WriteFile(filepath.Join(p.volume, "x"), random(4, page), 0o600))
	patterns, err := exclude.Parse("layer:tmp/cache/**,volume:logs,layer:*.tmp")
	require.NoError(t, err)
	w := g.begin(t)
	_, err = p.reader.Preload(t.Context(), p.containers(), patterns, w)
	require.NoError(t, err)
	stats, err := p.reader.AddTo(t.Context(), p.containers(), patterns, w)
	require.NoError(t, err)
	require.Equal(t, int64(3), stats.Excluded)
	gen := g.commit(t, w)
	require.Equal(t, int64(2), gen.NewBlocks)
	r, err := g.store.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	got := collected{entries: map[string]store.Entry{}, contents: map[string]*collectedFile{}}
	require.NoError(t, r.Fetch(got).Run(t.Context()))
	require.Empty(t, got.entries["layers/main/b"].HardlinkTo, "its first name is left out")
	require.Contains(t, got.entries, "layers/main/tmp/cache")
	require.Contains(t, got.entries, "layers/main/tmp/"+filepath.Base(kept))
	for name := range got.entries {
		require.NotContains(t, name, "cache/")
		require.NotContains(t, name, "volumes")
	}
}

func TestSizes(t *testing.T) {
	p := newPod(t)
	first := p.write(t, "a", random(1, 8*page))
	require.NoError(t, os.Link(first, filepath.Join(p.root, "b")))
	require.NoError(t, os.Truncate(p.write(t, "sparse", random(2, page)), 1<<40))
	leaveOut, err := exclude.Parse("volume:logs")
	require.NoError(t, err)
	sizes, err := p.reader.Sizes(t.Context(), p.containers(), leaveOut)
	require.NoError(t, err)
	require.Len(t, sizes, 1)
	require.Equal(t, int64(4), sizes[0].Entries)
	require.InDelta(t, 9*page, sizes[0].Bytes, 4*page)
}

func TestPassesEnd(t *testing.T) {
	p, g := newPod(t), newGenerations()
	p.write(t, "a", random(1, page))
	w := g.begin(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.reader.Limit = memory.NewLimit(0)
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err := p.reader.Preload(ctx, p.containers(), exclude.Patterns{}, w)
	require.ErrorIs(t, err, context.Canceled, "it waited for its share")
	_, err = p.reader.AddTo(ctx, p.containers(), exclude.Patterns{}, w)
	require.ErrorIs(t, err, context.Canceled)
	w.Abort(t.Context())
	_, err = p.reader.AddTo(t.Context(), p.containers(), exclude.Patterns{}, w)
	require.ErrorIs(t, err, store.ErrInvalid)
}

// noSecrets is a Writer that looks at what it gets.
type noSecrets struct{ t *testing.T }

const secret = "of the host"

func (n noSecrets) Preload(_ context.Context, path string, _ int64, r io.Reader) error {
	raw, err := io.ReadAll(r)
	if bytes.Contains(raw, []byte(secret)) {
		n.t.Errorf("%s is a file of the host", path)
	}
	return err
}

func (noSecrets) Add(context.Context, store.Entry, io.Reader) error  { return nil }
func (noSecrets) Keep(string, int64, string) error                   { return nil }
func (noSecrets) Kept(string) string                                 { return "" }
func (noSecrets) AddKept(context.Context, store.Entry, string) error { return nil }

// A container that swaps a folder for a link to the host's must not have the host's files in its generations.
func TestSwappedFoldersAreNotFollowed(t *testing.T) {
	p := newPod(t)
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "f"), []byte(strings.Repeat(secret, 100)), 0o600))
	folder, aside := filepath.Join(p.volume, "d"), filepath.Join(p.volume, "aside")
	require.NoError(t, os.Mkdir(folder, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "f"), []byte("own"), 0o600))
	require.NoError(t, os.Symlink(outside, aside))
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, aside, unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 60 {
		_, err := p.reader.Preload(t.Context(), p.containers(), exclude.Patterns{}, noSecrets{t})
		require.NoError(t, err)
	}
	close(stop)
	<-ended
}

// BenchmarkSecondPass is what a frozen container waits for: 20,000 small files and one of 256 MiB of which nothing changed.
func BenchmarkSecondPass(b *testing.B) {
	p, g := newPod(b), newGenerations()
	for folder := range 60 {
		for name := range 100 {
			p.write(b, fmt.Sprintf("many/%d/%d", folder, name), random(1, 200))
		}
	}
	p.write(b, "big", random(2, 256<<20))
	w := g.begin(b)
	p.settle(b, w, 0)
	var spared, again Stats
	for b.Loop() {
		spared = p.addTo(b, w)
		w.Discard()
	}
	b.ReportMetric(spared.Seconds*1e3, "ms-spared")
	overwrite(b, filepath.Join(p.root, "big"), 0, random(3, page))
	again = p.addTo(b, w)
	b.ReportMetric(again.Seconds*1e3, "ms-big-again")
	w.Abort(context.WithoutCancel(b.Context()))
}
