package store_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// forgetting takes packs and forgets them, so that a benchmark measures the store alone.
type forgetting struct{ *mem.Bucket }

// Put implements store.Bucket.
func (f forgetting) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if len(body) < 1<<20 {
		return f.Bucket.Put(ctx, key, body, cond)
	}
	return store.Info{Key: key, Size: int64(len(body)), ETag: "x"}, nil
}

const benchSize = 256 << 20

func benchContents() map[string][]byte {
	floats := random(1, benchSize)
	for i := 0; i < len(floats); i += 4 {
		floats[i+3] = 0x3f // like weights: the high byte hardly varies
	}
	text := bytes.Repeat([]byte("step 000123 loss 0.482913 accuracy 0.9012\n"), benchSize/42+1)[:benchSize]
	return map[string][]byte{"random": random(1, benchSize), "floats": floats, "text": text, "zeros": make([]byte, benchSize)}
}

// handIn adds memory as a dump does, 1 MiB at a time.
func handIn(b *testing.B, w *store.Writer, memory []byte) {
	for at := 0; at < len(memory); at += 1 << 20 {
		require.NoError(b, w.AddPages(b.Context(), "1", uint64(at), memory[at:at+1<<20]))
	}
}

// BenchmarkAddPages hands in memory that is all new, or all as it was. Run with -cpu 1 for the rate of one core.
func BenchmarkAddPages(b *testing.B) {
	contents := benchContents()
	b.Run("unchanged", func(b *testing.B) {
		s := store.New(mem.New(), testRing)
		all := []sample{image("1", contents["random"], at(0, benchSize/page))}
		_, base, err := writeDelta(b.Context(), s, meta(1, 0), all, store.WriteOptions{})
		require.NoError(b, err)
		b.SetBytes(benchSize)
		for b.Loop() {
			w, err := s.Begin(b.Context(), target, meta(2, 0), store.WriteOptions{Base: base})
			require.NoError(b, err)
			handIn(b, w, contents["random"])
			require.Zero(b, w.NewBlocks())
			w.Abort(b.Context())
		}
	})
	for _, codec := range codecs {
		for name, memory := range contents {
			b.Run("new/"+codec.String()+"/"+name, func(b *testing.B) {
				s := store.New(forgetting{mem.New()}, testRing)
				b.SetBytes(benchSize)
				for b.Loop() {
					w, err := s.Begin(b.Context(), target, meta(1, 0), store.WriteOptions{Codec: codec})
					require.NoError(b, err)
					handIn(b, w, memory)
					w.Abort(b.Context()) // after all frames are sealed
				}
			})
		}
	}
}

// BenchmarkFetch reads from memory: get, checksum, decrypt and decompress.
func BenchmarkFetch(b *testing.B) {
	contents := benchContents()
	for _, codec := range codecs {
		for name, memory := range contents {
			b.Run(codec.String()+"/"+name, func(b *testing.B) {
				s := store.New(mem.New(), testRing)
				all := []sample{image("1", memory, at(0, benchSize/page))}
				_, _, err := writeDelta(b.Context(), s, meta(1, 0), all, store.WriteOptions{Codec: codec})
				require.NoError(b, err)
				b.SetBytes(benchSize)
				for b.Loop() {
					r, err := s.Open(b.Context(), target, 1, 0)
					require.NoError(b, err)
					require.NoError(b, r.Fetch(discard{}).Run(b.Context()))
				}
			})
		}
	}
}
