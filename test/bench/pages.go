package bench

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
)

const pageSize = 4 << 10

// longestRun is how many pages of one kind come in a row at most.
const longestRun = 64

// makePages makes memory as a training job might hold it: runs of pages of zeros, of 32-bit floats spread like weights
// (every other run rounded to 16 bits, as mixed precision has them), and of random bytes, a third each. The same size
// gives the same bytes. size is a multiple of pageSize.
func makePages(size int) []byte {
	seed := [32]byte{1}
	noise := rand.NewChaCha8(seed)
	random := rand.New(noise)
	pages := make([]byte, size)
	for kind, rest := 0, pages; len(rest) > 0; kind++ {
		n := min(pageSize*(1+random.IntN(longestRun)), len(rest))
		run := rest[:n]
		rest = rest[n:]
		switch kind % 3 {
		case 1:
			mask := uint32(0xffffffff)
			if kind%2 == 0 {
				mask = 0xffff0000
			}
			for ; len(run) > 0; run = run[4:] {
				binary.LittleEndian.PutUint32(run, mask&math.Float32bits(float32(random.NormFloat64()*0.02)))
			}
		case 2:
			_, _ = noise.Read(run) // never fails
		}
	}
	return pages
}
