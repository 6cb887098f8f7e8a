package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Codec is how the raw bytes of a frame are written before they are sealed. The numbers are part of the format; 3 is
// reserved for the difference from the content that was there before.
type Codec uint8

// The codecs. A frame that a codec does not make shorter is stored raw, whatever was asked for.
const (
	// CodecNone costs no CPU.
	CodecNone Codec = 0
	// CodecZstd is zstd at its fastest.
	CodecZstd Codec = 1
	// CodecS2 is between the two.
	CodecS2 Codec = 2
)

// String names the codec as flags and reports do.
func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecZstd:
		return "zstd"
	case CodecS2:
		return "s2"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// ParseCodec takes what String gives. ErrInvalid for anything else.
func ParseCodec(text string) (Codec, error) {
	for _, c := range []Codec{CodecNone, CodecZstd, CodecS2} {
		if c.String() == text {
			return c, nil
		}
	}
	return 0, fmt.Errorf("codec %q: want none, s2 or zstd: %w", text, ErrInvalid)
}

func (c Codec) known() bool { return c <= CodecS2 }

// frameEncoder compresses single frames. It is not for concurrent use.
type frameEncoder struct {
	codec Codec
	zstd  *zstd.Encoder
}

func newFrameEncoder(codec Codec) (*frameEncoder, error) {
	e := &frameEncoder{codec: codec}
	if codec != CodecZstd {
		return e, nil
	}
	var err error
	// The checksum is left out: the seal is one.
	e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(frameSize))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return e, nil
}

// encode appends the encoded frame to buf, or says CodecNone where that would not be shorter than raw, and appends
// nothing.
func (e *frameEncoder) encode(buf, raw []byte) ([]byte, Codec) {
	start, out := len(buf), buf
	switch e.codec {
	case CodecZstd:
		out = e.zstd.EncodeAll(raw, buf)
	case CodecS2:
		out = append(buf, s2.Encode(buf[start:cap(buf)], raw)...)
	case CodecNone:
		return buf, CodecNone
	}
	if len(out)-start >= len(raw) {
		return out[:start], CodecNone
	}
	return out, e.codec
}

func (e *frameEncoder) close() {
	if e.zstd != nil {
		e.zstd.Close()
	}
}

// frameDecoder is the other way round. It is not for concurrent use.
type frameDecoder struct {
	zstd *zstd.Decoder
	buf  []byte
}

func newFrameDecoder() (*frameDecoder, error) {
	decoder, err := newDecoder(frameSize)
	if err != nil {
		return nil, err
	}
	return &frameDecoder{zstd: decoder, buf: make([]byte, 0, frameSize)}, nil
}

// decode returns the raw bytes, size of them, valid until the next call. It never writes more than that.
func (d *frameDecoder) decode(codec Codec, encoded []byte, size int) ([]byte, error) {
	var plain []byte
	var err error
	switch codec {
	case CodecNone:
		plain = encoded
	case CodecZstd:
		plain, err = d.zstd.DecodeAll(encoded, d.buf[:0:size])
	case CodecS2:
		var n int
		if n, err = s2.DecodedLen(encoded); err == nil && n == size {
			plain, err = s2.Decode(d.buf[:size:size], encoded)
		}
	default:
		err = fmt.Errorf("unknown codec %d", codec)
	}
	if err != nil {
		return nil, fmt.Errorf("decode frame: %w", err)
	}
	if len(plain) != size {
		return nil, fmt.Errorf("decode frame: %d raw bytes, declared %d", len(plain), size)
	}
	return plain, nil
}

func (d *frameDecoder) close() { d.zstd.Close() }

// newDecoder makes a decoder whose DecodeAll never writes past the capacity of its destination.
func newDecoder(limit uint64) (*zstd.Decoder, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(limit),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return decoder, nil
}

// packSections writes each section as its raw length, its stored length, both 4 bytes little-endian, and one zstd frame.
// Sections are compressed apart, for numbers of one kind are alike.
func packSections(sections [][]byte) ([]byte, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	defer encoder.Close()
	var out []byte
	for _, section := range sections {
		at := len(out)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(section)))
		out = binary.LittleEndian.AppendUint32(out, 0)
		out = encoder.EncodeAll(section, out)
		binary.LittleEndian.PutUint32(out[at+4:], uint32(len(out)-at-8))
	}
	return out, nil
}

// maxRatio is what a byte of zstd can unpack to at most: a block of 4 bytes to 128 KiB.
const maxRatio = 128 << 10 / 4

// unpackSections reads exactly n sections, of at most limit raw bytes together. It allocates no more than what is stored
// can unpack to, whatever is declared.
func unpackSections(packed []byte, n int, limit uint64) ([][]byte, error) {
	decoder, err := newDecoder(limit)
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	var sections [][]byte
	for range n {
		if len(packed) < 8 {
			return nil, errors.New("unpack section: too short")
		}
		raw, stored := uint64(binary.LittleEndian.Uint32(packed)), uint64(binary.LittleEndian.Uint32(packed[4:]))
		packed = packed[8:]
		if raw > limit || stored > uint64(len(packed)) || raw > stored*maxRatio {
			return nil, fmt.Errorf("unpack section: %d bytes stored as %d, where %d and %d are left", raw, stored, limit, len(packed))
		}
		limit -= raw
		plain, err := decoder.DecodeAll(packed[:stored], make([]byte, 0, raw))
		if err != nil {
			return nil, fmt.Errorf("unpack section: %w", err)
		}
		if uint64(len(plain)) != raw {
			return nil, fmt.Errorf("unpack section: %d bytes, declared %d", len(plain), raw)
		}
		sections, packed = append(sections, plain), packed[stored:]
	}
	if len(packed) != 0 {
		return nil, fmt.Errorf("unpack sections: %d bytes after their end", len(packed))
	}
	return sections, nil
}
