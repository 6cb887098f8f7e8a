package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

// hostile is a bucket in which a writer that has the key has committed these sections.
func hostile(t testing.TB, m *manifest, sections [][]byte, packs ...[]byte) *Store {
	t.Helper()
	keys := formatKeys()
	packed, err := packSections(sections)
	require.NoError(t, err)
	return hostilePacked(t, keys, m, packed, packs...)
}

func hostilePacked(t testing.TB, keys *targetKeys, m *manifest, packed []byte, packs ...[]byte) *Store {
	t.Helper()
	sealed, err := manifestEnvelope(4, 5).sealWith(keys, packed)
	require.NoError(t, err)
	head, err := Head{Number: 4, Epoch: 5, WrittenEpoch: 5, Manifest: sha256.Sum256(sealed)}.seal(keys)
	require.NoError(t, err)
	key, err := formatRing.wrap(formatTarget.Prefix(), Key{2})
	require.NoError(t, err)
	bucket := fixed{objects: map[string][]byte{
		formatTarget.keyKey(): key, formatTarget.headKey(): head, formatTarget.manifestKey(4, 5): sealed,
	}}
	for i, body := range packs {
		bucket.objects[formatTarget.packKey(m.packs[i].id)] = body
	}
	return New(bucket, formatRing)
}

// untouched is a sink that must not be called.
type untouched struct{ t testing.TB }

func (u untouched) Make(e Entry) error { u.t.Errorf("made %q", e.Path); return nil }
func (u untouched) Open(e Entry) (File, error) {
	u.t.Errorf("opened %q", e.Path)
	return nil, errors.New("no")
}
func (u untouched) Finish(e Entry) error { u.t.Errorf("finished %q", e.Path); return nil }

// hostileCases are manifests that no Writer makes, and a part of the error that each must meet.
var hostileCases = []struct {
	name   string
	change func(m *manifest, file, image *record)
	want   string
}{
	{"path out of the root", func(_ *manifest, f, _ *record) { f.Path = "../f" }, `".."`},
	{"path that climbs inside", func(_ *manifest, f, _ *record) { f.Path = "d/../../f" }, "not clean"},
	{"absolute path", func(_ *manifest, f, _ *record) { f.Path = "/etc/passwd" }, "absolute"},
	{"absolute root", func(_ *manifest, f, _ *record) { f.Path = "/" }, "absolute"},
	{"no path", func(_ *manifest, f, _ *record) { f.Path = "" }, "path of 0 bytes"},
	{"NUL in a path", func(_ *manifest, f, _ *record) { f.Path = "d/f\x00" }, "NUL"},
	{"long path", func(_ *manifest, f, _ *record) { f.Path = strings.Repeat("a/", 2500) + "b" }, "malformed"},
	{"long name", func(_ *manifest, f, _ *record) { f.Path = strings.Repeat("a", 256) }, "256 bytes"},
	{"file as the root", func(_ *manifest, f, _ *record) { f.Path = "." }, "want a dir"},
	{"path twice", func(_ *manifest, f, _ *record) { f.Path = "d" }, "came before"},
	{"entry below a file", func(m *manifest, _, _ *record) { m.records[0].Type, m.records[0].Opaque = TypeFIFO, false }, "a fifo"},
	{"entry below a symlink", func(m *manifest, _, _ *record) {
		m.records[0] = record{Entry: Entry{Path: "d", Type: TypeSymlink, Linkname: "/etc"}}
	}, "a symlink"},
	{"symlink in the place of a parent", func(m *manifest, _, _ *record) { m.records[5].Path = "d" }, "came before"},
	{"symlink over a parent that was left out", func(m *manifest, _, _ *record) { m.records[0].Path, m.records[5].Path = "e", "d" }, "below it"},
	{"hard link to nothing", func(m *manifest, _, _ *record) { m.records[2].HardlinkTo = "x" }, "no earlier"},
	{"hard link out of the root", func(m *manifest, _, _ *record) { m.records[2].HardlinkTo = "../../etc/shadow" }, `".."`},
	{"hard link to an absolute path", func(m *manifest, _, _ *record) { m.records[2].HardlinkTo = "/etc/shadow" }, "absolute"},
	{"hard link to a dir", func(m *manifest, _, _ *record) { m.records[2].HardlinkTo = "d" }, "no earlier"},
	{"hard link to what comes later", func(m *manifest, _, _ *record) { m.records[2].HardlinkTo = "i" }, "no earlier"},
	{"hard link to itself", func(m *manifest, _, _ *record) { m.records[2].HardlinkTo = "d/l" }, "no earlier"},
	{"hard link with content", func(m *manifest, f, _ *record) { m.records[2].Size, m.records[2].extents = BlockSize, f.extents[:1] }, "size"},
	{"device node", func(_ *manifest, f, _ *record) { f.Type = 7 }, "unknown type 7"},
	{"type 0", func(_ *manifest, f, _ *record) { f.Type = 0 }, "unknown type 0"},
	{"type bits in the mode", func(_ *manifest, f, _ *record) { f.Mode = 0o60000 }, "malformed"},
	{"symlink to nothing", func(m *manifest, _, _ *record) { m.records[5].Linkname = "" }, "link name"},
	{"dir with content", func(m *manifest, f, _ *record) { m.records[0].extents = f.extents }, "0 bytes in 5 blocks"},
	{"size of a dir", func(m *manifest, _, _ *record) { m.records[0].Size = 1 }, "size"},
	{"inline dir", func(m *manifest, _, _ *record) { m.records[0].Inline = true }, "inline"},
	{"inline too large", func(m *manifest, _, _ *record) {
		m.records[3].Size, m.records[3].content = maxInline+1, make([]byte, maxInline+1)
	}, "malformed"},
	{"inline larger than its section", func(m *manifest, _, _ *record) { m.records[3].Size = 7 }, "malformed"},
	{"inline smaller than its section", func(m *manifest, _, _ *record) { m.records[3].Size = 5 }, "after the end"},
	{"xattr without a name", func(_ *manifest, f, _ *record) { f.Xattrs = map[string][]byte{"": nil} }, "attribute"},
	{"huge file", func(_ *manifest, f, _ *record) { f.Size = maxFileSize + 1 }, "malformed"},
	{"negative size", func(_ *manifest, f, _ *record) { f.Size = -1 }, "malformed"},
	{"more bytes than blocks", func(_ *manifest, f, _ *record) { f.Size = 5*BlockSize + 1 }, "in 5 blocks"},
	{"fewer bytes than blocks", func(_ *manifest, f, _ *record) { f.Size = 4 * BlockSize }, "in 5 blocks"},
	{"empty extent", func(_ *manifest, f, _ *record) { f.extents[1].blocks = 0 }, "malformed"},
	{"huge extent", func(_ *manifest, f, _ *record) { f.extents[1].blocks = 1 << 40 }, "malformed"},
	{"extents that sum up to more than there is", func(_ *manifest, f, _ *record) {
		f.extents = slices.Repeat([]extent{{pack: zeroPack, blocks: 1 << 32}}, 3)
	}, "more content"},
	{"no such pack", func(_ *manifest, f, _ *record) { f.extents[0].pack = 1 }, "outside of its pack"},
	{"no such pack by far", func(_ *manifest, f, _ *record) { f.extents[0].pack = 1<<32 - 1 }, "outside of its pack"},
	{"extent behind the pack", func(_ *manifest, f, _ *record) { f.extents[0].at = 19 }, "outside of its pack"},
	{"extent before the pack", func(_ *manifest, f, _ *record) { f.extents[0].at = -1 }, "malformed"},
	{"extent far behind the pack", func(_ *manifest, f, _ *record) { f.extents[0].at = math.MaxInt64 }, "malformed"},
	{"extent far before the pack", func(_ *manifest, f, _ *record) { f.extents[0].at = math.MinInt64 }, "malformed"},
	{"extent that wraps round", func(_ *manifest, f, _ *record) { f.extents[0] = extent{at: math.MaxInt64 - 1, blocks: 1 << 32} }, "malformed"},
	{"image without a task", func(_ *manifest, _, i *record) { i.task = strings.Repeat("t", 256) }, "malformed"},
	{"image that is a symlink", func(_ *manifest, _, i *record) { i.Type, i.Linkname, i.Size = TypeSymlink, "x", 0 }, "5 blocks"},
	{"two images of a task", func(m *manifest, f, i *record) {
		again := *i
		again.Path = "pages-2.img"
		m.records = append(m.records, again)
	}, "another image"},
	{"empty run", func(_ *manifest, _, i *record) { i.runs[0].Pages, i.runs[1].Pages = 0, 5 }, "run of 0 pages"},
	{"fewer pages than bytes", func(_ *manifest, _, i *record) { i.runs[0].Pages = 2 }, "its runs have 4 pages"},
	{"runs that overlap", func(_ *manifest, _, i *record) { i.runs[1].Address = 0x2000 }, "malformed"},
	{"run beyond the last address", func(_ *manifest, _, i *record) { i.runs[1].Address = 1<<64 - BlockSize }, "malformed"},
	{"runs that sum up to nothing", func(_ *manifest, _, i *record) {
		i.Size, i.extents, i.runs = 0, nil, nil
		for at := uint64(0); at < maxPlace; at += 1 << 32 {
			i.runs = append(i.runs, Run{Address: at * BlockSize, Pages: 1 << 32})
		}
	}, "its runs have"},
	{"pack without blocks", func(m *manifest, _, _ *record) { m.packs[0].blocks = 0 }, "pack of 0 blocks"},
	{"pack of too many blocks", func(m *manifest, _, _ *record) { m.packs[0].blocks = maxBlocks }, "blocks in"},
	{"pack too large", func(m *manifest, _, _ *record) { m.packs[0].size = maxPackSize + 1 }, "malformed"},
	{"pack smaller than its footer", func(m *manifest, _, _ *record) { m.packs[0].size = 100 }, "in 100 bytes"},
	{"another generation", func(m *manifest, _, _ *record) { m.meta.Number = 5 }, "speaks of generation 5"},
	{"its own parent", func(m *manifest, _, _ *record) { m.parent.number = 4 }, "comes before it"},
	{"parent of the future", func(m *manifest, _, _ *record) { m.parent.number = math.MaxInt64 }, "comes before it"},
}

// What a writer with the key commits by malice is refused before anything is made.
func TestHostileManifests(t *testing.T) {
	_, body := formatPack(t, CodecZstd, formatRaw())
	for _, c := range hostileCases {
		t.Run(c.name, func(t *testing.T) {
			m := formatManifest(t)
			c.change(m, &m.records[1], &m.records[4])
			s := hostile(t, m, m.encode(), body)
			r, err := s.Open(t.Context(), formatTarget, 4, 5)
			if err == nil {
				err = r.Fetch(untouched{t}).Run(t.Context())
			}
			require.ErrorIs(t, err, ErrManifestCorrupt)
			require.NotErrorIs(t, err, ErrInvalid, "that is about what a caller hands in")
			require.ErrorContains(t, err, c.want)
			_, err = s.Base(t.Context(), formatTarget)
			require.ErrorIs(t, err, ErrManifestCorrupt)
		})
	}
	m := formatManifest(t)
	_, err := hostile(t, m, m.encode(), body).Base(t.Context(), formatTarget)
	require.NoError(t, err, "unchanged it is sound")
}

// Counts of what is not there.
func TestHostileCounts(t *testing.T) {
	m := formatManifest(t)
	for section := range sectionsCount {
		for _, count := range []uint64{1 << 20, 1 << 32, math.MaxInt64, math.MaxUint64} {
			sections := m.encode()
			var w wireWriter
			w.uint(count)
			sections[section] = append(w.buf, sections[section]...)
			allocated := allocatedBy(func() {
				_, err := decodeManifest(sections)
				require.Error(t, err)
			})
			require.Less(t, allocated, uint64(1<<20), "section %d, count %d", section, count)
		}
		for cut := range m.encode()[section] {
			broken := m.encode()
			broken[section] = broken[section][:cut]
			_, err := decodeManifest(broken)
			require.Error(t, err)
		}
	}
	for _, n := range []int{0, sectionsCount - 1, sectionsCount + 1} {
		_, err := decodeManifest(make([][]byte, n))
		require.Error(t, err)
	}
}

// allocatedBy is how many bytes fn allocates.
func allocatedBy(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A section that declares 256 MiB is not given them before its bytes can hold them.
func TestHostileSections(t *testing.T) {
	bomb := func(declared, stored uint32, body []byte) []byte {
		packed := binary.LittleEndian.AppendUint32(nil, declared)
		return append(binary.LittleEndian.AppendUint32(packed, stored), body...)
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false))
	require.NoError(t, err)
	zeros := encoder.EncodeAll(make([]byte, 64<<20), nil)
	cases := []struct {
		name   string
		packed []byte
	}{
		{"declared and nothing there", bomb(256<<20, 0, nil)},
		{"declared and noise there", bomb(256<<20, 100, make([]byte, 100))},
		{"declared and little there", bomb(256<<20, 11, encoder.EncodeAll([]byte("x"), nil)[:10])},
		{"declared more than may be", bomb(math.MaxUint32, uint32(len(zeros)), zeros)},
		{"more there than declared", bomb(1000, uint32(len(zeros)), zeros)},
		{"stored beyond the end", bomb(1000, math.MaxUint32, zeros)},
		{"a small frame that says it is large", bomb(256<<20, 13, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x10, 1, 0, 0, 0})},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			packed := c.packed
			for range sectionsCount - 1 {
				packed = append(packed, make([]byte, 8)...)
			}
			s := hostilePacked(t, formatKeys(), nil, packed)
			_, err := s.Open(t.Context(), formatTarget, 4, 5) // what every Open takes, zstd's tables too
			require.ErrorIs(t, err, ErrManifestCorrupt)
			allocated := allocatedBy(func() { _, _ = s.Open(t.Context(), formatTarget, 4, 5) })
			require.Less(t, allocated, uint64(4<<20))
		})
	}
}

// A hole of 16 TiB is an entry like any other: it costs a sink what it makes of it, and a base nothing.
func TestHugeHole(t *testing.T) {
	m := formatManifest(t)
	f := &m.records[1]
	f.Size, f.extents = maxFileSize, []extent{{pack: 0, at: 3, blocks: 1}, {pack: zeroPack, blocks: maxFileSize/BlockSize - 1}}
	_, body := formatPack(t, CodecZstd, formatRaw())
	s := hostile(t, m, m.encode(), body)
	allocated := allocatedBy(func() {
		_, err := s.Base(t.Context(), formatTarget)
		require.NoError(t, err)
	})
	require.Less(t, allocated, uint64(4<<20))
}

// nowhere is a sink whose files refuse every byte.
type nowhere struct{ t testing.TB }

func (nowhere) Make(Entry) error           { return nil }
func (n nowhere) Open(Entry) (File, error) { return n, nil }
func (nowhere) Finish(Entry) error         { return nil }
func (nowhere) Close() error               { return nil }

func (n nowhere) WriteAt(b []byte, at int64) (int, error) {
	n.t.Errorf("%d bytes came out at %d", len(b), at)
	return len(b), nil
}

// Frames that unpack to more, or less, than their blocks are refused, and take no memory beyond a frame.
func TestBombFrames(t *testing.T) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false))
	require.NoError(t, err)
	streamed, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithWindowSize(8<<20))
	require.NoError(t, err)
	large := make([]byte, 64<<20)
	cases := []struct {
		name    string
		codec   Codec
		encoded []byte
	}{
		{"zstd bomb", CodecZstd, encoder.EncodeAll(large, nil)},
		{"zstd of a large window", CodecZstd, streamed.EncodeAll(large[:16<<20], nil)},
		{"zstd a block longer", CodecZstd, encoder.EncodeAll(large[:2*BlockSize], nil)},
		{"zstd a byte longer", CodecZstd, encoder.EncodeAll(large[:BlockSize+1], nil)},
		{"zstd a byte shorter", CodecZstd, encoder.EncodeAll(large[:BlockSize-1], nil)},
		{"zstd of nothing", CodecZstd, encoder.EncodeAll(nil, nil)},
		{"two zstd frames", CodecZstd, append(encoder.EncodeAll(large[:BlockSize], nil), encoder.EncodeAll(large[:BlockSize], nil)...)},
		{"no zstd", CodecZstd, []byte("this is no zstd frame")},
		{"s2 bomb", CodecS2, s2.Encode(nil, large[:1<<20])[:4000]},
		{"s2 that declares 4 GiB", CodecS2, append(binary.AppendUvarint(nil, math.MaxUint32), 0)},
		{"s2 a byte longer", CodecS2, s2.Encode(nil, large[:BlockSize+1])},
		{"s2 a byte shorter", CodecS2, s2.Encode(nil, large[:BlockSize-1])},
		{"s2 cut", CodecS2, s2.Encode(nil, large[:BlockSize])[:3]},
		{"unknown codec", 3, []byte("difference")},
		{"raw and short", CodecNone, large[:BlockSize-1]},
		{"compressed to more than raw", CodecZstd, large[:BlockSize+1]},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pack, err := newPackBuilder(&packInfo{id: ulid.ULID{8}, number: 4, epoch: 5}, formatKeys(), nil)
			require.NoError(t, err)
			require.NoError(t, pack.add(c.encoded[:min(len(c.encoded), 64<<10)], c.codec, 1))
			body, err := pack.finish(make([]blockHash, 1))
			require.NoError(t, err)
			m := formatManifest(t)
			m.packs = []*packInfo{pack.info}
			m.records = []record{{Entry: Entry{Path: "f", Type: TypeRegular, Size: BlockSize}, extents: []extent{{blocks: 1}}}}
			s := hostile(t, m, m.encode(), body)
			allocated := allocatedBy(func() {
				r, err := s.Open(t.Context(), formatTarget, 4, 5)
				if err != nil { // not even the size of the pack can be
					require.ErrorIs(t, err, ErrManifestCorrupt)
					return
				}
				require.ErrorIs(t, r.Fetch(nowhere{t}).Run(t.Context()), ErrPackCorrupt)
			})
			require.Less(t, allocated, uint64(6<<20))
		})
	}
}
