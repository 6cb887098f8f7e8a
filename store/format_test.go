package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

var (
	formatTarget = Target{Cluster: "c", Namespace: "n", Name: "name", UID: "uid"}
	formatRing   = Keyring{{1}}
)

func formatKeys() *targetKeys { return newTargetKeys(formatTarget.Prefix(), Key{2}) }

func formatPage(seed byte) []byte {
	page := make([]byte, BlockSize)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(page)
	return page
}

// formatPack makes a pack of whole blocks.
func formatPack(t testing.TB, codec Codec, raw []byte) (*packInfo, []byte) {
	t.Helper()
	keys := formatKeys()
	encoder, err := newFrameEncoder(codec)
	require.NoError(t, err)
	defer encoder.close()
	pack, err := newPackBuilder(&packInfo{id: ulid.ULID{1, 2, 3}, number: 4, epoch: 5}, keys, nil)
	require.NoError(t, err)
	var hashes []blockHash
	for at := 0; at < len(raw); at += frameSize {
		frame := raw[at:min(at+frameSize, len(raw))]
		encoded, used := encoder.encode(nil, frame)
		if used == CodecNone {
			encoded = frame
		}
		require.NoError(t, pack.add(encoded, used, len(frame)/BlockSize))
		for i := 0; i < len(frame); i += BlockSize {
			hashes = append(hashes, hashBlock(frame[i:i+BlockSize], keys.seed))
		}
	}
	body, err := pack.finish(hashes)
	require.NoError(t, err)
	return pack.info, body
}

// formatRaw is content of 20 blocks, so two frames: one that is compressed, and one that is not.
func formatRaw() []byte {
	raw := bytes.Repeat([]byte("abcdefgh"), frameSize/8)
	for i := range byte(4) {
		raw = append(raw, formatPage(i+1)...)
	}
	return raw
}

// formatManifest has all that a manifest can have, over the pack of formatRaw.
func formatManifest(t testing.TB) *manifest {
	info, _ := formatPack(t, CodecZstd, formatRaw())
	at := time.Unix(9, 0).UTC()
	return &manifest{
		meta: Meta{
			Number: 4, Epoch: 5, PodUID: "pod", Node: "node", Final: true, Created: time.Unix(1, 2).UTC(),
			Containers:   []ContainerMeta{{Name: "main", RSSBytes: 7}},
			Requirements: map[string]string{"arch": "amd64", "criu": "4.2"},
		},
		parent: parent{number: 3, epoch: 5, manifest: [32]byte{9}},
		packs:  []*packInfo{info},
		records: []record{
			{Entry: Entry{Path: "d", Type: TypeDir, Opaque: true, ModTime: time.Unix(-1, 5).UTC()}, extents: []extent{}},
			{
				Entry: Entry{Path: "d/f", Type: TypeRegular, Size: 4*BlockSize + 31, ModTime: at,
					Xattrs: map[string][]byte{"user.a": []byte("b")}},
				extents: []extent{{pack: 0, at: 15, blocks: 2}, {pack: zeroPack, blocks: 2}, {pack: 0, at: 3, blocks: 1}},
			},
			{Entry: Entry{Path: "d/l", Type: TypeRegular, HardlinkTo: "d/f", ModTime: at}, extents: []extent{}},
			{Entry: Entry{Path: "i", Type: TypeRegular, Size: 6, ModTime: at, Inline: true}, content: []byte("inline")},
			{
				Entry: Entry{Path: "pages-1.img", Type: TypeRegular, Size: 5 * BlockSize, ModTime: at}, task: "1",
				runs:    []Run{{Address: 0x1000, Pages: 3}, {Address: 0x7000, Pages: 2}},
				extents: []extent{{pack: 0, at: 0, blocks: 4}, {pack: zeroPack, blocks: 1}},
			},
			{Entry: Entry{Path: "s", Type: TypeSymlink, Linkname: "../../x", ModTime: at}, extents: []extent{}},
		},
	}
}

func TestManifestRoundTrip(t *testing.T) {
	want := formatManifest(t)
	sealed, err := want.seal(formatKeys())
	require.NoError(t, err)
	got, err := openManifest(formatKeys(), 4, 5, sealed)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, other := range [][2]int64{{4, 6}, {5, 5}} {
		_, err := openManifest(formatKeys(), other[0], other[1], sealed)
		require.ErrorIs(t, err, ErrManifestCorrupt, "another place")
	}
	_, err = openManifest(newTargetKeys(formatTarget.Prefix(), Key{3}), 4, 5, sealed)
	require.ErrorIs(t, err, ErrManifestCorrupt, "another data key")
	_, err = openManifest(newTargetKeys("v1/c/n/other-uid/", Key{2}), 4, 5, sealed)
	require.ErrorIs(t, err, ErrManifestCorrupt, "another target")
}

func TestPackRoundTrip(t *testing.T) {
	raw := formatRaw()
	for _, codec := range []Codec{CodecNone, CodecS2, CodecZstd} {
		t.Run(codec.String(), func(t *testing.T) {
			want, body := formatPack(t, codec, raw)
			info, err := readPackInfo(body)
			require.NoError(t, err)
			require.Equal(t, want, info)
			opener, err := newPackOpener(formatKeys())
			require.NoError(t, err)
			defer opener.close()
			pack, err := opener.whole(info, body)
			require.NoError(t, err)
			require.Equal(t, []Codec{codec, CodecNone}, []Codec{pack.frames[0].codec, pack.frames[1].codec}, "the second is raw")
			for at := 0; at < info.blocks; {
				got, err := pack.blocks(at, 3)
				require.NoError(t, err)
				require.True(t, bytes.Equal(raw[at*BlockSize:at*BlockSize+len(got)], got))
				require.Equal(t, hashBlock(got[:BlockSize], formatKeys().seed), pack.hashes[at])
				at += len(got) / BlockSize
			}
		})
	}
}

// Encoders refuse calls out of order, and shapes that the format does not have.
func TestPackBuilderRefuses(t *testing.T) {
	frame := make([]byte, frameSize)
	build := func() *packBuilder {
		pack, err := newPackBuilder(&packInfo{id: ulid.ULID{1}, number: 1}, formatKeys(), nil)
		require.NoError(t, err)
		return pack
	}
	pack := build()
	_, err := pack.finish(nil)
	require.ErrorContains(t, err, "pack of 0 blocks")
	require.Error(t, pack.add(frame, CodecNone, 0), "an empty frame")
	require.Error(t, pack.add(frame, CodecNone, frameBlocks+1), "too large a frame")
	require.NoError(t, pack.add(frame[:BlockSize], CodecNone, 1))
	require.Error(t, pack.add(frame, CodecNone, frameBlocks), "after one that was not whole")
	_, err = pack.finish(make([]blockHash, 2))
	require.ErrorContains(t, err, "with 2 hashes")

	pack = build()
	for !pack.full() {
		require.NoError(t, pack.add(frame, CodecNone, frameBlocks))
	}
	require.Error(t, pack.add(frame, CodecNone, frameBlocks), "full")
	body, err := pack.finish(make([]blockHash, pack.info.blocks))
	require.NoError(t, err)
	require.LessOrEqual(t, len(body), maxPackSize)
	require.Greater(t, len(body), maxPackSize-2*frameSize)
	require.NoError(t, pack.info.validate())
}

// A codec that gains nothing leaves the frame raw, whatever its content.
func TestEncodeFallsBack(t *testing.T) {
	for _, codec := range []Codec{CodecNone, CodecS2, CodecZstd} {
		encoder, err := newFrameEncoder(codec)
		require.NoError(t, err)
		decoder, err := newFrameDecoder()
		require.NoError(t, err)
		var buf []byte
		for blocks := 1; blocks <= frameBlocks; blocks++ {
			incompressible := bytes.Repeat(formatPage(1), 1)
			for len(incompressible) < blocks*BlockSize {
				incompressible = append(incompressible, formatPage(byte(len(incompressible)/BlockSize+1))...)
			}
			var used Codec
			buf, used = encoder.encode(buf[:0], incompressible)
			require.Equal(t, CodecNone, used)
			require.Empty(t, buf)
			text := bytes.Repeat([]byte("text"), blocks*BlockSize/4)
			buf, used = encoder.encode(buf[:0], text)
			require.Equal(t, codec, used)
			if codec == CodecNone {
				continue
			}
			require.Less(t, len(buf), len(text)/8)
			plain, err := decoder.decode(used, buf, len(text))
			require.NoError(t, err)
			require.True(t, bytes.Equal(text, plain))
			for _, size := range []int{len(text) - BlockSize, len(text) + BlockSize, len(text) - 1} {
				if size > 0 && size <= frameSize {
					_, err = decoder.decode(used, buf, size)
					require.Error(t, err, "declared %d of %d", size, len(text))
				}
			}
		}
		encoder.close()
		decoder.close()
	}
}

func TestSectionsRoundTrip(t *testing.T) {
	want := [][]byte{[]byte("some bytes"), {}, bytes.Repeat([]byte{7}, 1<<20), formatPage(1)}
	packed, err := packSections(want)
	require.NoError(t, err)
	got, err := unpackSections(packed, len(want), 2<<20)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, n := range []int{len(want) - 1, len(want) + 1} {
		_, err = unpackSections(packed, n, 2<<20)
		require.Error(t, err, "%d sections", n)
	}
	_, err = unpackSections(packed, len(want), 1<<20)
	require.Error(t, err, "more than the limit together")
	for cut := range 40 {
		_, err = unpackSections(packed[:cut], len(want), 2<<20)
		require.Error(t, err)
	}
}

func TestSealsAreNeverAlike(t *testing.T) {
	keys := formatKeys()
	first, err := Head{Number: 1}.seal(keys)
	require.NoError(t, err)
	second, err := Head{Number: 1}.seal(keys)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	require.NotContains(t, string(first), formatTarget.Name)
	first, err = formatRing.wrap(formatTarget.Prefix(), Key{2})
	require.NoError(t, err)
	second, err = formatRing.wrap(formatTarget.Prefix(), Key{2})
	require.NoError(t, err)
	require.NotEqual(t, first, second)
}

// Keys of different uses and targets have nothing in common.
func TestKeysDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, prefix := range []string{"v1/a/b/c-d/", "v1/a/b/c-e/"} {
		for _, use := range []string{"HEAD", "manifest", "hash", "pack/" + ulid.ULID{1}.String(), "pack/" + ulid.ULID{2}.String()} {
			key := string(Key{1}.derive("lifeboat/v1/" + use + "/" + prefix))
			require.Len(t, key, 32)
			require.Empty(t, seen[key], use)
			seen[key] = use
		}
	}
	require.NotEqual(t, newTargetKeys("v1/a/b/c-d/", Key{1}).seed, newTargetKeys("v1/a/b/c-e/", Key{1}).seed)
	require.NotEqual(t, Key{1}.ID(), Key{2}.ID())
}

// fixed is a bucket to read from.
type fixed struct {
	Bucket
	objects map[string][]byte
}

func (b fixed) Stat(_ context.Context, key string) (Info, error) {
	body, there := b.objects[key]
	if !there {
		return Info{}, fmt.Errorf("stat %s: %w", key, ErrNotFound)
	}
	return Info{Key: key, Size: int64(len(body)), ETag: "x"}, nil
}

func (b fixed) Get(_ context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, there := b.objects[key]
	if !there {
		return nil, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	body = body[min(offset, int64(len(body))):]
	if length >= 0 {
		body = body[:min(length, int64(len(body)))]
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}
