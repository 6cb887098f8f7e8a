package change

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func TestApply(t *testing.T) {
	const pages = 10_000
	for _, c := range All {
		t.Run(c.Name, func(t *testing.T) {
			memory := make([]byte, pages*PageSize)
			Fill(memory)
			before := bytes.Clone(memory)
			changed := c.Apply(memory, 1<<32)
			require.Equal(t, int(c.share*pages), changed)
			differ, neighbours := 0, 0
			last := -2
			for page := range pages {
				if !bytes.Equal(before[page*PageSize:][:PageSize], memory[page*PageSize:][:PageSize]) {
					differ++
					if page == last+1 {
						neighbours++
					}
					last = page
				}
			}
			require.Equal(t, changed, differ)
			if c.runs {
				require.Greater(t, neighbours, changed*8/10)
			}
			require.Positive(t, c.Apply(memory, 2<<32))
		})
	}
}

func TestContentCompressesAsRealMemoryDoes(t *testing.T) {
	memory := make([]byte, 4<<20)
	Fill(memory)
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	require.NoError(t, err)
	ratio := float64(len(memory)) / float64(len(encoder.EncodeAll(memory, nil)))
	require.InDelta(t, 2.5, ratio, 0.3)
}

func TestAligned(t *testing.T) {
	memory := make([]byte, 3*8192)
	at := Aligned(memory, 8192)
	require.Less(t, at, 8192)
	require.Zero(t, Aligned(memory[at:], 8192))
}
