package store

import (
	"encoding/binary"
	"errors"
	"math"
)

// errWire is why a decoder stopped; its callers say in what.
var errWire = errors.New("malformed encoding")

// wireWriter appends the primitives of the manifest: unsigned varints, and byte strings behind their length.
type wireWriter struct{ buf []byte }

func (w *wireWriter) uint(n uint64)   { w.buf = binary.AppendUvarint(w.buf, n) }
func (w *wireWriter) int(n int64)     { w.buf = binary.AppendVarint(w.buf, n) }
func (w *wireWriter) raw(b []byte)    { w.buf = append(w.buf, b...) }
func (w *wireWriter) string(s string) { w.uint(uint64(len(s))); w.buf = append(w.buf, s...) }

// wireReader reads them back. After the first fault everything reads as zero and err stays set, so that callers check
// once a record.
type wireReader struct {
	buf []byte
	err error
}

func (r *wireReader) fail() {
	r.err = errWire
	r.buf = nil
}

func (r *wireReader) uint() uint64 {
	n, size := binary.Uvarint(r.buf)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.buf = r.buf[size:]
	return n
}

// max reads an unsigned number of at most limit.
func (r *wireReader) max(limit uint64) int64 {
	n := r.uint()
	if n > limit || n > math.MaxInt64 {
		r.fail()
		return 0
	}
	return int64(n)
}

func (r *wireReader) int() int64 {
	n, size := binary.Varint(r.buf)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.buf = r.buf[size:]
	return n
}

// raw returns the next n bytes, or nil.
func (r *wireReader) raw(n int) []byte {
	if n < 0 || n > len(r.buf) {
		r.fail()
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

func (r *wireReader) string(limit int) string {
	return string(r.raw(int(r.max(uint64(limit)))))
}

// count reads how many elements follow, each of at least size bytes: never more than the rest can hold.
func (r *wireReader) count(size int) int {
	return int(r.max(uint64(len(r.buf) / size)))
}
