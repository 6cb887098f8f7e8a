package store

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

// requireSane decodes sections. What they decode to is encoded to the same again, and whoever reads it stays within its
// bounds.
func requireSane(t *testing.T, sections [][]byte) {
	t.Helper()
	m, err := decodeManifest(sections)
	if err != nil {
		return
	}
	again, err := decodeManifest(m.encode())
	require.NoError(t, err)
	require.Equal(t, m, again)

	base := &Base{next: firstBlock, tables: map[stream]*table{}}
	for _, info := range m.packs {
		base.packs = append(base.packs, &livePack{packInfo: info, first: base.next})
		base.next += blockID(info.blocks)
	}
	for i := range m.records {
		rec := &m.records[i]
		if rec.Size > 64<<20 {
			return // true, but long
		}
		base.place(rec)
		var pages int64
		for _, span := range rec.spans(rec.runs) {
			pages += span.blocks
			if span.pack != zeroPack {
				require.LessOrEqual(t, span.at+int(span.blocks), m.packs[span.pack].blocks)
			}
		}
		if rec.task != "" {
			require.Equal(t, rec.Size, pages*BlockSize)
		}
	}
	(&Reader{contents: m}).Fetch(nil)
}

func FuzzDecodeManifest(f *testing.F) {
	sections := formatManifest(f).encode()
	f.Add(sections[0], sections[1], sections[2], sections[3], sections[4], sections[5])
	f.Fuzz(func(t *testing.T, main, inline, runs, packs, starts, blocks []byte) {
		requireSane(t, [][]byte{main, inline, runs, packs, starts, blocks})
	})
}

// A byte changed, inserted or left out, everywhere, and pairs of changes at random: most of these a fuzzer does not reach.
func TestMutatedManifests(t *testing.T) {
	sections := formatManifest(t).encode()
	values := []byte{0, 1, 2, 0x7f, 0x80, 0xff}
	for i, section := range sections {
		for at := range section {
			for _, value := range values {
				for _, with := range [][]byte{{value}, {value, section[at]}, {section[at] + value}, bytes.Repeat([]byte{0xff}, 9), nil} {
					mutated := slices.Clone(sections)
					mutated[i] = slices.Concat(section[:at], with, section[at+1:])
					requireSane(t, mutated)
				}
			}
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		mutated := slices.Clone(sections)
		for range 1 + rng.IntN(4) {
			i := rng.IntN(len(sections))
			if at := len(mutated[i]); at > 0 {
				at = rng.IntN(at)
				mutated[i] = slices.Concat(mutated[i][:at], []byte{values[rng.IntN(len(values))]}, mutated[i][at+rng.IntN(2):])
			}
		}
		requireSane(t, mutated)
	}
}

func FuzzUnpackSections(f *testing.F) {
	packed, err := packSections(formatManifest(f).encode())
	require.NoError(f, err)
	f.Add(packed)
	packed, err = packSections([][]byte{make([]byte, 100_000), nil, nil, nil, nil, nil})
	require.NoError(f, err)
	f.Add(packed)
	f.Fuzz(func(t *testing.T, data []byte) {
		sections, err := unpackSections(data, sectionsCount, 1<<20)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(bytes.Join(sections, nil)), 1<<20)
		packed, err := packSections(sections)
		require.NoError(t, err)
		again, err := unpackSections(packed, sectionsCount, 1<<20)
		require.NoError(t, err)
		require.Equal(t, sections, again)
	})
}

func FuzzOpenManifest(f *testing.F) {
	sealed, err := formatManifest(f).seal(formatKeys())
	require.NoError(f, err)
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		// Nobody forges a seal, so what opens is the seed (each process of the fuzzer makes one of its own).
		if m, err := openManifest(formatKeys(), 4, 5, data); err == nil {
			require.Equal(t, formatManifest(t), m)
		}
	})
}

func FuzzOpenHead(f *testing.F) {
	sealed, err := Head{Number: 3, Epoch: 2, WrittenEpoch: 1}.seal(formatKeys())
	require.NoError(f, err)
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if head, err := openHead(formatKeys(), data); err == nil {
			require.Equal(t, Head{Number: 3, Epoch: 2, WrittenEpoch: 1, nonce: headNonce(data)}, head)
		}
		// Authentic bytes that no Store has written.
		sealed, err := headEnvelope.sealWith(formatKeys(), data)
		require.NoError(t, err)
		if head, err := openHead(formatKeys(), sealed); err == nil {
			require.Len(t, data, headPlain)
			require.GreaterOrEqual(t, head.Epoch, head.WrittenEpoch)
		}
	})
}

func FuzzOpenKey(f *testing.F) {
	sealed, err := formatRing.wrap(formatTarget.Prefix(), Key{2})
	require.NoError(f, err)
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		key, id, err := formatRing.unwrap(formatTarget.Prefix(), data)
		if err == nil {
			require.Equal(t, Key{2}, key)
			require.Equal(t, formatRing[0].ID(), id)
		}
	})
}

func FuzzReadPackInfo(f *testing.F) {
	_, body := formatPack(f, CodecZstd, formatRaw()[:BlockSize])
	f.Add(body)
	f.Add(body[:packHeader+packTail])
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readPackInfo(data)
		if err != nil {
			return
		}
		require.Equal(t, int64(len(data)), info.size)
		opener, err := newPackOpener(formatKeys())
		require.NoError(t, err)
		defer opener.close()
		if pack, err := opener.whole(info, data); err == nil {
			for at := range info.blocks {
				_, _ = pack.blocks(at, 1)
			}
		}
	})
}

// The footer within its seal.
func FuzzParseFooter(f *testing.F) {
	info, body := formatPack(f, CodecS2, formatRaw())
	aead, err := info.cipher(formatKeys())
	require.NoError(f, err)
	tail := body[info.size-info.footerSize():]
	footer, err := info.openFooter(aead, formatTarget.Prefix(), tail)
	require.NoError(f, err)
	plain := make([]byte, 0, len(tail))
	for _, frame := range footer.frames {
		plain = append(plain, byte(frame.codec), byte(frame.stored), byte(frame.stored>>8), byte(frame.stored>>16), 0)
	}
	f.Add(info.size, info.blocks, append(plain, make([]byte, info.blocks*hashSize)...))
	f.Fuzz(func(t *testing.T, size int64, blocks int, plain []byte) {
		info := &packInfo{id: ulid.ULID{1}, size: size, blocks: blocks}
		if info.validate() != nil {
			return
		}
		if want := framesOf(blocks)*indexLine + blocks*hashSize; len(plain) != want {
			plain = append(plain, make([]byte, want)...)[:want]
		}
		footer, err := info.parseFooter(plain)
		if err != nil {
			return
		}
		end := int64(packHeader)
		for _, frame := range footer.frames {
			require.Equal(t, end, int64(frame.at))
			end += int64(frame.stored)
		}
		require.Equal(t, info.size-info.footerSize(), end)
	})
}

// What a frame decodes to is as long as declared, whatever its bytes.
func FuzzDecodeFrame(f *testing.F) {
	raw := bytes.Repeat([]byte("frame of text "), 300)[:BlockSize]
	for _, codec := range []Codec{CodecS2, CodecZstd} {
		encoder, err := newFrameEncoder(codec)
		require.NoError(f, err)
		encoded, _ := encoder.encode(nil, raw)
		f.Add(byte(codec), uint16(0), encoded)
		encoder.close()
	}
	f.Add(byte(CodecNone), uint16(0), raw)
	f.Add(byte(3), uint16(0), raw)
	f.Fuzz(func(t *testing.T, codec byte, blocks uint16, data []byte) {
		size := (1 + int(blocks)%frameBlocks) * BlockSize
		decoder, err := newFrameDecoder()
		require.NoError(t, err)
		defer decoder.close()
		plain, err := decoder.decode(Codec(codec), data, size)
		if err != nil {
			return
		}
		require.Len(t, plain, size)
		encoder, err := newFrameEncoder(Codec(codec))
		require.NoError(t, err)
		defer encoder.close()
		want := bytes.Clone(plain)
		encoded, used := encoder.encode(nil, want)
		if used != CodecNone {
			again, err := decoder.decode(used, encoded, size)
			require.NoError(t, err)
			require.Equal(t, want, again)
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	f.Add([]byte(strings.Repeat("ab", 32)))
	f.Add([]byte(strings.Repeat("ab", 32) + "\n\n" + base64.StdEncoding.EncodeToString(formatPage(1)[:32])))
	f.Add(bytes.Repeat([]byte{'\n'}, 32))
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, err := ParseKeyring(data)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		require.NotEmpty(t, ring)
		for i, key := range ring {
			require.NotEqual(t, Key{}, key)
			require.NotContains(t, ring[:i], key)
		}
	})
}
