package store

import (
	"cmp"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/oklog/ulid/v2"
)

type packID = ulid.ULID

const (
	maxPackSize = 16 << 20
	maxFrameRaw = 64 << 10
	// maxFrames is how many frames fit: each takes a byte, its tag and its line of the index.
	maxFrames = maxPackSize / (1 + tagSize + indexLine)

	packMagic  = "LBPK"
	packHeader = 4 + 2 + 2 + checkSize + 16 + 8 + 8
	indexLine  = 1 + 4 + 4
	packTail   = 4 + 4 + sha256.Size
	tailMagic  = "LBPE"
)

// packInfo is what a manifest knows of a pack: who wrote it (its seals say so), its size, checksum and frames.
type packInfo struct {
	id     packID
	number int64
	epoch  int64
	size   int64
	sum    [sha256.Size]byte
	frames []frameInfo
	raw    int64 // sum over frames
}

// frameInfo places a frame in its pack.
type frameInfo struct {
	codec  codec
	stored uint32 // sealed length, tag included
	raw    uint32
	at     int64 // offset in the pack
	before int64 // raw bytes of the frames before it
}

// append takes the next frame if it can be one.
func (p *packInfo) append(codec codec, stored, raw int64) error {
	switch {
	case raw < 1 || raw > maxFrameRaw:
		return fmt.Errorf("frame of %d raw bytes, want 1 to %d", raw, maxFrameRaw)
	case codec != codecRaw && codec != codecZstd:
		return fmt.Errorf("unknown codec %d", codec)
	case codec == codecRaw && stored != raw+tagSize, stored <= tagSize, stored > maxFrameRaw+tagSize:
		return fmt.Errorf("frame of %d raw bytes stored as %d", raw, stored)
	case len(p.frames) >= maxFrames:
		return fmt.Errorf("more than %d frames", maxFrames)
	}
	frame := frameInfo{codec: codec, stored: uint32(stored), raw: uint32(raw), at: packHeader, before: p.raw}
	if n := len(p.frames); n > 0 {
		frame.at = p.frames[n-1].at + int64(p.frames[n-1].stored)
	}
	p.frames = append(p.frames, frame)
	p.raw += raw
	return nil
}

// end is the size of the pack once its footer is written.
func (p *packInfo) end() int64 {
	end := int64(packHeader)
	if n := len(p.frames); n > 0 {
		end = p.frames[n-1].at + int64(p.frames[n-1].stored)
	}
	return end + int64(len(p.frames))*indexLine + packTail
}

// frameAt is the frame, from frame on, that holds the raw byte at place of the pack.
func (p *packInfo) frameAt(from int, place int64) int {
	n, exact := slices.BinarySearchFunc(p.frames[from:], place, func(frame frameInfo, place int64) int {
		return cmp.Compare(frame.before, place)
	})
	if !exact {
		n-- // the one before the first that begins behind place
	}
	return from + n
}

// cipher returns what seals the frames of this pack: a key of its own, so that frame numbers can be nonces.
func (p *packInfo) cipher(keys *targetKeys) (cipher.AEAD, error) {
	return keys.aead("pack/" + p.id.String())
}

// seal is nonce and additional data of frame i: all that makes up its place and shape.
func (p *packInfo) seal(prefix string, i int, codec codec, raw int) (nonce, additional []byte) {
	nonce = make([]byte, nonceSize)
	binary.LittleEndian.PutUint64(nonce, uint64(i))
	additional = make([]byte, 0, 64+len(prefix))
	additional = append(additional, "frame\x00"...)
	additional = binary.LittleEndian.AppendUint16(additional, formatVersion)
	additional = binary.LittleEndian.AppendUint64(additional, uint64(p.number))
	additional = binary.LittleEndian.AppendUint64(additional, uint64(p.epoch))
	additional = append(additional, p.id[:]...)
	additional = binary.LittleEndian.AppendUint32(additional, uint32(i))
	additional = append(additional, byte(codec))
	additional = binary.LittleEndian.AppendUint32(additional, uint32(raw))
	return nonce, append(additional, prefix...)
}

// packInfoMinimum is the fewest bytes of an encoded packInfo.
const packInfoMinimum = 16 + 1 + 1 + sha256.Size + 1

func (p *packInfo) encode(w *wireWriter) {
	w.raw(p.id[:])
	w.int(p.number)
	w.int(p.epoch)
	w.raw(p.sum[:])
	w.uint(uint64(len(p.frames)))
	for _, frame := range p.frames {
		w.uint(uint64(frame.codec))
		w.uint(uint64(frame.stored))
		w.uint(uint64(frame.raw))
	}
}

func decodePackInfo(r *wireReader) (*packInfo, error) {
	p := &packInfo{}
	copy(p.id[:], r.raw(len(p.id)))
	p.number = r.int()
	p.epoch = r.int()
	copy(p.sum[:], r.raw(len(p.sum)))
	n := r.count(3)
	if r.err == nil && n <= maxFrames {
		p.frames = make([]frameInfo, 0, n)
	}
	for i := 0; i < n && r.err == nil; i++ {
		c, stored, raw := codec(r.max(255)), r.max(maxPackSize), r.max(maxFrameRaw)
		if r.err != nil {
			break
		}
		if err := p.append(c, stored, raw); err != nil {
			return nil, err
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	if p.size = p.end(); p.size > maxPackSize {
		return nil, fmt.Errorf("%d bytes, more than the %d that a pack may have", p.size, maxPackSize)
	}
	return p, nil
}

// packBuilder fills one pack in memory.
type packBuilder struct {
	info    *packInfo
	keys    *targetKeys
	aead    cipher.AEAD
	encoder *zstd.Encoder
	buf     []byte
}

func newPackBuilder(info *packInfo, keys *targetKeys, encoder *zstd.Encoder, buf []byte) (*packBuilder, error) {
	aead, err := info.cipher(keys)
	if err != nil {
		return nil, err
	}
	buf = append(buf[:0], packMagic...)
	buf = binary.LittleEndian.AppendUint16(buf, formatVersion)
	buf = binary.LittleEndian.AppendUint16(buf, 0)
	buf = append(buf, keys.check[:]...)
	buf = append(buf, info.id[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(info.number))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(info.epoch))
	return &packBuilder{info: info, keys: keys, aead: aead, encoder: encoder, buf: buf}, nil
}

// full says that another frame might not fit.
func (b *packBuilder) full() bool {
	return b.info.end()+maxFrameRaw+tagSize+indexLine > maxPackSize || len(b.info.frames) >= maxFrames
}

// add compresses and seals one frame of 1 to maxFrameRaw bytes.
func (b *packBuilder) add(raw []byte) error {
	if b.full() {
		return errors.New("add frame: pack is full")
	}
	start, used := len(b.buf), codecZstd
	b.buf = b.encoder.EncodeAll(raw, b.buf)
	if len(b.buf)-start >= len(raw) {
		used = codecRaw
		b.buf = append(b.buf[:start], raw...)
	}
	nonce, additional := b.info.seal(b.keys.prefix, len(b.info.frames), used, len(raw))
	b.buf = b.aead.Seal(b.buf[:start], nonce, b.buf[start:], additional)
	return b.info.append(used, int64(len(b.buf)-start), int64(len(raw)))
}

// finish writes the footer and returns the pack's bytes; info is complete then.
func (b *packBuilder) finish() []byte {
	for _, frame := range b.info.frames {
		b.buf = append(b.buf, byte(frame.codec))
		b.buf = binary.LittleEndian.AppendUint32(b.buf, frame.stored)
		b.buf = binary.LittleEndian.AppendUint32(b.buf, frame.raw)
	}
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(b.info.frames)))
	b.buf = append(b.buf, tailMagic...)
	b.info.sum = sha256.Sum256(b.buf)
	b.buf = append(b.buf, b.info.sum[:]...)
	b.info.size = int64(len(b.buf))
	return b.buf
}

// readPackFooter rebuilds what a manifest knows of a pack from the pack's bytes alone.
func readPackFooter(body []byte) (*packInfo, error) {
	if len(body) < packHeader+packTail || len(body) > maxPackSize || string(body[:4]) != packMagic {
		return nil, fmt.Errorf("%w: no pack", ErrPackCorrupt)
	}
	if version := binary.LittleEndian.Uint16(body[4:]); version != formatVersion {
		return nil, fmt.Errorf("%w: format version %d, this program reads %d", ErrPackCorrupt, version, formatVersion)
	}
	ident := body[8+checkSize:]
	p := &packInfo{
		id:     packID(ident[:16]),
		number: int64(binary.LittleEndian.Uint64(ident[16:])),
		epoch:  int64(binary.LittleEndian.Uint64(ident[24:])),
		sum:    [sha256.Size]byte(body[len(body)-sha256.Size:]),
	}
	if err := p.verify(body); err != nil {
		return nil, err
	}
	if err := p.readIndex(body); err != nil {
		return nil, fmt.Errorf("%w: footer: %w", ErrPackCorrupt, err)
	}
	return p, nil
}

// readIndex takes the frames from the footer of a pack's bytes, at least header and tail.
func (p *packInfo) readIndex(body []byte) error {
	tail := body[len(body)-packTail:]
	count := int64(binary.LittleEndian.Uint32(tail))
	index := int64(len(body)) - packTail - count*indexLine
	if string(tail[4:8]) != tailMagic || count > maxFrames || index < packHeader {
		return errors.New("malformed")
	}
	for line := body[index : len(body)-packTail]; len(line) > 0; line = line[indexLine:] {
		stored, raw := binary.LittleEndian.Uint32(line[1:]), binary.LittleEndian.Uint32(line[5:])
		if err := p.append(codec(line[0]), int64(stored), int64(raw)); err != nil {
			return err
		}
	}
	if p.size = p.end(); p.size != int64(len(body)) {
		return errors.New("index and size differ")
	}
	return nil
}

// verify compares the checksum of a pack's bytes with both the one that is known and the one that it bears.
func (p *packInfo) verify(body []byte) error {
	rest := len(body) - sha256.Size
	if rest < 0 || sha256.Sum256(body[:rest]) != p.sum || [sha256.Size]byte(body[rest:]) != p.sum {
		return fmt.Errorf("%w: checksum differs", ErrPackCorrupt)
	}
	return nil
}

// packOpener opens the frames of packs one by one into a buffer of its own.
type packOpener struct {
	keys    *targetKeys
	decoder *zstd.Decoder
	sealed  []byte
	frame   []byte
}

func newPackOpener(keys *targetKeys) (*packOpener, error) {
	decoder, err := newDecoder(maxFrameRaw)
	if err != nil {
		return nil, err
	}
	return &packOpener{keys: keys, decoder: decoder, frame: make([]byte, 0, maxFrameRaw)}, nil
}

// open returns the raw bytes of frame i, valid until the next call.
func (o *packOpener) open(p *packInfo, aead cipher.AEAD, body []byte, i int) ([]byte, error) {
	frame := p.frames[i]
	end := frame.at + int64(frame.stored)
	if end > int64(len(body)) {
		return nil, fmt.Errorf("%w: frame %d beyond the end", ErrPackCorrupt, i)
	}
	nonce, additional := p.seal(o.keys.prefix, i, frame.codec, int(frame.raw))
	plain, err := aead.Open(o.sealed[:0], nonce, body[frame.at:end], additional)
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d: authentication failed", ErrPackCorrupt, i)
	}
	o.sealed = plain
	if frame.codec == codecZstd {
		plain, err = o.decoder.DecodeAll(plain, o.frame[:0:frame.raw])
		if err != nil {
			return nil, fmt.Errorf("%w: frame %d: %w", ErrPackCorrupt, i, err)
		}
	}
	if len(plain) != int(frame.raw) {
		return nil, fmt.Errorf("%w: frame %d holds %d raw bytes, declared %d", ErrPackCorrupt, i, len(plain), frame.raw)
	}
	return plain, nil
}
