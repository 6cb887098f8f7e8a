package store_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestRoundTrip(t *testing.T) {
	bucket := storetest.NewFaulty(t, mem.New())
	s := store.New(bucket, testKey)
	all := samples()
	gen, err := write(t.Context(), s, 1, 0, all)
	require.NoError(t, err)
	requireGeneration(t, s, 1, 0, all)

	var stored int64
	puts := 0
	for info, err := range bucket.Bucket.List(t.Context(), target.Prefix()) {
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size, int64(16<<20))
		if !strings.HasSuffix(info.Key, "HEAD") {
			stored += info.Size
		}
	}
	for _, call := range bucket.Calls() {
		if call.Op == storetest.OpPut {
			puts++
		}
	}
	require.Equal(t, stored, gen.StoredBytes)
	require.Equal(t, puts, gen.Puts)
	require.LessOrEqual(t, gen.Puts, int(2+(gen.StoredBytes+16<<20-1)/(16<<20)+1))
	require.Less(t, gen.StoredBytes, int64(377<<20)/10, "zeros and text cost next to nothing")

	head, err := s.Head(t.Context(), target)
	require.NoError(t, err)
	require.Equal(t, int64(1), head.Number)
	require.Zero(t, head.Epoch)
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	i := 0
	for e := range r.Entries() {
		require.Equal(t, all[i].entry, e)
		i++
	}
	require.Equal(t, len(all), i)
}

func TestFetchSkipsWhatIsNotRead(t *testing.T) {
	s := store.New(mem.New(), testKey)
	all := samples()
	_, err := write(t.Context(), s, 1, 0, all)
	require.NoError(t, err)
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	i := 0
	err = r.Fetch(t.Context(), func(e store.Entry, content io.Reader) error {
		want := all[i].content
		if i%2 == 0 {
			want = want[:len(want)/3]
		}
		got := make([]byte, len(want))
		_, err := io.ReadFull(content, got)
		require.True(t, bytes.Equal(want, got), e.Path)
		i++
		return err
	})
	require.NoError(t, err)
}

func TestFetchReturnsErrorOfFn(t *testing.T) {
	s := store.New(mem.New(), testKey)
	_, err := write(t.Context(), s, 1, 0, samples())
	require.NoError(t, err)
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	enough := errors.New("enough")
	require.ErrorIs(t, r.Fetch(t.Context(), func(store.Entry, io.Reader) error { return enough }), enough)
	ctx, cancel := context.WithCancel(t.Context())
	err = r.Fetch(ctx, func(store.Entry, io.Reader) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
}

func TestHeadOfNothing(t *testing.T) {
	s := store.New(mem.New(), testKey)
	_, err := s.Head(t.Context(), target)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Open(t.Context(), target, 1, 0)
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestOpenTakesCommittedGenerationsOnly(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testKey)
	for number := int64(1); number <= 2; number++ {
		_, err := write(t.Context(), s, number, 0, smallSamples())
		require.NoError(t, err)
	}
	dying := storetest.NewFaulty(t, bucket, storetest.Fault{Op: storetest.OpPut, Key: "HEAD", At: 1, Down: true})
	_, err := write(t.Context(), store.New(dying, testKey), 3, 0, smallSamples())
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
		{"twice", store.Entry{Path: "there/file", Type: store.TypeRegular}, "", "came before"},
		{"below a file", store.Entry{Path: "there/file/x", Type: store.TypeDir}, "", "a regular"},
		{"below a symlink", store.Entry{Path: "there/link/x/y", Type: store.TypeDir}, "", "a symlink"},
		{"symlink over a parent", store.Entry{Path: "there", Type: store.TypeSymlink, Linkname: "/"}, "", "below it"},
		{"content too short", store.Entry{Path: "a", Type: store.TypeRegular, Size: 4}, "abc", "after 3 of 4"},
		{"content too long", store.Entry{Path: "a", Type: store.TypeRegular, Size: 2}, "abc", "after its 2 bytes"},
	}
	s := store.New(mem.New(), testKey)
	w, err := s.Begin(t.Context(), target, meta(1, 0))
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

func TestTargetValidate(t *testing.T) {
	require.NoError(t, target.Validate())
	require.Equal(t, "v1/test/default/train-6f1d6c1c-0000-4000-8000-000000000001/", target.Prefix())
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "ü", strings.Repeat("a", 254)} {
		for i := range 4 {
			c := target
			*[]*string{&c.Cluster, &c.Namespace, &c.Name, &c.UID}[i] = bad
			require.ErrorIs(t, c.Validate(), store.ErrInvalid)
			_, err := store.New(mem.New(), testKey).Begin(t.Context(), c, meta(1, 0))
			require.ErrorIs(t, err, store.ErrInvalid)
		}
	}
}

func TestParseKey(t *testing.T) {
	raw := random(9, 32)
	short := raw[:31]
	cases := []struct {
		name string
		text string
		ok   bool
	}{
		{"raw", string(raw), true},
		{"hex", hex.EncodeToString(raw), true},
		{"hex in capitals with newline", strings.ToUpper(hex.EncodeToString(raw)) + "\n", true},
		{"base64 with newline", base64.StdEncoding.EncodeToString(raw) + "\n", true},
		{"base64 without padding", base64.RawStdEncoding.EncodeToString(raw), true},
		{"base64 for URLs", base64.URLEncoding.EncodeToString(raw), true},
		{"empty", "", false},
		{"short", string(short), false},
		{"short base64", base64.StdEncoding.EncodeToString(short), false},
		{"long", string(raw) + "xx", false},
		{"zeros", string(make([]byte, 32)), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			key, err := store.ParseKey([]byte(c.text))
			if !c.ok {
				require.ErrorIs(t, err, store.ErrInvalid)
				require.ErrorContains(t, err, "make one with")
				return
			}
			require.NoError(t, err)
			require.Equal(t, store.Key(raw), key)
			require.NotContains(t, fmt.Sprintf("%v %s %#v %+v", key, key, key, key), fmt.Sprint(raw[0]))
		})
	}
}
