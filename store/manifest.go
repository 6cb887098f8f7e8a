package store

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Meta says of what, by whom and for whom a generation was taken.
type Meta struct {
	// Number counts the generations of a target from 1; Epoch is the epoch under which this one is written.
	Number int64
	Epoch  int64
	PodUID string
	Node   string
	// Final says that the source was left frozen and never runs again.
	Final      bool
	Containers []ContainerMeta
	// Requirements are what a node must offer to restore it, by name.
	Requirements map[string]string
	Created      time.Time
}

// ContainerMeta describes one container of the target.
type ContainerMeta struct {
	Name        string
	Image       string
	ImageDigest string
	RSSBytes    int64
}

// extent is a run of a file's content: zeros, or bytes that begin at offset of a frame and go on through the frames
// that follow in the same pack.
type extent struct {
	zero   bool
	pack   int
	frame  int
	offset int64
	length int64
}

type record struct {
	Entry
	extents []extent
}

// manifest is all that is known of a generation but the content of its packs.
type manifest struct {
	meta    Meta
	packs   []*packInfo
	records []record
}

// Bounds of a manifest. A file of 1 TiB without a zero page takes about 100 MiB before compression.
const (
	maxManifestPlain  = 256 << 20
	maxManifestSealed = 64 << 20
	maxMetaString     = 4096
	maxNanosecond     = 999_999_999
)

func manifestEnvelope(number, epoch int64) envelope {
	return envelope{magic: "LBMF", purpose: "manifest", place: []int64{number, epoch}, corrupt: ErrManifestCorrupt}
}

func (m *manifest) encode() []byte {
	var w wireWriter
	m.encodeMeta(&w)
	w.uint(uint64(len(m.packs)))
	for _, pack := range m.packs {
		pack.encode(&w)
	}
	w.uint(uint64(len(m.records)))
	for i := range m.records {
		m.records[i].encode(&w)
	}
	return w.buf
}

func (m *manifest) seal(keys *targetKeys) ([]byte, error) {
	plain := m.encode()
	if len(plain) > maxManifestPlain {
		return nil, fmt.Errorf("encode manifest: %d bytes, more than the %d that one may have: protect less, "+
			"or fewer files: %w", len(plain), maxManifestPlain, ErrInvalid)
	}
	packed, err := compressAll(plain)
	if err != nil {
		return nil, err
	}
	sealed, err := manifestEnvelope(m.meta.Number, m.meta.Epoch).seal(keys, packed)
	if err == nil && len(sealed) > maxManifestSealed {
		return nil, fmt.Errorf("seal manifest: %d bytes, more than the %d that one may have: protect less, "+
			"or fewer files: %w", len(sealed), maxManifestSealed, ErrInvalid)
	}
	return sealed, err
}

func openManifest(keys *targetKeys, number, epoch int64, sealed []byte) (*manifest, error) {
	packed, err := manifestEnvelope(number, epoch).open(keys, sealed)
	if err != nil {
		return nil, err
	}
	plain, err := decompressAll(packed, maxManifestPlain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifestCorrupt, err)
	}
	m, err := decodeManifest(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifestCorrupt, err) // not %w: ErrInvalid is about what a caller hands in
	}
	if m.meta.Number != number || m.meta.Epoch != epoch {
		return nil, fmt.Errorf("%w: speaks of generation %d of epoch %d", ErrManifestCorrupt, m.meta.Number, m.meta.Epoch)
	}
	return m, nil
}

func decodeManifest(plain []byte) (*manifest, error) {
	r := &wireReader{buf: plain}
	m := &manifest{}
	m.decodeMeta(r)
	for i, n := 0, r.count(packInfoMinimum); i < n && r.err == nil; i++ {
		pack, err := decodePackInfo(r)
		if err != nil {
			return nil, fmt.Errorf("pack %d: %w", i, err)
		}
		m.packs = append(m.packs, pack)
	}
	tree := newTree()
	for i, n := 0, r.count(recordMinimum); i < n && r.err == nil; i++ {
		rec := decodeRecord(r)
		if r.err != nil {
			break
		}
		if err := m.check(tree, rec); err != nil {
			return nil, err
		}
		m.records = append(m.records, rec)
	}
	if r.err != nil {
		return nil, r.err
	}
	if len(r.buf) != 0 {
		return nil, fmt.Errorf("%d bytes after the end", len(r.buf))
	}
	return m, nil
}

func (m *manifest) check(tree *tree, rec record) error {
	if err := rec.Validate(); err != nil {
		return err
	}
	if err := tree.add(rec.Entry); err != nil {
		return err
	}
	var total int64
	for _, ext := range rec.extents {
		if ext.length <= 0 || ext.length > rec.Size-total {
			return fmt.Errorf("entry %q: extents and size %d differ", rec.Path, rec.Size)
		}
		total += ext.length
		if !ext.zero && !m.holds(ext) {
			return fmt.Errorf("entry %q: extent outside its pack", rec.Path)
		}
	}
	if total != rec.Size {
		return fmt.Errorf("entry %q: extents hold %d bytes of %d", rec.Path, total, rec.Size)
	}
	return nil
}

func (m *manifest) holds(ext extent) bool {
	if ext.pack >= len(m.packs) || ext.frame >= len(m.packs[ext.pack].frames) {
		return false
	}
	pack := m.packs[ext.pack]
	first := pack.frames[ext.frame]
	return ext.offset < int64(first.raw) && ext.length <= pack.raw-first.before-ext.offset
}

func (m *manifest) encodeMeta(w *wireWriter) {
	meta := m.meta
	w.int(meta.Number)
	w.int(meta.Epoch)
	w.string(meta.PodUID)
	w.string(meta.Node)
	w.uint(boolBit(meta.Final))
	w.uint(uint64(len(meta.Containers)))
	for _, c := range meta.Containers {
		w.string(c.Name)
		w.string(c.Image)
		w.string(c.ImageDigest)
		w.int(c.RSSBytes)
	}
	w.uint(uint64(len(meta.Requirements)))
	for _, name := range slices.Sorted(maps.Keys(meta.Requirements)) {
		w.string(name)
		w.string(meta.Requirements[name])
	}
	encodeTime(w, meta.Created)
}

func (m *manifest) decodeMeta(r *wireReader) {
	m.meta.Number = r.int()
	m.meta.Epoch = r.int()
	m.meta.PodUID = r.string(maxMetaString)
	m.meta.Node = r.string(maxMetaString)
	m.meta.Final = r.max(1) == 1
	for i, n := 0, r.count(4); i < n && r.err == nil; i++ {
		m.meta.Containers = append(m.meta.Containers, ContainerMeta{
			Name: r.string(maxMetaString), Image: r.string(maxMetaString),
			ImageDigest: r.string(maxMetaString), RSSBytes: r.int(),
		})
	}
	if n := r.count(2); n > 0 {
		m.meta.Requirements = make(map[string]string)
		for i := 0; i < n && r.err == nil; i++ {
			name := r.string(maxMetaString)
			m.meta.Requirements[name] = r.string(maxMetaString)
		}
	}
	m.meta.Created = decodeTime(r)
}

// recordMinimum is the fewest bytes of an encoded record: every field takes one.
const recordMinimum = 12

func (rec *record) encode(w *wireWriter) {
	w.uint(uint64(rec.Type))
	w.uint(boolBit(rec.Opaque))
	w.string(rec.Path)
	w.uint(uint64(rec.Mode))
	w.uint(uint64(rec.UID))
	w.uint(uint64(rec.GID))
	encodeTime(w, rec.ModTime)
	w.uint(uint64(rec.Size))
	w.string(rec.Linkname)
	w.string(rec.HardlinkTo)
	w.uint(uint64(len(rec.Xattrs)))
	for _, name := range slices.Sorted(maps.Keys(rec.Xattrs)) {
		w.string(name)
		w.string(string(rec.Xattrs[name]))
	}
	w.uint(uint64(len(rec.extents)))
	for _, ext := range rec.extents {
		ext.encode(w)
	}
}

func decodeRecord(r *wireReader) record {
	var rec record
	rec.Type = Type(r.max(255))
	rec.Opaque = r.max(1) == 1
	rec.Path = r.string(maxPathLength)
	rec.Mode = uint32(r.max(modeMask))
	rec.UID = uint32(r.max(1<<32 - 1))
	rec.GID = uint32(r.max(1<<32 - 1))
	rec.ModTime = decodeTime(r)
	rec.Size = r.max(maxFileSize)
	rec.Linkname = r.string(maxPathLength)
	rec.HardlinkTo = r.string(maxPathLength)
	if n := r.count(2); n > 0 {
		rec.Xattrs = make(map[string][]byte)
		for i := 0; i < n && r.err == nil; i++ {
			name := r.string(maxXattrName)
			rec.Xattrs[name] = []byte(r.string(maxXattrValue))
		}
	}
	for i, n := 0, r.count(2); i < n && r.err == nil; i++ {
		rec.extents = append(rec.extents, decodeExtent(r))
	}
	return rec
}

// encode: pack number + 1, or 0 for zeros; then frame and offset unless zeros; then the length.
func (ext extent) encode(w *wireWriter) {
	if ext.zero {
		w.uint(0)
	} else {
		w.uint(uint64(ext.pack) + 1)
		w.uint(uint64(ext.frame))
		w.uint(uint64(ext.offset))
	}
	w.uint(uint64(ext.length))
}

func decodeExtent(r *wireReader) extent {
	pack := r.max(1 << 32)
	if pack == 0 {
		return extent{zero: true, length: r.max(maxFileSize)}
	}
	return extent{
		pack: int(pack - 1), frame: int(r.max(maxFrames)), offset: r.max(maxFrameRaw), length: r.max(maxFrames * maxFrameRaw),
	}
}

func encodeTime(w *wireWriter, t time.Time) {
	w.int(t.Unix())
	w.uint(uint64(t.Nanosecond()))
}

func decodeTime(r *wireReader) time.Time {
	seconds := r.int()
	return time.Unix(seconds, r.max(maxNanosecond)).UTC()
}

func boolBit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
