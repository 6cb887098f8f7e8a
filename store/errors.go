package store

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels of Bucket. Every bucket wraps them together with the key.
var (
	// ErrNotFound: there is no such object. From Store.Head: the target has no HEAD yet.
	ErrNotFound = errors.New("not found")
	// ErrPrecondition: the condition of a Put did not hold, and nothing was written by this try.
	ErrPrecondition = errors.New("precondition failed")
)

// TemporaryError is what a Bucket returns where the same request may succeed later: the server is busy or broken, or the
// network is. Whether a Put that failed so took place is open.
type TemporaryError struct {
	// After is how long the server asks to be left alone; zero where it does not say.
	After time.Duration
	Err   error
}

// Error implements error.
func (e *TemporaryError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *TemporaryError) Unwrap() error { return e.Err }

// Sentinels of Store.
var (
	// ErrCorrupt: bytes are not what was written. The four that follow are kinds of it.
	ErrCorrupt         = errors.New("corrupt")
	ErrKeyCorrupt      = fmt.Errorf("data key %w", ErrCorrupt)
	ErrHeadCorrupt     = fmt.Errorf("HEAD %w", ErrCorrupt)
	ErrManifestCorrupt = fmt.Errorf("manifest %w", ErrCorrupt)
	ErrPackCorrupt     = fmt.Errorf("pack %w", ErrCorrupt)
	// ErrPackMissing: a manifest names a pack that the bucket does not hold. The manifest itself is sound, so this is
	// not a kind of ErrCorrupt.
	ErrPackMissing = errors.New("pack missing")
	// ErrKeyMissing: the target's KEY object is gone, while HEAD is there.
	ErrKeyMissing = errors.New("data key missing")
	// ErrWrongKey: the target's data key was wrapped under a master key that is not in the ring. All may be sound.
	ErrWrongKey = errors.New("wrong encryption key")
	// ErrFenced: HEAD bears a newer epoch, or another generation took this number. Trying again cannot help.
	ErrFenced = errors.New("fenced")
	// ErrInvalid: the caller handed in a target, entry or metadata that the store does not take.
	ErrInvalid = errors.New("invalid")
)
