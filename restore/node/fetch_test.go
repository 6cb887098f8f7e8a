package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

var errDown = errors.New("connection refused")

// bucket counts how often each object is read from its beginning. Reads of one that has fails left fail, and take so long
// that all else is done before.
type bucket struct {
	store.Bucket
	mu    sync.Mutex
	fails map[string]int
	reads map[string]int
}

func (b *bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	b.mu.Lock()
	fails := b.fails[key] > 0
	if fails {
		b.fails[key]--
	} else if offset == 0 {
		b.reads[key]++
	}
	b.mu.Unlock()
	if fails {
		<-time.After(time.Millisecond)
		return nil, errDown
	}
	return b.Bucket.Get(ctx, key, offset, length)
}

// stored puts one image into a bucket, in more than one pack, and returns its packs.
func stored(t *testing.T, image []byte) (*bucket, *store.Reader, []store.Info) {
	t.Helper()
	b := &bucket{Bucket: mem.New(), fails: map[string]int{}, reads: map[string]int{}}
	s := store.New(b, store.Keyring{{1}})
	target := store.Target{Cluster: "c", Namespace: "ns", Name: "job", UID: "1"}
	w, err := s.Begin(t.Context(), target, store.Meta{Number: 1, Created: time.Now()}, store.WriteOptions{})
	require.NoError(t, err)
	e := entry(store.TypeRegular, "images/main/pages-1.img")
	e.Size = int64(len(image))
	require.NoError(t, w.Add(t.Context(), e, bytes.NewReader(image)))
	_, err = w.Commit(t.Context())
	require.NoError(t, err)
	r, err := s.Open(t.Context(), target, 1, 0)
	require.NoError(t, err)
	var packs []store.Info
	for info, err := range b.List(t.Context(), target.Prefix()+"packs/") {
		require.NoError(t, err)
		packs = append(packs, info)
	}
	require.Greater(t, len(packs), 1)
	clear(b.reads)
	return b, r, packs
}

func TestFetchGoesOnWhereItWas(t *testing.T) {
	image := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{1}).Read(image)
	for _, c := range []struct {
		name   string
		fails  int
		reason string
	}{
		{"the bucket fails for a while", 8, ""},
		{"the bucket fails for good", 1 << 20, v1alpha1.ReasonBucketFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, of, host := podOnHost(t)
			trees := opened(t, p, of)
			synctest.Test(t, func(t *testing.T) {
				b, r, packs := stored(t, image)
				b.fails[packs[1].Key] = c.fails
				err := run(t.Context(), r.Fetch(trees), func() {})
				require.Equal(t, 1, b.reads[packs[0].Key], "what has been fetched is not fetched again")
				if c.reason != "" {
					require.ErrorIs(t, err, errDown)
					require.Equal(t, c.reason, reasonOf(err))
					return
				}
				require.NoError(t, err)
				got, err := os.ReadFile(filepath.Join(host, "restore/u/images/main/pages-1.img"))
				require.NoError(t, err)
				require.True(t, bytes.Equal(image, got))
			})
		})
	}
}

func TestFailureOfThisNodeIsNotTriedAgain(t *testing.T) {
	p, of, host := podOnHost(t)
	trees := opened(t, p, of)
	_, r, _ := stored(t, bytes.Repeat([]byte("page"), 5<<20))
	require.NoError(t, os.RemoveAll(filepath.Join(host, "restore/u/images")))
	begin := time.Now()
	err := run(t.Context(), r.Fetch(trees), func() {})
	require.Less(t, time.Since(begin), tryEvery)
	require.ErrorIs(t, err, errApply)
	require.Equal(t, v1alpha1.ReasonRestoreFailed, reasonOf(err))
	require.Equal(t, 1, strings.Count(err.Error(), errApply.Error()))
}
