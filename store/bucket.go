package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// Bucket is a flat set of objects under slash-separated keys. All methods may be called concurrently and return soon
// after ctx ends. The store beneath must guarantee:
//
//   - read after write: once Put or Delete has returned, every Get, Stat and List, from any machine, shows it;
//   - whole objects: a Get sees one Put's bytes entirely, never a mixture, never a part;
//   - atomic conditions: of any number of racing Puts whose conditions exclude each other, one succeeds. A failed
//     condition is ErrPrecondition;
//   - durability: what Put has returned for survives the loss of the machine that called it.
//
// An error other than ErrPrecondition leaves open whether a Put took place. A Put that the bucket itself tried twice may
// answer ErrPrecondition although its first try landed.
type Bucket interface {
	// Put stores body under key as one object if cond holds. The ETag it returns is the one Stat will show.
	Put(ctx context.Context, key string, body []byte, cond Condition) (Info, error)
	// Get reads length bytes from offset, fewer where the object ends before; length < 0 reads to the end.
	// ErrNotFound where there is no such object.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
	// Stat describes an object, or returns ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)
	// List yields the objects whose keys begin with prefix, in ascending order of keys. ETag may be left empty. The
	// first error ends it.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object. One that is not there is no error.
	Delete(ctx context.Context, key string) error
}

// ValidateKey returns ErrInvalid unless key is one that every bucket takes: a clean relative path of at most 1000 bytes
// whose elements have at most 253 bytes, all of letters, digits, '.', '-' and '_', and do not begin with a dot.
func ValidateKey(key string) error {
	if len(key) > maxKeyLength {
		return fmt.Errorf("key of %d bytes, want at most %d: %w", len(key), maxKeyLength, ErrInvalid)
	}
	for element := range strings.SplitSeq(key, "/") {
		if !plainName(element) {
			return fmt.Errorf("key %q: want elements of letters, digits, '.', '-' or '_', no dot first: %w", key, ErrInvalid)
		}
	}
	return nil
}

const maxKeyLength = 1000

// CheckRequest is what every bucket asks before it does anything: that ctx has not ended and key is valid.
func CheckRequest(ctx context.Context, verb, key string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", verb, key, err)
	}
	if err := ValidateKey(key); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return nil
}

// Condition is what must hold for a Put to take place. The zero value always holds; at most one field is set.
type Condition struct {
	// IfAbsent: there is no object under the key.
	IfAbsent bool
	// IfMatch: the object under the key has this ETag. An absent object fails it.
	IfMatch string
}

// Info describes an object. ETag differs between any two contents that a key ever had.
type Info struct {
	Key      string
	Size     int64
	ETag     string
	Modified time.Time
}

// attempts is how often one object is tried where the bucket's answer left the outcome open. Waiting between tries is
// the bucket's own affair.
const attempts = 3

// readObject reads a whole object of at most limit bytes into buf's storage where it fits, and tries again after
// failures in transit.
func readObject(ctx context.Context, bucket Bucket, key string, limit int64, buf []byte) ([]byte, error) {
	var last error
	for range attempts {
		body, err := readObjectOnce(ctx, bucket, key, limit, buf)
		if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			return body, err
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

func readObjectOnce(ctx context.Context, bucket Bucket, key string, limit int64, buf []byte) ([]byte, error) {
	stream, err := bucket.Get(ctx, key, 0, limit+1)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	body := bytes.NewBuffer(buf[:0])
	n, err := body.ReadFrom(stream)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if n > limit {
		return nil, fmt.Errorf("read %s: larger than the %d bytes that its kind may have: %w", key, limit, ErrCorrupt)
	}
	return body.Bytes(), nil
}
