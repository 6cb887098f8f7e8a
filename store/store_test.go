package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestRoundTrip(t *testing.T) {
	all := samples()
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			bucket := storetest.NewFaulty(t, mem.New())
			s := store.New(bucket, testRing)
			gen, _, err := writeDelta(t.Context(), s, meta(1, 0), all, store.WriteOptions{Codec: codec})
			require.NoError(t, err)
			requireGeneration(t, s, 1, 0, all)
			requireGeneration(t, store.New(bucket, testRing), 1, 0, all)

			var stored, blocks int64
			puts := 0
			for info, err := range bucket.Bucket.List(t.Context(), target.Prefix()) {
				require.NoError(t, err)
				require.LessOrEqual(t, info.Size, int64(16<<20))
				stored += info.Size
			}
			for _, call := range bucket.Calls() {
				if call.Op == storetest.OpPut {
					puts++
				}
			}
			for _, s := range all {
				blocks += (s.entry.Size + page - 1) / page
			}
			require.Equal(t, stored, gen.StoredBytes)
			require.Equal(t, puts, gen.Puts)
			require.LessOrEqual(t, gen.Puts, int(2+(gen.StoredBytes+16<<20-1)/(16<<20)+1))
			require.Equal(t, blocks, gen.Blocks)
			require.Less(t, gen.NewBlocks, gen.Blocks-1500, "zeros are not stored")
			if codec != store.CodecNone {
				require.Less(t, gen.StoredBytes, int64(42<<20), "text costs next to nothing")
			}
		})
	}
}

func TestEntriesAndImages(t *testing.T) {
	s := store.New(mem.New(), testRing)
	all := samples()
	_, err := write(t.Context(), s, 1, 0, all)
	require.NoError(t, err)
	head, err := s.Head(t.Context(), target)
	require.NoError(t, err)
	require.Equal(t, int64(1), head.Number)
	require.Zero(t, head.Epoch)
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	i := 0
	for e := range r.Entries() {
		require.Equal(t, all[i].entry, e)
		task, runs := r.Image(e.Path)
		require.Equal(t, all[i].task, task)
		require.Len(t, runs, len(all[i].runs))
		if len(runs) > 0 {
			require.Equal(t, all[i].runs, runs)
		}
		i++
	}
	require.Equal(t, len(all), i)
	task, _ := r.Image("no/such")
	require.Empty(t, task)
}

func TestHeadOfNothing(t *testing.T) {
	s := store.New(mem.New(), testRing)
	_, err := s.Head(t.Context(), target)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Open(t.Context(), target, 1, 0)
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestOpenTakesCommittedGenerationsOnly(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	for number := int64(1); number <= 2; number++ {
		_, err := write(t.Context(), s, number, 0, smallSamples())
		require.NoError(t, err)
	}
	dying := storetest.NewFaulty(t, bucket, storetest.Fault{Op: storetest.OpPut, Key: "HEAD", At: 1, Down: true})
	_, err := write(t.Context(), store.New(dying, testRing), 3, 0, smallSamples())
	require.ErrorIs(t, err, storetest.ErrInjected)
	requireGeneration(t, s, 1, 0, smallSamples())
	requireGeneration(t, s, 2, 0, smallSamples())
	for _, c := range []struct{ number, epoch int64 }{{0, 0}, {2, 1}, {3, 0}, {4, 0}} {
		_, err := s.Open(t.Context(), target, c.number, c.epoch)
		require.ErrorIs(t, err, store.ErrNotFound)
	}
}

func TestAddRefuses(t *testing.T) {
	cases := []struct {
		name  string
		entry store.Entry
		body  string
		want  string
	}{
		{"no path", store.Entry{Type: store.TypeDir}, "", "path of 0 bytes"},
		{"absolute", store.Entry{Path: "/etc", Type: store.TypeDir}, "", "absolute"},
		{"climbing", store.Entry{Path: "../x", Type: store.TypeDir}, "", `".."`},
		{"climbing inside", store.Entry{Path: "a/../../x", Type: store.TypeDir}, "", "not clean"},
		{"not clean", store.Entry{Path: "a//b", Type: store.TypeDir}, "", "not clean"},
		{"trailing slash", store.Entry{Path: "a/", Type: store.TypeDir}, "", "not clean"},
		{"NUL", store.Entry{Path: "a\x00b", Type: store.TypeDir}, "", "NUL"},
		{"long name", store.Entry{Path: strings.Repeat("a", 256), Type: store.TypeDir}, "", "256 bytes"},
		{"root that is no dir", store.Entry{Path: ".", Type: store.TypeRegular}, "", "want a dir"},
		{"no type", store.Entry{Path: "a"}, "", "unknown type 0"},
		{"device", store.Entry{Path: "a", Type: 7}, "", "unknown type 7"},
		{"type bits in mode", store.Entry{Path: "a", Type: store.TypeDir, Mode: 0o40755}, "", "mode"},
		{"opaque file", store.Entry{Path: "a", Type: store.TypeRegular, Opaque: true}, "", "opaque"},
		{"sized dir", store.Entry{Path: "a", Type: store.TypeDir, Size: 1}, "", "size"},
		{"negative size", store.Entry{Path: "a", Type: store.TypeRegular, Size: -1}, "", "size"},
		{"symlink to nothing", store.Entry{Path: "a", Type: store.TypeSymlink}, "", "link name"},
		{"linkname of a file", store.Entry{Path: "a", Type: store.TypeRegular, Linkname: "b"}, "", "link name"},
		{"hard link to nothing", store.Entry{Path: "a", Type: store.TypeRegular, HardlinkTo: "b"}, "", "no earlier regular"},
		{"hard link of another type", store.Entry{Path: "a", Type: store.TypeFIFO, HardlinkTo: "there/file"}, "", "no earlier fifo"},
		{"hard link out", store.Entry{Path: "a", Type: store.TypeRegular, HardlinkTo: "../b"}, "", `".."`},
		{"hard link that is a dir", store.Entry{Path: "a", Type: store.TypeDir, HardlinkTo: "there"}, "", "cannot be a hard link"},
		{"nameless xattr", store.Entry{Path: "a", Type: store.TypeDir, Xattrs: map[string][]byte{"": nil}}, "", "attribute"},
		{"xattr with a long name", store.Entry{Path: "a", Type: store.TypeDir, Xattrs: map[string][]byte{strings.Repeat("x", 256): nil}}, "", "attribute"},
		{"xattr with a long value", store.Entry{Path: "a", Type: store.TypeDir, Xattrs: map[string][]byte{"x": make([]byte, 64<<10+1)}}, "", "65537 bytes"},
		{"twice", store.Entry{Path: "there/file", Type: store.TypeRegular}, "", "came before"},
		{"below a file", store.Entry{Path: "there/file/x", Type: store.TypeDir}, "", "a regular"},
		{"below a symlink", store.Entry{Path: "there/link/x/y", Type: store.TypeDir}, "", "a symlink"},
		{"symlink over a parent", store.Entry{Path: "there", Type: store.TypeSymlink, Linkname: "/"}, "", "below it"},
		{"inline dir", store.Entry{Path: "a", Type: store.TypeDir, Inline: true}, "", "inline"},
		{"inline too short", store.Entry{Path: "a", Type: store.TypeRegular, Inline: true, Size: 4}, "abc", "ends before its 4 bytes"},
		{"inline too long", store.Entry{Path: "a", Type: store.TypeRegular, Inline: true, Size: 2}, "abc", "after its 2 bytes"},
		{"content too short", store.Entry{Path: "a", Type: store.TypeRegular, Size: 4}, "abc", "ends before its 4 bytes"},
		{"content too long", store.Entry{Path: "a", Type: store.TypeRegular, Size: 2}, "abc", "after its 2 bytes"},
	}
	s := store.New(mem.New(), testRing)
	w, err := s.Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	link := sample{entry: store.Entry{Path: "there/link", Type: store.TypeSymlink, Linkname: "/"}}
	good := []sample{file("there/file", []byte("x")), link}
	require.NoError(t, add(t.Context(), w, good))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := w.Add(t.Context(), c.entry, strings.NewReader(c.body))
			require.ErrorIs(t, err, store.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
	broken := errors.New("broken disk")
	half := io.MultiReader(strings.NewReader("abc"), failing{broken})
	err = w.Add(t.Context(), store.Entry{Path: "a", Type: store.TypeRegular, Size: 9}, half)
	require.ErrorIs(t, err, broken)
	require.NoError(t, w.Add(t.Context(), store.Entry{Path: "a", Type: store.TypeRegular, Size: 3}, strings.NewReader("abc")))
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, w.Add(t.Context(), store.Entry{Path: "b", Type: store.TypeDir}, nil), store.ErrInvalid)
	_, err = w.Commit(t.Context())
	require.ErrorIs(t, err, store.ErrInvalid)
	got, _, err := read(t.Context(), s, 1, 0)
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Equal(t, "abc", string(got[2].content))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Small files may lie in the manifest; what is too large for it, alone or together, lies in packs.
func TestInlineLimits(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	const one = 256 << 10
	all := []sample{inline("too large", random(1, one+1)), inline("largest", random(2, one))}
	for i := range 16 {
		all = append(all, inline(fmt.Sprintf("more/%d", i), random(byte(3+i), one)))
	}
	all = append(all, inline("empty", nil), inline("last", []byte("x")))
	_, err := write(t.Context(), s, 1, 0, all)
	require.NoError(t, err)
	got, _, err := read(t.Context(), s, 1, 0)
	require.NoError(t, err)
	kept := 0
	for i := range all {
		require.True(t, bytes.Equal(all[i].content, got[i].content), all[i].entry.Path)
		if got[i].entry.Inline {
			kept += len(got[i].content)
		}
	}
	require.Equal(t, 4<<20, kept)
	require.False(t, got[0].entry.Inline, "too large")
	require.True(t, got[1].entry.Inline)
	require.False(t, got[17].entry.Inline, "too much together")
	require.True(t, got[18].entry.Inline, "nothing fits always")
	require.False(t, got[19].entry.Inline)

	packs := 0
	for range objects(t, bucket, target.Prefix()+"packs/") {
		packs++
	}
	require.Equal(t, 1, packs)
}

func TestInlineReadErrors(t *testing.T) {
	w, err := store.New(mem.New(), testRing).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	defer w.Abort(t.Context())
	broken := errors.New("broken disk")
	e := inline("a", []byte("abc")).entry
	for _, content := range []string{"ab", "abc"} {
		err := w.Add(t.Context(), e, io.MultiReader(strings.NewReader(content), failing{broken}))
		require.ErrorIs(t, err, broken, content)
	}
	require.NoError(t, w.Add(t.Context(), e, strings.NewReader("abc")))
}

func TestAddPagesRefuses(t *testing.T) {
	cases := []struct {
		name    string
		task    string
		address uint64
		size    int
	}{
		{"no task", "", 0, page},
		{"long task", strings.Repeat("t", 256), 0, page},
		{"part of a page", "1", 0, page - 1},
		{"between pages", "1", 100, page},
		{"beyond the last address", "1", 1<<64 - page, 2 * page},
	}
	w, err := store.New(mem.New(), testRing).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			require.ErrorIs(t, w.AddPages(t.Context(), c.task, c.address, make([]byte, c.size)), store.ErrInvalid)
		})
	}
	require.NoError(t, w.AddPages(t.Context(), "1", 1<<64-page, make([]byte, page)), "the last address")
	require.NoError(t, w.AddPages(t.Context(), "1", 0, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.AddPages(ctx, "1", 0, make([]byte, page)), context.Canceled)
	w.Abort(t.Context())
	require.ErrorIs(t, w.AddPages(t.Context(), "1", 0, make([]byte, page)), store.ErrInvalid, "ended")
}

func TestAddImageRefuses(t *testing.T) {
	whole := []store.Run{{Address: 0x1000, Pages: 4}}
	cases := []struct {
		name   string
		task   string
		size   int64
		runs   []store.Run
		change func(*store.Entry)
		want   string
	}{
		{"no task", "", 4 * page, whole, nil, "task of 0 bytes"},
		{"a page that was never added", "1", 5 * page, []store.Run{{Address: 0x1000, Pages: 5}}, nil, "never added"},
		{"a task that was never added", "2", 4 * page, whole, nil, "never added"},
		{"another size", "1", 3 * page, whole, nil, "its runs have 4 pages"},
		{"half a page", "1", 4*page - 1, whole, nil, "its runs have 4 pages"},
		{"between pages", "1", page, []store.Run{{Address: 0x1001, Pages: 1}}, nil, "multiples"},
		{"an empty run", "1", 0, []store.Run{{Address: 0x1000}}, nil, "run of 0 pages"},
		{"a negative run", "1", page, []store.Run{{Address: 0x1000, Pages: -1}}, nil, "run of -1 pages"},
		{"runs that overlap", "1", 4 * page, []store.Run{{Address: 0x1000, Pages: 3}, {Address: 0x3000, Pages: 1}}, nil, "ascend"},
		{"runs that descend", "1", 2 * page, []store.Run{{Address: 0x2000, Pages: 1}, {Address: 0x1000, Pages: 1}}, nil, "ascend"},
		{"beyond the last address", "1", 2 * page, []store.Run{{Address: 1<<64 - page, Pages: 2}}, nil, "ascend"},
		{"a dir", "1", 0, nil, func(e *store.Entry) { e.Type = store.TypeDir }, "regular file"},
		{"inline", "1", 4 * page, whole, func(e *store.Entry) { e.Inline = true }, "content in packs"},
		{"a path twice", "1", 4 * page, whole, func(e *store.Entry) { e.Path = "there" }, "came before"},
	}
	w, err := store.New(mem.New(), testRing).Begin(t.Context(), target, meta(1, 0), store.WriteOptions{})
	require.NoError(t, err)
	require.NoError(t, w.AddPages(t.Context(), "1", 0x1000, random(1, 4*page)))
	require.NoError(t, add(t.Context(), w, []sample{file("there", nil)}))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := store.Entry{Path: "pages.img", Type: store.TypeRegular, Size: c.size}
			if c.change != nil {
				c.change(&e)
			}
			err := w.AddImage(t.Context(), e, c.task, c.runs)
			require.ErrorIs(t, err, store.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
	runs := slices.Clone(whole)
	require.NoError(t, w.AddImage(t.Context(), store.Entry{Path: "pages.img", Type: store.TypeRegular, Size: 4 * page}, "1", runs))
	runs[0].Pages = 1 << 40 // the caller's own again
	err = w.AddImage(t.Context(), store.Entry{Path: "again.img", Type: store.TypeRegular, Size: 4 * page}, "1", whole)
	require.ErrorIs(t, err, store.ErrInvalid)
	require.ErrorContains(t, err, `has image "pages.img"`)
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	err = w.AddImage(t.Context(), store.Entry{Path: "late.img", Type: store.TypeRegular}, "3", nil)
	require.ErrorIs(t, err, store.ErrInvalid)
}
