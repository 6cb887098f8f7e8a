// Package retry is a bucket that tries again what may succeed later: requests that failed with a store.TemporaryError.
//
// All methods may be repeated. A conditional Put whose first try has landed answers store.ErrPrecondition at its second;
// the contract of store.Bucket allows that, and Store.Commit sorts it out. Pauses grow and are jittered, so that many
// writers do not come back at once. No pause is begun that would outlast the context's deadline.
package retry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// Policy bounds the tries. Fields that are zero take the value of Default.
type Policy struct {
	// Tries is how often a request is made at most.
	Tries int
	// Pause is the longest pause after the first try. It doubles with every try up to MaxPause; the pause taken is a
	// random part of it, but never shorter than what the server asked for.
	Pause, MaxPause time.Duration
	// MaxAfter is the longest pause that a server may ask for. One that asks for more is not tried again.
	MaxAfter time.Duration
}

// Default gives up after about five seconds, where the context does not end before.
var Default = Policy{Tries: 10, Pause: 50 * time.Millisecond, MaxPause: 2 * time.Second, MaxAfter: time.Minute}

// Patient gives up only where the context ends, or its deadline leaves no time for another try.
var Patient = Policy{Tries: math.MaxInt, Pause: 50 * time.Millisecond, MaxPause: 2 * time.Second, MaxAfter: time.Hour}

// Bucket decorates a bucket.
type Bucket struct {
	store.Bucket
	policy Policy
}

var _ store.Bucket = (*Bucket)(nil)

// New decorates bucket.
func New(bucket store.Bucket, policy Policy) *Bucket {
	policy.Tries = cmp.Or(policy.Tries, Default.Tries)
	policy.Pause = cmp.Or(policy.Pause, Default.Pause)
	policy.MaxPause = cmp.Or(policy.MaxPause, Default.MaxPause)
	policy.MaxAfter = cmp.Or(policy.MaxAfter, Default.MaxAfter)
	return &Bucket{Bucket: bucket, policy: policy}
}

// Put implements store.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, cond store.Condition) (info store.Info, err error) {
	err = b.try(ctx, func() (err error) {
		info, err = b.Bucket.Put(ctx, key, body, cond)
		return err
	})
	return info, err
}

// Get implements store.Bucket. A stream that breaks once it is open is not mended: the rest might be another object's.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (stream io.ReadCloser, err error) {
	err = b.try(ctx, func() (err error) {
		stream, err = b.Bucket.Get(ctx, key, offset, length)
		return err
	})
	return stream, err
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (info store.Info, err error) {
	err = b.try(ctx, func() (err error) {
		info, err = b.Bucket.Stat(ctx, key)
		return err
	})
	return info, err
}

// List implements store.Bucket. A listing that breaks off begins again and leaves out what it has yielded.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		last := ""
		err := b.try(ctx, func() error {
			for info, err := range b.Bucket.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if info.Key <= last {
					continue
				}
				last = info.Key
				if !yield(info, nil) {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			yield(store.Info{}, err)
		}
	}
}

// Delete implements store.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.try(ctx, func() error { return b.Bucket.Delete(ctx, key) })
}

// try makes a request until it succeeds, fails for good, or may be made no longer. The error is that of the last
// request, joined with why there was no other.
func (b *Bucket) try(ctx context.Context, request func() error) error {
	for tries := 1; ; tries++ {
		err := request()
		temporary := (*store.TemporaryError)(nil)
		if err == nil || !errors.As(err, &temporary) {
			return err
		}
		if tries >= b.policy.Tries {
			return fmt.Errorf("%w (tried %d times)", err, tries)
		}
		if temporary.After > b.policy.MaxAfter {
			return fmt.Errorf("%w (the server asks to be left alone for %s)", err, temporary.After)
		}
		if reason := wait(ctx, max(temporary.After, b.pause(tries))); reason != nil {
			return fmt.Errorf("%w (tried %d times: %w)", err, tries, reason)
		}
	}
}

// pause draws the pause after a try from 0 to the exponential bound: full jitter.
func (b *Bucket) pause(tries int) time.Duration {
	bound := min(b.policy.Pause<<(tries-1), b.policy.MaxPause)
	if bound <= 0 { // shifted out
		bound = b.policy.MaxPause
	}
	return rand.N(bound + 1)
}

// wait pauses, or returns at once why it must not.
func wait(ctx context.Context, pause time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
		return fmt.Errorf("no time left for another try: %w", context.DeadlineExceeded)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
