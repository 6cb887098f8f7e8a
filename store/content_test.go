package store_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// sparseFile reads content and tells of the zeros in it, a page at least.
type sparseFile struct {
	content []byte
	at      int
	read    int
}

func (s *sparseFile) Read(p []byte) (int, error) {
	if s.at == len(s.content) {
		return 0, io.EOF
	}
	n := copy(p, s.content[s.at:])
	s.at, s.read = s.at+n, s.read+n
	return n, nil
}

func (s *sparseFile) Hole() (int64, error) {
	from := s.at
	for s.at < len(s.content) {
		n := min(page, len(s.content)-s.at)
		if !bytes.Equal(s.content[s.at:s.at+n], make([]byte, n)) {
			break
		}
		s.at += n
	}
	return int64(s.at - from), nil
}

func begin(t *testing.T, s *store.Store, number int64, base *store.Base) *store.Writer {
	t.Helper()
	w, err := s.Begin(t.Context(), target, meta(number, 0), store.WriteOptions{Base: base, Codec: store.CodecZstd})
	require.NoError(t, err)
	return w
}

func preload(t *testing.T, w *store.Writer, f sample, version string) {
	t.Helper()
	require.NoError(t, w.Preload(t.Context(), f.entry.Path, f.entry.Size, bytes.NewReader(f.content)))
	if version != "" {
		require.NoError(t, w.Keep(f.entry.Path, f.entry.Size, version))
	}
}

func TestWhatWasPreloadedIsNotStoredAgain(t *testing.T) {
	s := store.New(mem.New(), testRing)
	w := begin(t, s, 1, nil)
	big, gone := file("big", random(1, 600*page+7)), file("gone", random(2, 40*page))
	preload(t, w, big, "")
	preload(t, w, gone, "")
	shrunk := file("big", big.content[:20*page])
	require.NoError(t, w.Preload(t.Context(), "big", big.entry.Size, bytes.NewReader(shrunk.content)), "it shrank meanwhile")
	changed := file("big", with(big.content, 500, random(9, 2*page)))
	require.NoError(t, add(t.Context(), w, []sample{changed}))
	gen, err := w.Commit(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(601+40+2), gen.NewBlocks)
	requireGeneration(t, s, 1, 0, []sample{changed})
}

func TestKeptVersions(t *testing.T) {
	s := store.New(mem.New(), testRing)
	a, empty := file("a", random(1, 30*page+5)), file("hole", make([]byte, 90*page))
	w := begin(t, s, 1, nil)
	require.Empty(t, w.Kept("a"))
	preload(t, w, a, "v1")
	preload(t, w, empty, "h1")
	require.Equal(t, "v1", w.Kept("a"))
	require.NoError(t, w.AddKept(t.Context(), a.entry, "v1"))
	require.NoError(t, w.AddKept(t.Context(), empty.entry, "h1"))
	_, err := w.Commit(t.Context())
	require.NoError(t, err)
	requireGeneration(t, s, 1, 0, []sample{a, empty})
	base := w.Base()

	aborted := begin(t, s, 2, base)
	preload(t, aborted, file("a", random(5, 30*page+5)), "v2")
	aborted.Abort(t.Context())

	w = begin(t, s, 2, base)
	require.Equal(t, "v1", w.Kept("a"), "what was aborted is forgotten")
	require.NoError(t, w.AddKept(t.Context(), a.entry, "v1"))
	gen, err := w.Commit(t.Context())
	require.NoError(t, err)
	require.Zero(t, gen.NewBlocks)
	requireGeneration(t, s, 2, 0, []sample{a})

	fresh, err := s.Base(t.Context(), target)
	require.NoError(t, err)
	w = begin(t, s, 3, fresh)
	require.Empty(t, w.Kept("a"), "a base that was read knows no versions")
	preload(t, w, a, "v1")
	require.NoError(t, w.AddKept(t.Context(), a.entry, "v1"))
	gen, err = w.Commit(t.Context())
	require.NoError(t, err)
	require.Zero(t, gen.NewBlocks)
}

func TestKeptVersionsAreRefused(t *testing.T) {
	a := file("a", random(1, 3*page))
	longer := a.entry
	longer.Size++
	for _, c := range []struct {
		name    string
		before  func(w *store.Writer)
		entry   store.Entry
		version string
	}{
		{"another version", nil, a.entry, "v2"},
		{"no version", nil, a.entry, ""},
		{"another size", nil, longer, "v1"},
		{"another path", nil, store.Entry{Path: "b", Type: store.TypeRegular, Size: a.entry.Size}, "v1"},
		{"no content", nil, store.Entry{Path: "a", Type: store.TypeDir}, "v1"},
		{"read again meanwhile", func(w *store.Writer) { preload(t, w, a, "") }, a.entry, "v1"},
		{"read again in part", func(w *store.Writer) {
			broken := io.MultiReader(bytes.NewReader(a.content[:page]), brokenReader{})
			require.ErrorIs(t, w.Preload(t.Context(), "a", a.entry.Size, broken), errRead)
		}, a.entry, "v1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := begin(t, store.New(mem.New(), testRing), 1, nil)
			preload(t, w, a, "v1")
			if c.before != nil {
				c.before(w)
			}
			require.ErrorIs(t, w.AddKept(t.Context(), c.entry, c.version), store.ErrInvalid)
			require.NoError(t, add(t.Context(), w, []sample{a}), "the writer goes on")
			_, err := w.Commit(t.Context())
			require.NoError(t, err)
			require.ErrorIs(t, w.AddKept(t.Context(), a.entry, "v1"), store.ErrInvalid, "it has ended")
			require.ErrorIs(t, w.Preload(t.Context(), "a", 0, nil), store.ErrInvalid)
			require.Empty(t, w.Kept("a"))
		})
	}
}

var errRead = errors.New("read failed")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errRead }

func TestPreloadRefuses(t *testing.T) {
	w := begin(t, store.New(mem.New(), testRing), 1, nil)
	defer w.Abort(t.Context())
	require.ErrorIs(t, w.Preload(t.Context(), "../a", 1, strings.NewReader("a")), store.ErrInvalid)
	require.ErrorIs(t, w.Preload(t.Context(), "a", 1, strings.NewReader("ab")), store.ErrInvalid)
	require.ErrorIs(t, w.Keep("a", 1, ""), store.ErrInvalid)
	require.ErrorIs(t, w.Keep("a", 1, strings.Repeat("v", 65)), store.ErrInvalid)
}

func TestHolesAreNotRead(t *testing.T) {
	content := make([]byte, 5000*page+100)
	copy(content, random(1, 3*page))
	copy(content[2000*page:], random(2, page))
	s := store.New(mem.New(), testRing)
	var base *store.Base
	for number, punch := range []int{0, 2000 * page, len(content)} { // less and less is left
		clear(content[:min(punch, page)])
		if punch == len(content) {
			clear(content)
		}
		f, r := file("sparse", content), &sparseFile{content: content}
		w := begin(t, s, int64(number+1), base)
		require.NoError(t, w.Add(t.Context(), f.entry, r))
		require.LessOrEqual(t, r.read, 2*256<<10)
		_, err := w.Commit(t.Context())
		require.NoError(t, err)
		requireGeneration(t, s, int64(number+1), 0, []sample{f})
		base = w.Base()
	}
}

// liar tells of a hole that does not fit.
type liar struct {
	io.Reader
	hole int64
}

func (l liar) Hole() (int64, error) { return l.hole, nil }

func TestWrongHolesAreRefused(t *testing.T) {
	for _, hole := range []int64{-1, 1, 3 * page} {
		w := begin(t, store.New(mem.New(), testRing), 1, nil)
		require.ErrorIs(t, w.Add(t.Context(), file("a", make([]byte, 2*page)).entry, liar{strings.NewReader(""), hole}), store.ErrInvalid)
		w.Abort(t.Context())
	}
}

// A file of 8 TiB with a block at its end.
func TestVastHole(t *testing.T) {
	const size = 8 << 40
	entry := store.Entry{Path: "vast", Type: store.TypeRegular, Size: size}
	w := begin(t, store.New(mem.New(), testRing), 1, nil)
	require.NoError(t, w.Add(t.Context(), entry, &vast{left: size - page}))
	_, err := w.Commit(t.Context())
	require.NoError(t, err)
}

type vast struct {
	left int64
	tail bool
}

func (v *vast) Hole() (int64, error) {
	n := v.left
	v.left = 0
	return n, nil
}

func (v *vast) Read(p []byte) (int, error) {
	if v.tail {
		return 0, io.EOF
	}
	v.tail = true
	return copy(p, random(3, page)), nil
}
