// Package change says what the jobs of the bench hold in memory and how it changes. The jobs are told by real-time signals:
// they need no network and no file, of which a dump would have to know.
package change

import (
	"encoding/binary"
	"math/rand/v2"
	"syscall"
	"unsafe"
)

// PageSize is that of the pages that change.
const PageSize = 4096

// Change is a way to change memory.
type Change struct {
	// Name says it to people.
	Name string
	// Signal is what tells a job to do it.
	Signal syscall.Signal
	share  float64
	runs   bool
}

// The changes that there are. Go's runtime keeps the first signals of real time for itself.
var (
	Random = Change{Name: "1 % changed at random", Signal: 40, share: 0.01}
	Runs   = Change{Name: "1 % changed in runs", Signal: 41, share: 0.01, runs: true}
	Tenth  = Change{Name: "10 % changed at random", Signal: 42, share: 0.1}
	Half   = Change{Name: "50 % changed at random", Signal: 43, share: 0.5}
	All    = []Change{Random, Runs, Tenth, Half}
)

// Runs have from leastRun to mostRun pages.
const leastRun, mostRun = 16, 512

// Apply writes the share of memory's pages anew and returns how many. Each is written once. Seeds are multiples of 1<<32, another each
// time.
func (c Change) Apply(memory []byte, seed uint64) int {
	pages := len(memory) / PageSize
	wanted := max(1, int(c.share*float64(pages)))
	draw := rand.New(rand.NewPCG(seed, uint64(c.Signal)))
	written := make(map[int]bool, wanted)
	for len(written) < wanted {
		first, length := draw.IntN(pages), 1
		if c.runs {
			length = leastRun + draw.IntN(mostRun-leastRun+1)
		}
		for page := first; page < min(first+length, pages) && len(written) < wanted; page++ {
			if !written[page] {
				written[page] = true
				Write(memory[page*PageSize:][:PageSize], seed+uint64(page))
			}
		}
	}
	return len(written)
}

// Fill writes all pages, each another content.
func Fill(memory []byte) {
	for at := 0; at < len(memory); at += PageSize {
		Write(memory[at:][:PageSize], uint64(at/PageSize))
	}
}

const (
	// recordSize is that of a record, drawn how much of it is drawn at random; the rest is the same in all of them.
	recordSize, drawn = 64, 24
)

var template = [recordSize]byte{drawn: 'k', drawn + 1: 1, drawn + 8: 'v', drawn + 16: 2, recordSize - 1: 0x7f}

// Write writes records of which zstd's fastest level makes 2.5 times less, as it does of the memory of a numpy process, at
// some 2 CPU s per GiB.
func Write(page []byte, seed uint64) {
	// splitmix64. Pages begin elsewhere than a step apart: else they would overlap.
	state := (seed + 1) * 0xd1342543de82ef95
	for at := 0; at < len(page); at += recordSize {
		copy(page[at:], template[:])
		for word := 0; word < drawn; word += 8 {
			state += 0x9e3779b97f4a7c15
			x := (state ^ state>>30) * 0xbf58476d1ce4e5b9
			x = (x ^ x>>27) * 0x94d049bb133111eb
			binary.LittleEndian.PutUint64(page[at+word:], x^x>>31)
		}
	}
}

// Aligned is the offset of the first byte whose address is a multiple of size.
func Aligned(memory []byte, size uintptr) int {
	return int(-uintptr(unsafe.Pointer(unsafe.SliceData(memory))) % size)
}
