package snapshot

import (
	"context"
	"errors"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
)

// Meter is told what happens to targets. Its methods return at once. snapshot/metrics is behind it.
type Meter interface {
	// Stepped tells of a round or safety dump that has ended well.
	Stepped(t Target, s Stepped)
	// Failed tells of a step that has not, with one of the reasons of reasonOfStep.
	Failed(t Target, action Action, reason string)
	// Judged tells how well t is protected now. It is called for every plan.
	Judged(t Target, v Verdict, p Prediction)
	// Evacuated tells how an evacuation has ended.
	Evacuated(t Target, e Evacuated)
	// Gone tells that t is a target no more.
	Gone(t Target)
}

// Stepped is what a round or safety dump did.
type Stepped struct {
	Action Action
	// ReadBytes is what was read of memory and files, ChangedBytes what of it had changed, UploadedBytes what was sent.
	ReadBytes, ChangedBytes, UploadedBytes int64
	// CPU is what it took of the processor: reading, comparing, compressing.
	CPU time.Duration
	// Still is how long the target stood still, from Frozen on; zero for a round.
	Still  time.Duration
	Frozen time.Time
}

// Evacuated is how an evacuation ended.
type Evacuated struct {
	// Reason is one of v1alpha1.ConditionEvacuated: FinalGeneration, or why there is none.
	Reason string
	// WindowBytes is what was uploaded after the notice, Took from the notice to durable; 0 where that is not known.
	WindowBytes int64
	Took        time.Duration
}

// unmetered counts nothing.
type unmetered struct{}

func (unmetered) Stepped(Target, Stepped)            {}
func (unmetered) Failed(Target, Action, string)      {}
func (unmetered) Judged(Target, Verdict, Prediction) {}
func (unmetered) Evacuated(Target, Evacuated)        {}
func (unmetered) Gone(Target)                        {}

// Reasons why steps fail that are none of a condition.
const (
	// reasonReadFailed: memory or files of the running target could not be read.
	reasonReadFailed = "ReadFailed"
	// reasonTimeout: the step took longer than it may.
	reasonTimeout = "TooLong"
)

// reasonOfStep is why a step failed: BucketUnavailable, TooLong, ReadFailed (rounds), DumpFailed (safety dumps).
func reasonOfStep(err error, action Action) string {
	switch {
	case errors.Is(err, errBucket):
		return v1alpha1.ReasonBucketFailed
	case errors.Is(err, errStill), errors.Is(err, context.DeadlineExceeded):
		return reasonTimeout
	case action == ActionRound:
		return reasonReadFailed
	}
	return v1alpha1.ReasonDumpFailed
}

// roundDone is what a round did that read so many bytes.
func roundDone(read int64, p store.Progress, cpu time.Duration) Stepped {
	return Stepped{
		Action: ActionRound, ReadBytes: read, ChangedBytes: p.NewBlocks * store.BlockSize, UploadedBytes: p.UploadedBytes, CPU: cpu + p.EncodeTime,
	}
}

// dumpDone is what a safety dump did whose commit sent so many bytes.
func dumpDone(still stillness, changed store.Progress, sent int64) Stepped {
	return Stepped{
		Action: ActionDump, ReadBytes: still.rssBytes() + still.fileBytes, ChangedBytes: changed.NewBlocks * store.BlockSize,
		UploadedBytes: changed.UploadedBytes + sent, CPU: changed.EncodeTime, Still: still.thawed.Sub(still.frozen), Frozen: still.frozen,
	}
}

// evacuated is how the evacuation with these moments ended.
func evacuated(g Committed, m Moments) Evacuated {
	e := Evacuated{Reason: v1alpha1.ReasonFinalGeneration, WindowBytes: g.WindowBytes}
	if !m.Notice.IsZero() && !m.Durable.IsZero() {
		e.Took = m.Durable.Sub(m.Notice)
	}
	return e
}
