package store

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

var formatTarget = Target{Cluster: "c", Namespace: "n", Name: "name", UID: "uid"}

func formatKeys(t testing.TB) *targetKeys {
	t.Helper()
	keys, err := deriveKeys(Key{1}, formatTarget)
	require.NoError(t, err)
	return keys
}

// formatPack makes a pack of the given frames.
func formatPack(t testing.TB, keys *targetKeys, frames ...[]byte) (*packInfo, []byte) {
	t.Helper()
	encoder, err := newFrameEncoder()
	require.NoError(t, err)
	pack, err := newPackBuilder(&packInfo{id: ulid.ULID{1, 2, 3}, number: 4, epoch: 5}, keys, encoder, nil)
	require.NoError(t, err)
	for _, frame := range frames {
		require.NoError(t, pack.add(frame))
	}
	return pack.info, pack.finish()
}

func formatManifest(t testing.TB) *manifest {
	info, _ := formatPack(t, formatKeys(t), bytes.Repeat([]byte("a"), 100), []byte("b"))
	return &manifest{
		meta: Meta{
			Number: 4, Epoch: 5, PodUID: "pod", Node: "node", Final: true, Created: time.Unix(1, 2).UTC(),
			Containers:   []ContainerMeta{{Name: "main", RSSBytes: 7}},
			Requirements: map[string]string{"arch": "amd64"},
		},
		packs: []*packInfo{info},
		records: []record{
			{Entry: Entry{Path: "d", Type: TypeDir, Opaque: true, ModTime: time.Unix(-1, 5).UTC()}},
			{
				Entry: Entry{Path: "d/f", Type: TypeRegular, Size: 131, ModTime: time.Unix(9, 0).UTC(),
					Xattrs: map[string][]byte{"user.a": []byte("b")}},
				extents: []extent{{pack: 0, frame: 0, offset: 70, length: 31}, {zero: true, length: 100}},
			},
			{Entry: Entry{Path: "d/l", Type: TypeRegular, HardlinkTo: "d/f", ModTime: time.Unix(9, 0).UTC()}},
		},
	}
}

func TestManifestRoundTrip(t *testing.T) {
	want := formatManifest(t)
	sealed, err := want.seal(formatKeys(t))
	require.NoError(t, err)
	got, err := openManifest(formatKeys(t), 4, 5, sealed)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestManifestRefuses(t *testing.T) {
	file := func(m *manifest) *record { return &m.records[1] }
	cases := []struct {
		name   string
		change func(*manifest)
		want   string
	}{
		{"path out of the root", func(m *manifest) { file(m).Path = "../f" }, `".."`},
		{"path twice", func(m *manifest) { file(m).Path = "d" }, "came before"},
		{"entry below a file", func(m *manifest) { m.records[0].Type, m.records[0].Opaque = TypeFIFO, false }, "a fifo"},
		{"hard link to nothing", func(m *manifest) { m.records[2].HardlinkTo = "x" }, "no earlier"},
		{"extents shorter than the size", func(m *manifest) { file(m).Size++ }, "extents hold"},
		{"extents longer than the size", func(m *manifest) { file(m).Size-- }, "differ"},
		{"empty extent", func(m *manifest) { file(m).extents[1].length = 0 }, "differ"},
		{"no such pack", func(m *manifest) { file(m).extents[0].pack = 1 }, "outside its pack"},
		{"no such frame", func(m *manifest) { file(m).extents[0].frame = 2 }, "outside its pack"},
		{"offset beyond the frame", func(m *manifest) { file(m).extents[0].offset = 100 }, "outside its pack"},
		{"extent beyond the pack", func(m *manifest) { file(m).extents[0].offset = 71 }, "outside its pack"},
		{"frame too large", func(m *manifest) { m.packs[0].frames[0].raw = maxFrameRaw + 1 }, "malformed"},
		{"empty frame", func(m *manifest) { m.packs[0].frames[0].raw = 0 }, "0 raw bytes"},
		{"frame without a tag", func(m *manifest) { m.packs[0].frames[0].stored = tagSize }, "stored as 16"},
		{"unknown codec", func(m *manifest) { m.packs[0].frames[0].codec = 9 }, "unknown codec"},
		{"pack too large", func(m *manifest) {
			frame := frameInfo{codec: codecRaw, raw: maxFrameRaw, stored: maxFrameRaw + tagSize}
			m.packs[0].frames = append(m.packs[0].frames, slices.Repeat([]frameInfo{frame}, 256)...)
		}, "that a pack may have"},
		{"mode", func(m *manifest) { m.records[1].Mode = 0o10000 }, "malformed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := formatManifest(t)
			c.change(m)
			_, err := decodeManifest(m.encode())
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestPackFooterRebuildsTheIndex(t *testing.T) {
	want, body := formatPack(t, formatKeys(t), bytes.Repeat([]byte("x"), 1000), []byte("y"))
	got, err := readPackFooter(body)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// A frame that unpacks to more than it declares stops at what it declares.
func TestBombIsStopped(t *testing.T) {
	keys := formatKeys(t)
	encoder, err := newFrameEncoder()
	require.NoError(t, err)
	info := &packInfo{id: ulid.ULID{9}, number: 1}
	aead, err := info.cipher(keys)
	require.NoError(t, err)
	bomb := encoder.EncodeAll(make([]byte, 64<<20), nil)
	nonce, additional := info.seal(keys.prefix, 0, codecZstd, 1000)
	body := append(make([]byte, packHeader), aead.Seal(nil, nonce, bomb, additional)...)
	require.NoError(t, info.append(codecZstd, int64(len(body)-packHeader), 1000))
	opener, err := newPackOpener(keys)
	require.NoError(t, err)
	_, err = opener.open(info, aead, body, 0)
	require.ErrorIs(t, err, ErrPackCorrupt)
	require.LessOrEqual(t, cap(opener.frame), maxFrameRaw)
}

func TestSealsAreNeverAlike(t *testing.T) {
	keys := formatKeys(t)
	first, err := Head{Number: 1}.seal(keys)
	require.NoError(t, err)
	second, err := Head{Number: 1}.seal(keys)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	require.False(t, strings.Contains(string(first), formatTarget.Name))
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add(formatManifest(f).encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeManifest(data)
		if err != nil {
			return
		}
		again, err := decodeManifest(m.encode())
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

func FuzzOpenManifest(f *testing.F) {
	sealed, err := formatManifest(f).seal(formatKeys(f))
	require.NoError(f, err)
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		// Nobody forges a seal, so what opens is the seed (each process of the fuzzer makes one of its own).
		if m, err := openManifest(formatKeys(t), 4, 5, data); err == nil {
			require.Equal(t, formatManifest(t), m)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	packed, err := compressAll([]byte("some bytes, some bytes"))
	require.NoError(f, err)
	f.Add(packed)
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := decompressAll(data, 1<<20)
		if err == nil {
			require.LessOrEqual(t, len(plain), 1<<20)
		}
	})
}

func FuzzOpenHead(f *testing.F) {
	sealed, err := Head{Number: 3, Epoch: 2, WrittenEpoch: 1}.seal(formatKeys(f))
	require.NoError(f, err)
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if head, err := openHead(formatKeys(t), data); err == nil {
			require.Equal(t, Head{Number: 3, Epoch: 2, WrittenEpoch: 1, nonce: headNonce(data)}, head)
		}
	})
}

func FuzzPackFooter(f *testing.F) {
	_, body := formatPack(f, formatKeys(f), bytes.Repeat([]byte("x"), 1000), []byte("y"))
	f.Add(body)
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readPackFooter(data)
		if err == nil {
			require.Equal(t, int64(len(data)), info.size)
		}
		// The checksum stops nearly all inputs, so the index is tried without it too.
		if len(data) >= packHeader+packTail {
			_ = (&packInfo{}).readIndex(data)
		}
	})
}

func FuzzOpenFrame(f *testing.F) {
	keys := formatKeys(f)
	_, body := formatPack(f, keys, bytes.Repeat([]byte("x"), 1000))
	f.Add(body, uint32(len(body)), uint32(1000))
	f.Fuzz(func(t *testing.T, data []byte, stored, raw uint32) {
		info := &packInfo{id: ulid.ULID{1, 2, 3}, number: 4, epoch: 5}
		if info.append(codecZstd, int64(stored), int64(raw)) != nil {
			return
		}
		aead, err := info.cipher(keys)
		require.NoError(t, err)
		opener, err := newPackOpener(keys)
		require.NoError(t, err)
		defer opener.decoder.Close()
		if plain, err := opener.open(info, aead, data, 0); err == nil {
			require.Len(t, plain, int(raw))
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte(strings.Repeat("ab", 32)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := ParseKey(data); err == nil {
			require.NotEqual(t, Key{}, key)
		}
	})
}
