package snapshot

import (
	"context"
	"time"
)

// Scanner reads the memory of running containers. snapshot/memory is behind it.
type Scanner interface {
	// Scan hands the memory of c to sink, by the names that a Dump has for it, and takes no more of the processor than
	// share cores, what sink says it cost elsewhere included. What changes meanwhile may be missed. ErrGone where c has
	// ended; the errors of ctx and sink.
	Scan(ctx context.Context, c Container, share float64, sink ScanSink) (Scan, error)
	// Vitals measures c. ErrGone where it has ended.
	Vitals(c Container) (Vitals, error)
	// Forget tells that what sinks have got of container id counts no more: they have lost it, or nobody asks for it any
	// more. A Scanner that hands on changes alone hands on all the next time, and gives up what it has kept for that.
	Forget(id string)
}

// ScanSink is a Sink that says how much processor time it has cost beside the caller's own.
type ScanSink = func(ctx context.Context, task string, address uint64, pages []byte) (time.Duration, error)

// Scan is what a Scanner did.
type Scan struct {
	// Bytes is the memory that was looked at. Unread is what of it was left out, as the kernel says that it has not changed
	// since sinks got it.
	Bytes, Unread int64
	// Missed is how many pages had changed of which the kernel had not said so. Pages are not left out any more then.
	Missed int64
	// Tracked says that the next dump will leave such pages out too.
	Tracked bool
	// CPU is what the reading threads used, the sink's work on them included.
	CPU time.Duration
	// Still is how long the container stood still for it.
	Still time.Duration
}

// Vitals are measures of a running container.
type Vitals struct {
	// RSSBytes is the memory of its processes that no file has.
	RSSBytes int64
	// CPU is what its processes have used since they began.
	CPU time.Duration
	// Periods are those of its CPU limit so far, Throttled in how many of them it was held back; 0 without a limit.
	Periods, Throttled int64
}
