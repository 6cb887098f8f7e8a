package store_test

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

func openWriter(t *testing.T, s *store.Store) *store.Writer {
	t.Helper()
	w, err := s.Begin(t.Context(), target, store.Meta{Number: 1}, store.WriteOptions{Codec: store.CodecZstd})
	require.NoError(t, err)
	return w
}

func TestFlushUploadsWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWriter(t, store.New(mem.New(), testRing))
		defer w.Abort(t.Context())
		content := random(1, 21*page) // neither whole frames nor a whole pack
		require.NoError(t, w.AddPages(t.Context(), "1", 0, content))
		synctest.Wait()
		require.Zero(t, w.Progress().UploadedBytes)
		require.NoError(t, w.Flush(t.Context()))
		synctest.Wait()
		done := w.Progress()
		require.EqualValues(t, 21, done.NewBlocks)
		require.EqualValues(t, len(content), done.RawBytes)
		require.GreaterOrEqual(t, done.UploadedBytes, done.StoredBytes)

		require.NoError(t, w.Flush(t.Context()))
		synctest.Wait()
		require.Equal(t, done.UploadedBytes, w.Progress().UploadedBytes, "there was nothing more")
		require.NoError(t, w.AddPages(t.Context(), "1", 0, content))
		require.EqualValues(t, 21, w.Progress().NewBlocks)
	})
}

func TestRoundsOfOneWriterReadBack(t *testing.T) {
	s := store.New(mem.New(), testRing)
	w := openWriter(t, s)
	content := random(1, 300*page)
	run := store.Run{Address: 0, Pages: 300}
	for i, codec := range []store.Codec{store.CodecZstd, store.CodecNone, store.CodecS2, store.CodecZstd} {
		require.NoError(t, w.SetCodec(codec))
		copy(content[i*37*page:], bytes.Repeat([]byte{byte(i + 1)}, 33*page))
		require.NoError(t, w.AddPages(t.Context(), "1", 0, content))
		require.NoError(t, w.Flush(t.Context()))
	}
	require.ErrorIs(t, w.SetCodec(77), store.ErrInvalid)
	sample := image("1", content, run)
	first := file("a", []byte("first"))
	require.NoError(t, w.Add(t.Context(), first.entry, bytes.NewReader(first.content)))
	require.NoError(t, w.AddImage(t.Context(), sample.entry, "1", []store.Run{run}))
	w.Discard()
	second := file("a", []byte("second"))
	require.NoError(t, w.Add(t.Context(), second.entry, bytes.NewReader(second.content)))
	require.NoError(t, w.AddImage(t.Context(), sample.entry, "1", []store.Run{run}))
	require.NoError(t, w.Describe(store.Meta{Number: 9, PodUID: "p", Final: true}))
	_, err := w.Commit(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, w.Flush(t.Context()), store.ErrInvalid)

	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	require.True(t, r.Meta().Final)
	require.EqualValues(t, 1, r.Meta().Number)
	pages, err := r.Pages(t.Context())
	require.NoError(t, err)
	defer pages.Close()
	got := make([]byte, page)
	for i := range 300 {
		require.NoError(t, pages.ReadPage(t.Context(), "1", uint64(i*page), got))
		require.True(t, bytes.Equal(content[i*page:(i+1)*page], got), i)
	}
	_, err = s.Base(t.Context(), target)
	require.NoError(t, err)
}
