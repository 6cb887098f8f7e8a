package store_test

import (
	"bytes"
	"context"
	"io"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// sink takes packs and forgets them, so that a benchmark measures the store alone.
type sink struct{ *mem.Bucket }

// Put implements store.Bucket.
func (s sink) Put(_ context.Context, key string, body []byte, _ store.Condition) (store.Info, error) {
	return store.Info{Key: key, Size: int64(len(body)), ETag: "x"}, nil
}

// List implements store.Bucket.
func (sink) List(context.Context, string) iter.Seq2[store.Info, error] { return nil }

const benchSize = 256 << 20

func benchContents() []struct {
	name string
	body []byte
} {
	floats := random(1, benchSize)
	for i := 0; i < len(floats); i += 4 {
		floats[i+3] = 0x3f // like weights: the high byte hardly varies
	}
	text := bytes.Repeat([]byte("step 000123 loss 0.482913 accuracy 0.9012\n"), benchSize/42+1)[:benchSize]
	return []struct {
		name string
		body []byte
	}{
		{"random", random(1, benchSize)}, {"floats", floats}, {"text", text}, {"zeros", make([]byte, benchSize)},
	}
}

// BenchmarkAdd: run with -cpu 1 for the rate of one core.
func BenchmarkAdd(b *testing.B) {
	for _, c := range benchContents() {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				w, err := store.New(sink{mem.New()}, testKey).Begin(b.Context(), target, meta(1, 0))
				require.NoError(b, err)
				require.NoError(b, add(b.Context(), w, []sample{file("pages", c.body)}))
				w.Abort(b.Context()) // waits for nothing that Add has not handed over
			}
		})
	}
}

// BenchmarkFetch reads from memory: get, checksum, decrypt and decompress.
func BenchmarkFetch(b *testing.B) {
	for _, c := range benchContents() {
		b.Run(c.name, func(b *testing.B) {
			s := store.New(mem.New(), testKey)
			_, err := write(b.Context(), s, 1, 0, []sample{file("pages", c.body)})
			require.NoError(b, err)
			b.SetBytes(benchSize)
			for b.Loop() {
				r, err := s.Open(b.Context(), target, 1, 0)
				require.NoError(b, err)
				err = r.Fetch(b.Context(), func(_ store.Entry, content io.Reader) error {
					_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, content, make([]byte, 64<<10))
					return err
				})
				require.NoError(b, err)
			}
		})
	}
}
