package bench

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/test/bench/images"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// codecs are the Writer's, with the CPU seconds that a GiB of raw pages may cost under each.
var codecs = []struct {
	name  string
	codec store.Codec
	bound float64
}{{"none", store.CodecNone, 1.0}, {"s2", store.CodecS2, 1.5}, {"zstd", store.CodecZstd, 2.5}}

const plainZstd = "plain zstd, one stream"

// sealedAtOnce is about what a frame of 16 pages has.
const sealedAtOnce = 64 << 10

func writing(codec string) string { return "write, " + codec }
func sealing(codec string) string { return "AES-256-GCM of what is stored, " + codec }

// measureCost writes the process's whole dump to a bucket that swallows it, under each codec. Encryption is measured by
// itself besides, over as many bytes as are stored, and so is plain zstd over the same pages.
func (l *storeLab) measureCost(ctx context.Context, set *images.Set) error {
	l.raw = float64(set.PageBytes())
	for round := range rounds {
		l.say("cost: round %d of %d, %.0f MiB", round+1, rounds, l.raw/mib)
		for _, under := range codecs {
			c, err := newChain(newNullBucket(), under.codec)
			if err != nil {
				return err
			}
			if err := l.Take(writing(under.name), func() error { return c.write(ctx, set) }); err != nil {
				return err
			}
			if err := l.seal(sealing(under.name), c.last.StoredBytes); err != nil {
				return err
			}
		}
		err := l.Take(plainZstd, func() error {
			var streams []io.Reader
			for _, space := range set.Spaces {
				streams = append(streams, bytes.NewReader(space.Pages))
			}
			return rig.Zstd(io.Discard, io.MultiReader(streams...))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// seal encrypts size bytes, a frame's worth at a time.
func (l *storeLab) seal(name string, size int64) error {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return fmt.Errorf("make cipher: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return fmt.Errorf("make cipher: %w", err)
	}
	frame, nonce := makePages(sealedAtOnce), make([]byte, gcm.NonceSize())
	sealed := make([]byte, 0, sealedAtOnce+gcm.Overhead())
	return l.Take(name, func() error {
		for ; size > 0; size -= sealedAtOnce {
			sealed = gcm.Seal(sealed[:0], nonce, frame[:min(size, sealedAtOnce)], nil)
		}
		return nil
	})
}

func (l *storeLab) costRows() []rows.Row {
	cost := func(name string) float64 { return l.Median(rows.CPU(name)) / (l.raw / gib) }
	row := func(name string, value float64) rows.Row {
		return rows.Row{Name: name, Value: value, Unit: "CPU s/GiB"}
	}
	var all []rows.Row
	for _, under := range codecs {
		ours, encryption := cost(writing(under.name)), cost(sealing(under.name))
		all = append(all,
			row(writing(under.name), ours).Versus(bound, under.bound).Wants(rows.Target{Bound: 1}),
			row(writing(under.name), ours).Versus(plainZstd, cost(plainZstd)),
			row(sealing(under.name), encryption).Versus(writing(under.name)+" in all", ours))
	}
	return all
}
