package bench

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

func TestNullBucketKeepsWhatAWriterReadsBack(t *testing.T) {
	b := newNullBucket()
	_, err := b.Put(t.Context(), "v1/packs/a", make([]byte, 100), store.Condition{IfAbsent: true})
	require.NoError(t, err)
	_, err = b.Put(t.Context(), "v1/packs/a", nil, store.Condition{IfAbsent: true})
	require.ErrorIs(t, err, store.ErrPrecondition)
	_, err = b.Put(t.Context(), "v1/HEAD", make([]byte, 10), store.Condition{})
	require.NoError(t, err)
	sizes := map[string]int64{}
	for info, err := range b.List(t.Context(), "v1/") {
		require.NoError(t, err)
		sizes[info.Key] = info.Size
	}
	require.Equal(t, map[string]int64{"v1/packs/a": 100, "v1/HEAD": 10}, sizes)
	info, err := b.Stat(t.Context(), "v1/packs/a")
	require.NoError(t, err)
	require.EqualValues(t, 100, info.Size)
	_, err = b.Stat(t.Context(), "v1/packs/b")
	require.ErrorIs(t, err, store.ErrNotFound)
}
