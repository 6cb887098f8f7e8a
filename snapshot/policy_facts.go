package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/store"
)

// NodeFacts are what Plan has to know of the node.
type NodeFacts struct {
	// Now is the moment of the plan.
	Now time.Time
	// Window is from a notice to the deadline on this cloud: 120 s on AWS, 30 s on GCP and Azure, or what is configured.
	Window time.Duration
	// Margin is how long before the deadline an evacuation gives up.
	Margin time.Duration
	// Deadline is that of a notice that has come, zero without one.
	Deadline time.Time
	// Cores are what the agent could use if nobody else did.
	Cores float64
	// UploadRates are the bytes/s that uploads reached while no bound held them back, newest last. What is counted on is
	// what four of five of the last 16 reached.
	UploadRates []float64
}

// TargetSettings are what the owner of a target may ask for (annotations of its pod).
type TargetSettings struct {
	// Off has the target neither copied nor evacuated.
	Off bool
	// RecoveryPoint is from one safety dump to the next, 0 for the policy's.
	RecoveryPoint time.Duration
	// Interval is from one round to the next while nothing presses, 0 for the policy's.
	Interval time.Duration
	// MaxCPU is how much of one core its rounds may take, 0 for the policy's.
	MaxCPU float64
	// MaxFreeze is how long a safety dump may hold it still, 0 without a bound: what its liveness probe bears.
	MaxFreeze time.Duration
	// FinalOnly says that nobody may go back to a safety dump (lifeboat.dev/recover: final-only), so none are taken.
	FinalOnly bool
}

// TargetFacts are what Plan has to know of one target. Lists are newest last; the last 16 of each count.
type TargetFacts struct {
	// ID tells the targets of a node apart.
	ID string
	// Priority is the pod's.
	Priority int32
	Settings TargetSettings
	// Obstacles are what keeps it from being dumped for certain: it has no steps, and no place but the last in an Evacuation.
	Obstacles []obstacle.Obstacle
	// RSSBytes is its memory, FileBytes its file trees: the most that can change of either.
	RSSBytes, FileBytes int64
	// Changes are what past rounds and dumps found changed. The first round found no change and is not among them.
	Changes []ChangePoint
	// LastRound is when the newest complete round or dump began, zero where there was none. Whatever was changed before
	// is stored.
	LastRound time.Time
	// LastDump is when the newest safety dump froze the target, LastCommit when one was last durable; zero where none was.
	LastDump, LastCommit time.Time
	// Codecs are what each codec was seen to do with what changed. A codec left out has the defaults of docs/policy.md.
	Codecs map[store.Codec]CodecFacts
	// ScanCPU is the CPU s that a round took per GiB of RSS to find what changed; 0 where none was measured.
	ScanCPU float64
	// Freezes are those of past dumps.
	Freezes []FreezePoint
	// CommitTime is from the last pack to the commit read back, 0 where none was measured.
	CommitTime time.Duration
	// SoftDirty says that a round or dump reads only the pages that the kernel says were written.
	SoftDirty bool
	// Throttled says that the target runs at its CPU limit. Its rounds then take half of what they may.
	Throttled bool
	// Idle says that it took no CPU since the last round.
	Idle bool
	// Busy is the action under way. The target has no other Step meanwhile.
	Busy Action
	// Evacuating says that its evacuation has begun. It is then part of every Evacuation.
	Evacuating bool
}

// ChangePoint is what changed over an interval.
type ChangePoint struct {
	Interval time.Duration
	// PageBytes are of memory, FileBytes of files; both raw.
	PageBytes, FileBytes int64
}

// FreezePoint is how long a dump held the target still for reading, upload left out.
type FreezePoint struct {
	RSSBytes, ChangedBytes int64
	Took                   time.Duration
}

// CodecFacts are what a codec does to a byte.
type CodecFacts struct {
	// Stored is the bytes uploaded for each raw byte.
	Stored float64
	// CPU is the s of one core for each raw GiB, from the page in memory to the uploaded pack.
	CPU float64
}

func finite(v float64) bool { return v >= 0 && !math.IsInf(v, 0) }

// Validate joins all faults, each with its mend.
func (n NodeFacts) Validate() error {
	var faults []error
	if n.Now.IsZero() {
		faults = append(faults, errors.New("no moment of the plan: hand in Now"))
	}
	if n.Window <= 0 || n.Margin < 0 || n.Margin >= n.Window {
		faults = append(faults, fmt.Errorf("the window is %s, the margin %s: set a window above 0 and a shorter margin",
			n.Window, n.Margin))
	}
	if !finite(n.Cores) || n.Cores == 0 {
		faults = append(faults, fmt.Errorf("the node has %v cores: hand in a number above 0", n.Cores))
	}
	for _, rate := range n.UploadRates {
		if !finite(rate) {
			faults = append(faults, fmt.Errorf("upload rate is %v: leave out uploads that took no time", rate))
		}
	}
	return errors.Join(faults...)
}

// Validate joins all faults, each with its mend.
func (t TargetFacts) Validate() error {
	var faults []error
	refuse := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if t.ID == "" {
		refuse("ID is empty: name the pod")
	}
	if t.RSSBytes < 0 || t.FileBytes < 0 {
		refuse("RSS of %d bytes, files of %d bytes: measure again, nothing is smaller than 0", t.RSSBytes, t.FileBytes)
	}
	for _, c := range t.Changes {
		if c.Interval <= 0 || c.PageBytes < 0 || c.FileBytes < 0 {
			refuse("change of %d and %d bytes over %s: leave out rounds without an interval, as after a step of the clock",
				c.PageBytes, c.FileBytes, c.Interval)
		}
	}
	for _, f := range t.Freezes {
		if f.RSSBytes < 0 || f.ChangedBytes < 0 || f.Took < 0 {
			refuse("freeze of %s for %d changed of %d bytes: leave it out, nothing is smaller than 0",
				f.Took, f.ChangedBytes, f.RSSBytes)
		}
	}
	for _, codec := range slices.Sorted(maps.Keys(t.Codecs)) {
		c := t.Codecs[codec]
		if !finite(c.Stored) || !finite(c.CPU) {
			refuse("codec %s stores %v of a byte for %v CPU s per GiB: leave out a codec that has seen no bytes",
				codec, c.Stored, c.CPU)
		}
	}
	if !finite(t.ScanCPU) || t.CommitTime < 0 {
		refuse("ScanCPU is %v, CommitTime is %s: hand in 0 where none was measured", t.ScanCPU, t.CommitTime)
	}
	s := t.Settings
	if s.RecoveryPoint < 0 || s.Interval < 0 || s.MaxFreeze < 0 || !finite(s.MaxCPU) {
		refuse("settings: recovery point %s, interval %s, longest freeze %s, %v of a core: set 0 for the default, or more",
			s.RecoveryPoint, s.Interval, s.MaxFreeze, s.MaxCPU)
	}
	return errors.Join(faults...)
}

// distinct refuses two targets of one ID.
func distinct(targets []TargetFacts) error {
	seen := map[string]bool{}
	for _, t := range targets {
		if seen[t.ID] {
			return fmt.Errorf("two targets are called %q: hand in each pod once", t.ID)
		}
		seen[t.ID] = true
	}
	return nil
}
