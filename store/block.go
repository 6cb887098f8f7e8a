package store

import (
	"bytes"

	"github.com/zeebo/xxh3"
)

// BlockSize is the grain of all content in bytes: a page of memory, or as much of a file.
const BlockSize = 4 << 10

const (
	// frameBlocks is how many blocks a frame holds; the last one of a pack may hold fewer.
	frameBlocks = 16
	frameSize   = frameBlocks * BlockSize
	hashSize    = 16
)

var zeroBlock [BlockSize]byte

// blockHash is the keyed hash of a block. It is not collision-safe against one who knows the key; it is only compared
// with that of the block that was at the same place before, and leaves the machine sealed.
type blockHash [hashSize]byte

func hashBlock(block []byte, seed uint64) blockHash { return xxh3.Hash128Seed(block, seed).Bytes() }

func isZero(block []byte) bool { return bytes.Equal(block, zeroBlock[:len(block)]) }

// blocksOf is how many blocks size bytes take.
func blocksOf(size int64) int64 { return (size + BlockSize - 1) / BlockSize }
