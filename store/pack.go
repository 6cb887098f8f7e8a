package store

import (
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"

	"github.com/oklog/ulid/v2"
)

type packID = ulid.ULID

const (
	maxPackSize = 16 << 20
	// firstBuffer is the room that a pack begins with: most generations store little, and maxPackSize would be cleared for it.
	firstBuffer = 256 << 10
	// maxBlocks is how many blocks fit: each has a hash in the footer.
	maxBlocks = maxPackSize / hashSize

	packMagic  = "LBPK"
	packHeader = 4 + 2 + 2 + 16 + 8 + 8
	indexLine  = 1 + 4
	packTail   = 4 + 4 + sha256.Size
	tailMagic  = "LBPE"
	// footerNonce is the nonce of the footer's seal; frames count from 0.
	footerNonce = math.MaxUint64
)

// packInfo is what a manifest knows of a pack: who wrote it (its seals say so), its size, checksum and blocks.
type packInfo struct {
	id     packID
	number int64
	epoch  int64
	size   int64
	sum    [sha256.Size]byte
	blocks int
}

// frames is how many frames hold n blocks.
func framesOf(blocks int) int { return (blocks + frameBlocks - 1) / frameBlocks }

// frameRaw is the length of the raw bytes of frame i.
func (p *packInfo) frameRaw(i int) int {
	return min(frameBlocks, p.blocks-i*frameBlocks) * BlockSize
}

// footerSize is the length of all that follows the frames.
func footerSize(blocks int) int64 {
	return int64(framesOf(blocks))*indexLine + int64(blocks)*hashSize + tagSize + packTail
}

func (p *packInfo) footerSize() int64 { return footerSize(p.blocks) }

// validate refuses numbers that no pack has.
func (p *packInfo) validate() error {
	least := packHeader + p.footerSize() + int64(framesOf(p.blocks))*(1+tagSize)
	if p.blocks < 1 || p.blocks > maxBlocks || p.size < least || p.size > maxPackSize {
		return fmt.Errorf("pack of %d blocks in %d bytes", p.blocks, p.size)
	}
	return nil
}

// cipher returns what seals frames and footer of this pack: a key of its own, so that places can be nonces.
func (p *packInfo) cipher(keys *targetKeys) (cipher.AEAD, error) {
	return keys.aead("pack/" + p.id.String())
}

// seal is nonce and additional data of what lies at place: all that makes up its place and shape.
func (p *packInfo) seal(prefix string, place uint64, codec Codec, raw int) (nonce, additional []byte) {
	nonce = make([]byte, nonceSize)
	binary.LittleEndian.PutUint64(nonce, place)
	additional = make([]byte, 0, 64+len(prefix))
	additional = append(additional, "frame\x00"...)
	additional = binary.LittleEndian.AppendUint16(additional, formatVersion)
	additional = binary.LittleEndian.AppendUint64(additional, uint64(p.number))
	additional = binary.LittleEndian.AppendUint64(additional, uint64(p.epoch))
	additional = append(additional, p.id[:]...)
	additional = binary.LittleEndian.AppendUint64(additional, place)
	additional = append(additional, byte(codec))
	additional = binary.LittleEndian.AppendUint32(additional, uint32(raw))
	return nonce, append(additional, prefix...)
}

// packBuilder fills one pack in memory.
type packBuilder struct {
	info  *packInfo
	keys  *targetKeys
	aead  cipher.AEAD
	index []byte
	buf   []byte
	sum   hash.Hash
}

func newPackBuilder(info *packInfo, keys *targetKeys, buf []byte) (*packBuilder, error) {
	aead, err := info.cipher(keys)
	if err != nil {
		return nil, err
	}
	buf = append(buf[:0], packMagic...)
	buf = binary.LittleEndian.AppendUint16(buf, formatVersion)
	buf = binary.LittleEndian.AppendUint16(buf, 0)
	buf = append(buf, info.id[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(info.number))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(info.epoch))
	b := &packBuilder{info: info, keys: keys, aead: aead, buf: buf, sum: sha256.New()}
	b.sum.Write(buf)
	return b, nil
}

// full says that another frame might not fit, or may not follow: a frame that is not whole is the last.
func (b *packBuilder) full() bool {
	blocks := b.info.blocks
	end := int64(len(b.buf)) + frameSize + tagSize + footerSize(blocks+frameBlocks)
	return blocks%frameBlocks != 0 || blocks+frameBlocks > maxBlocks || end > maxPackSize
}

// add seals one frame of blocks blocks.
func (b *packBuilder) add(encoded []byte, codec Codec, blocks int) error {
	if b.full() || blocks < 1 || blocks > frameBlocks {
		return fmt.Errorf("add frame of %d blocks: the pack is full, or no frame has that many", blocks)
	}
	nonce, additional := b.info.seal(b.keys.prefix, uint64(b.info.blocks/frameBlocks), codec, blocks*BlockSize)
	if len(b.buf)+len(encoded)+tagSize > cap(b.buf) && cap(b.buf) < maxPackSize {
		b.buf = append(make([]byte, 0, maxPackSize), b.buf...)
	}
	start := len(b.buf)
	b.buf = b.aead.Seal(b.buf, nonce, encoded, additional)
	b.sum.Write(b.buf[len(b.buf)-tagSize:])
	b.info.blocks += blocks
	b.index = append(b.index, byte(codec))
	b.index = binary.LittleEndian.AppendUint32(b.index, uint32(len(b.buf)-start))
	return nil
}

// finish writes the footer and returns the pack's bytes; info is complete then.
func (b *packBuilder) finish(hashes []blockHash) ([]byte, error) {
	if len(hashes) != b.info.blocks || len(hashes) == 0 {
		return nil, fmt.Errorf("finish pack of %d blocks with %d hashes", b.info.blocks, len(hashes))
	}
	footer := b.index
	for _, hash := range hashes {
		footer = append(footer, hash[:]...)
	}
	nonce, additional := b.info.seal(b.keys.prefix, footerNonce, CodecNone, len(footer))
	start := len(b.buf)
	b.buf = b.aead.Seal(b.buf, nonce, footer, additional)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(b.info.blocks))
	b.buf = append(b.buf, tailMagic...)
	b.sum.Write(b.buf[start:])
	b.info.sum = [sha256.Size]byte(b.sum.Sum(nil))
	b.buf = append(b.buf, b.info.sum[:]...)
	b.info.size = int64(len(b.buf))
	return b.buf, nil
}

// readPackInfo rebuilds what a manifest knows of a pack from the pack's bytes alone. Whether they are sound shows when they
// are opened.
func readPackInfo(body []byte) (*packInfo, error) {
	if len(body) < packHeader+packTail || len(body) > maxPackSize || string(body[:4]) != packMagic {
		return nil, fmt.Errorf("%w: no pack", ErrPackCorrupt)
	}
	if version := binary.LittleEndian.Uint16(body[4:]); version != formatVersion {
		return nil, fmt.Errorf("%w: format version %d, this program reads %d", ErrPackCorrupt, version, formatVersion)
	}
	ident, tail := body[8:], body[len(body)-packTail:]
	p := &packInfo{
		id:     packID(ident[:16]),
		number: int64(binary.LittleEndian.Uint64(ident[16:])),
		epoch:  int64(binary.LittleEndian.Uint64(ident[24:])),
		size:   int64(len(body)),
		sum:    [sha256.Size]byte(tail[8:]),
		blocks: int(binary.LittleEndian.Uint32(tail)),
	}
	if string(tail[4:8]) != tailMagic {
		return nil, fmt.Errorf("%w: no footer", ErrPackCorrupt)
	}
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrPackCorrupt, err)
	}
	return p, nil
}

// verify compares the checksum of a pack's bytes with both the one that is known and the one that it bears. Of a frame it
// covers the tag, which stands for the frame's other bytes.
func (p *packInfo) verify(body []byte, frames []frameInfo) error {
	sum, rest := sha256.New(), len(body)-sha256.Size
	sum.Write(body[:packHeader])
	for _, frame := range frames {
		end := frame.at + frame.stored
		sum.Write(body[end-tagSize : end])
	}
	sum.Write(body[p.size-p.footerSize() : rest])
	if [sha256.Size]byte(sum.Sum(nil)) != p.sum || [sha256.Size]byte(body[rest:]) != p.sum {
		return fmt.Errorf("%w: checksum differs", ErrPackCorrupt)
	}
	return nil
}

// footer is the index of a pack: where its frames lie, and the hashes of its blocks.
type footer struct {
	frames []frameInfo
	hashes []blockHash
}

type frameInfo struct {
	codec  Codec
	at     uint32 // offset in the pack
	stored uint32 // sealed length, tag included
}

// openFooter opens the last footerSize bytes of a pack.
func (p *packInfo) openFooter(aead cipher.AEAD, prefix string, tail []byte) (*footer, error) {
	if int64(len(tail)) != p.footerSize() {
		return nil, fmt.Errorf("%w: footer of %d bytes, want %d", ErrPackCorrupt, len(tail), p.footerSize())
	}
	sealed := tail[:len(tail)-packTail]
	nonce, additional := p.seal(prefix, footerNonce, CodecNone, len(sealed)-tagSize)
	plain, err := aead.Open(nil, nonce, sealed, additional)
	if err != nil {
		return nil, fmt.Errorf("%w: footer: authentication failed", ErrPackCorrupt)
	}
	f, err := p.parseFooter(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: footer: %v", ErrPackCorrupt, err)
	}
	return f, nil
}

func (p *packInfo) parseFooter(plain []byte) (*footer, error) {
	frames := framesOf(p.blocks)
	f := &footer{frames: make([]frameInfo, frames), hashes: make([]blockHash, p.blocks)}
	at := int64(packHeader)
	for i := range f.frames {
		line := plain[i*indexLine:]
		frame := frameInfo{codec: Codec(line[0]), at: uint32(at), stored: binary.LittleEndian.Uint32(line[1:])}
		raw := p.frameRaw(i)
		switch {
		case !frame.codec.known():
			return nil, fmt.Errorf("frame %d: unknown codec %d", i, frame.codec)
		case frame.codec == CodecNone && int(frame.stored) != raw+tagSize,
			frame.stored <= tagSize, int(frame.stored) > raw+tagSize:
			return nil, fmt.Errorf("frame %d: %d raw bytes stored as %d", i, raw, frame.stored)
		}
		f.frames[i] = frame
		at += int64(frame.stored)
	}
	if at != p.size-p.footerSize() {
		return nil, errors.New("frames and size differ")
	}
	for i := range f.hashes {
		f.hashes[i] = blockHash(plain[frames*indexLine+i*hashSize:])
	}
	return f, nil
}

// packOpener opens the frames of one pack after the other. It is not for concurrent use.
type packOpener struct {
	keys    *targetKeys
	decoder *frameDecoder
	sealed  []byte
}

func newPackOpener(keys *targetKeys) (*packOpener, error) {
	decoder, err := newFrameDecoder()
	if err != nil {
		return nil, err
	}
	return &packOpener{keys: keys, decoder: decoder}, nil
}

func (o *packOpener) close() { o.decoder.close() }

// open returns the raw bytes of frame i from its sealed bytes, valid until the next call.
func (o *packOpener) open(p *packInfo, aead cipher.AEAD, codec Codec, i int, sealed []byte) ([]byte, error) {
	raw := p.frameRaw(i)
	nonce, additional := p.seal(o.keys.prefix, uint64(i), codec, raw)
	encoded, err := aead.Open(o.sealed[:0], nonce, sealed, additional)
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d: authentication failed", ErrPackCorrupt, i)
	}
	o.sealed = encoded
	plain, err := o.decoder.decode(codec, encoded, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d: %v", ErrPackCorrupt, i, err)
	}
	return plain, nil
}

// openPack is a whole pack in memory, checked and ready to be read by block.
type openPack struct {
	*packOpener
	info *packInfo
	aead cipher.AEAD
	body []byte
	*footer
	frame int // the one that plain holds
	plain []byte
}

// whole takes the bytes of a pack.
func (o *packOpener) whole(p *packInfo, body []byte) (*openPack, error) {
	if int64(len(body)) != p.size {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrPackCorrupt, len(body), p.size)
	}
	aead, err := p.cipher(o.keys)
	if err != nil {
		return nil, err
	}
	footer, err := p.openFooter(aead, o.keys.prefix, body[p.size-p.footerSize():])
	if err != nil {
		return nil, err
	}
	if err := p.verify(body, footer.frames); err != nil {
		return nil, err
	}
	return &openPack{packOpener: o, info: p, aead: aead, body: body, footer: footer, frame: -1}, nil
}

// blocks returns raw bytes from block at on, at least one and at most n blocks, valid until the next call.
func (p *openPack) blocks(at, n int) ([]byte, error) {
	if i := at / frameBlocks; i != p.frame {
		frame := p.frames[i]
		plain, err := p.open(p.info, p.aead, frame.codec, i, p.body[frame.at:frame.at+frame.stored])
		if err != nil {
			return nil, err
		}
		p.frame, p.plain = i, plain
	}
	from := at % frameBlocks * BlockSize
	return p.plain[from:min(from+n*BlockSize, len(p.plain))], nil
}
