package store

import (
	"crypto/sha256"
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

// parent is the generation before, as HEAD named it. Number 0: there was none.
type parent struct {
	number   int64
	epoch    int64
	manifest [sha256.Size]byte
}

// manifest is all that is known of a generation but the content of its packs.
type manifest struct {
	meta    Meta
	parent  parent
	packs   []*packInfo
	records []record
}

// Bounds of a manifest. 16 GiB of pages, no two of them neighbours, take about 30 MiB before compression.
const (
	maxManifestPlain  = 256 << 20
	maxManifestSealed = 64 << 20
	maxMetaString     = 4096
	maxTask           = 255
	maxPlace          = 1 << 52
	maxNanosecond     = 999_999_999
)

func manifestEnvelope(number, epoch int64) envelope {
	return envelope{magic: "LBMF", purpose: "manifest", place: []int64{number, epoch}, corrupt: ErrManifestCorrupt}
}

// The sections of a manifest, each a column of values of one kind.
const (
	sectionMain   = iota // generation, packs, entries
	sectionInline        // contents of inline entries
	sectionRuns          // addresses of images
	sectionPacks         // extents: pack
	sectionStarts        // extents: first block, as the distance from where the last extent of that pack ended
	sectionBlocks        // extents: blocks
	sectionsCount
)

// manifestWriter has a writer for each section.
type manifestWriter struct {
	sections [sectionsCount]wireWriter
	ends     map[int]int // by pack, where its last extent ended
}

func (m *manifest) encode() [][]byte {
	w := &manifestWriter{ends: map[int]int{}}
	main := &w.sections[sectionMain]
	m.encodeMeta(main)
	main.uint(uint64(len(m.packs)))
	for _, pack := range m.packs {
		pack.encode(main)
	}
	main.uint(uint64(len(m.records)))
	for i := range m.records {
		m.records[i].encode(w)
	}
	var sections [][]byte
	for i := range w.sections {
		sections = append(sections, w.sections[i].buf)
	}
	return sections
}

func (m *manifest) seal(keys *targetKeys) ([]byte, error) {
	sections := m.encode()
	var plain int
	for _, section := range sections {
		plain += len(section)
	}
	if plain > maxManifestPlain {
		return nil, fmt.Errorf("encode manifest: %d bytes, more than the %d that one may have: protect less, "+
			"or fewer files: %w", plain, maxManifestPlain, ErrInvalid)
	}
	packed, err := packSections(sections)
	if err != nil {
		return nil, err
	}
	sealed, err := manifestEnvelope(m.meta.Number, m.meta.Epoch).sealWith(keys, packed)
	if err == nil && len(sealed) > maxManifestSealed {
		return nil, fmt.Errorf("seal manifest: %d bytes, more than the %d that one may have: protect less, "+
			"or fewer files: %w", len(sealed), maxManifestSealed, ErrInvalid)
	}
	return sealed, err
}

func openManifest(keys *targetKeys, number, epoch int64, sealed []byte) (*manifest, error) {
	packed, err := manifestEnvelope(number, epoch).openWith(keys, sealed)
	if err != nil {
		return nil, err
	}
	sections, err := unpackSections(packed, sectionsCount, maxManifestPlain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifestCorrupt, err)
	}
	m, err := decodeManifest(sections)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifestCorrupt, err) // not %w: ErrInvalid is about what a caller hands in
	}
	if m.meta.Number != number || m.meta.Epoch != epoch {
		return nil, fmt.Errorf("%w: speaks of generation %d of epoch %d", ErrManifestCorrupt, m.meta.Number, m.meta.Epoch)
	}
	return m, nil
}

// manifestReader has a reader for each section.
type manifestReader struct {
	sections [sectionsCount]wireReader
	ends     map[int]int
}

// err is the first fault of any section, or what is left over at the end.
func (r *manifestReader) err(end bool) error {
	for i := range r.sections {
		if err := r.sections[i].err; err != nil {
			return err
		}
		if end && len(r.sections[i].buf) != 0 {
			return fmt.Errorf("%d bytes after the end of section %d", len(r.sections[i].buf), i)
		}
	}
	return nil
}

func decodeManifest(sections [][]byte) (*manifest, error) {
	if len(sections) != sectionsCount {
		return nil, fmt.Errorf("%d sections, want %d", len(sections), sectionsCount)
	}
	r := &manifestReader{ends: map[int]int{}}
	for i, section := range sections {
		r.sections[i].buf = section
	}
	main := &r.sections[sectionMain]
	m := &manifest{}
	m.decodeMeta(main)
	for i, n := 0, main.count(packInfoMinimum); i < n && main.err == nil; i++ {
		pack, err := decodePackInfo(main)
		if err != nil {
			return nil, fmt.Errorf("pack %d: %w", i, err)
		}
		m.packs = append(m.packs, pack)
	}
	tree, tasks := newTree(), map[string]bool{}
	for i, n := 0, main.count(recordMinimum); i < n; i++ {
		rec := m.decodeRecord(r)
		if err := r.err(false); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if err := m.check(tree, rec); err != nil {
			return nil, err
		}
		if rec.task != "" && tasks[rec.task] {
			return nil, fmt.Errorf("entry %q: task %q has another image", rec.Path, rec.task)
		}
		tasks[rec.task] = true
		m.records = append(m.records, rec)
	}
	return m, r.err(true)
}

// check refuses a record that does not fit into the manifest.
func (m *manifest) check(tree *tree, rec record) error {
	if err := rec.Validate(); err != nil {
		return err
	}
	if err := tree.add(rec.Entry); err != nil { // takes valid entries only
		return err
	}
	var blocks int64
	for _, ext := range rec.extents {
		if ext.pack != zeroPack && (ext.pack >= len(m.packs) || ext.at+int(ext.blocks) > m.packs[ext.pack].blocks) {
			return fmt.Errorf("entry %q: content outside of its pack", rec.Path)
		}
		if blocks += ext.blocks; blocks > blocksOf(maxFileSize) {
			return fmt.Errorf("entry %q: more content than any file has", rec.Path)
		}
	}
	if !rec.Inline && blocks != blocksOf(rec.Size) {
		return fmt.Errorf("entry %q: %d bytes in %d blocks", rec.Path, rec.Size, blocks)
	}
	if rec.task != "" {
		if fault := rec.imageFault(); fault != "" {
			return fmt.Errorf("entry %q: %s", rec.Path, fault)
		}
	}
	return nil
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
	w.int(m.parent.number)
	w.int(m.parent.epoch)
	w.raw(m.parent.manifest[:])
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
	m.parent.number = r.int()
	m.parent.epoch = r.int()
	copy(m.parent.manifest[:], r.raw(sha256.Size))
}

// packInfoMinimum is the fewest bytes of an encoded packInfo.
const packInfoMinimum = 16 + 1 + 1 + sha256.Size + 1 + 1

func (p *packInfo) encode(w *wireWriter) {
	w.raw(p.id[:])
	w.int(p.number)
	w.int(p.epoch)
	w.raw(p.sum[:])
	w.uint(uint64(p.size))
	w.uint(uint64(p.blocks))
}

func decodePackInfo(r *wireReader) (*packInfo, error) {
	p := &packInfo{}
	copy(p.id[:], r.raw(len(p.id)))
	p.number, p.epoch = r.int(), r.int()
	copy(p.sum[:], r.raw(len(p.sum)))
	p.size, p.blocks = r.max(maxPackSize), int(r.max(maxBlocks))
	if r.err != nil {
		return nil, r.err
	}
	return p, p.validate()
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
