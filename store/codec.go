package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// codec is how the raw bytes of a frame are written before they are sealed; its numbers are part of the format.
type codec uint8

const (
	codecRaw  codec = 0
	codecZstd codec = 1
)

// newFrameEncoder makes the fastest zstd for single frames. The checksum is left out: the seal is one.
func newFrameEncoder() (*zstd.Encoder, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxFrameRaw))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return encoder, nil
}

// newDecoder makes a decoder whose DecodeAll never writes past the capacity of its destination.
func newDecoder(limit uint64) (*zstd.Decoder, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(limit),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return decoder, nil
}

// sizeField is the raw size in front of what compressAll writes, 8 bytes little-endian.
const sizeField = 8

func compressAll(plain []byte) ([]byte, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(plain, binary.LittleEndian.AppendUint64(nil, uint64(len(plain)))), nil
}

func decompressAll(packed []byte, limit uint64) ([]byte, error) {
	if len(packed) < sizeField {
		return nil, errors.New("decompress: too short")
	}
	size := binary.LittleEndian.Uint64(packed)
	if size > limit {
		return nil, fmt.Errorf("decompress: %d bytes, more than %d", size, limit)
	}
	decoder, err := newDecoder(limit)
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	plain, err := decoder.DecodeAll(packed[sizeField:], make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if uint64(len(plain)) != size {
		return nil, fmt.Errorf("decompress: %d bytes, declared %d", len(plain), size)
	}
	return plain, nil
}
