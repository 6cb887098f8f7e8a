package snapshot

import (
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Level says how well a target is protected.
type Level int

// The levels, each worse than the one before.
const (
	// Safe: a notice is answered within the target's share of the window.
	Safe Level = iota
	// AtRisk: it may not be, but then at worst the work since the newest safety dump is lost.
	AtRisk
	// Unprotected: a notice would end the target for good.
	Unprotected
)

// String names the level as conditions do.
func (l Level) String() string {
	switch l {
	case Safe:
		return v1alpha1.LevelSafe
	case AtRisk:
		return v1alpha1.LevelAtRisk
	}
	return v1alpha1.LevelUnprotected
}

// The reasons of verdicts and of targets that an evacuation leaves out: a closed list.
const (
	// ReasonWithinShare: all is well.
	ReasonWithinShare = "WithinShare"
	// ReasonOff: the target's settings say so.
	ReasonOff = "Off"
	// ReasonFactsRefused: the facts contradict themselves.
	ReasonFactsRefused = "FactsRefused"
	// ReasonFirstRound: the first round has not ended, so everything is left to write.
	ReasonFirstRound = "FirstRound"
	// ReasonNoSafetyDump: there was no safety dump yet, so a node that goes without a notice takes the target with it.
	ReasonNoSafetyDump = "NoSafetyDump"
	// ReasonFreezeTooLong: safety dumps would hold the target still for longer than it bears, so there are none.
	ReasonFreezeTooLong = "FreezeTooLong"
	// ReasonRoundsLate: rounds do not come when they are due.
	ReasonRoundsLate = "RoundsLate"
	// ReasonNeighbours: the target alone would make it.
	ReasonNeighbours = "Neighbours"
	// ReasonMemoryTooLarge: reading its memory takes too long.
	ReasonMemoryTooLarge = "MemoryTooLarge"
	// ReasonFilesTooLarge: without its files it would make it.
	ReasonFilesTooLarge = v1alpha1.ReasonFilesTooLarge
	// ReasonChangesTooFast: too much changes between rounds for the uplink or the cores.
	ReasonChangesTooFast = "ChangesTooFast"
	// ReasonPriority: the time goes to targets of higher priority, or shorter ones of the same.
	ReasonPriority = "Priority"
	// ReasonDeadline: it takes longer than is left until the deadline.
	ReasonDeadline = "Deadline"
)

// Verdict is what a Checkpoint says of its target before any notice. Message names the cause with its numbers and,
// where the Level is not Safe, the mend.
type Verdict struct {
	Level   Level
	Reason  string
	Message string
}

// judge weighs e's prediction against its share of the window.
func (m *model) judge(e *estimate) Verdict {
	takes := fmt.Sprintf("notice to durable in %s of a window of %s, wanted within %s", short(e.predicted), m.Window, short(m.share))
	fallback := !e.LastCommit.IsZero() && !e.Settings.FinalOnly
	if e.predicted <= m.share && (fallback || e.Settings.FinalOnly) {
		return Verdict{Safe, ReasonWithinShare, takes}
	}
	v := Verdict{Level: AtRisk}
	if e.predicted > m.usable && !fallback {
		v.Level = Unprotected
	}
	if e.predicted <= m.share {
		v.Reason, v.Message = m.noSafetyDump(e)
	} else {
		v.Reason, v.Message = m.tooLong(e)
		v.Message = takes + ": " + v.Message
	}
	return v
}

// noSafetyDump says why there is none yet.
func (m *model) noSafetyDump(e *estimate) (reason, message string) {
	if e.dumpInterval == 0 && !e.LastRound.IsZero() {
		return ReasonFreezeTooLong, fmt.Sprintf("a safety dump would hold the target still for %s, its settings allow %s: "+
			"give its liveness probe more failures, or raise the annotation %s where it is set", short(e.load(e.gap(e.interval)).still()), e.Settings.MaxFreeze, v1alpha1.AnnotationMaxFreeze)
	}
	return ReasonNoSafetyDump, "without a notice all would be lost until the first safety dump, which follows the second round: wait"
}

// tooLong says why e's prediction is beyond its share.
func (m *model) tooLong(e *estimate) (reason, message string) {
	if e.LastRound.IsZero() {
		return ReasonFirstRound, fmt.Sprintf("the first round takes about %s: wait for it", short(e.takes(0)))
	}
	alone := m.alone(e, false)
	if e.late > 2*e.interval && alone > m.share && m.alone(e, true) <= m.share {
		return ReasonRoundsLate, fmt.Sprintf("the last round began %s ago, the next was due after %s: see the agent's log",
			short(e.late), short(e.interval))
	}
	if alone <= m.share {
		return ReasonNeighbours, fmt.Sprintf("it alone would take %s: spread the protected pods, or give this one a higher priority",
			short(alone))
	}
	l := e.load(e.gap(e.floor))
	if len(e.Changes) > 0 && m.withoutFiles(e) <= m.share {
		return ReasonFilesTooLarge, fmt.Sprintf("%s of files change from round to round, without them it would take %s: "+
			"leave out what can be made anew by the annotation %s, or use a PersistentVolume",
			size(e.files.at(e.gap(e.floor))), short(m.withoutFiles(e)), v1alpha1.AnnotationExclude)
	}
	if l.freeze >= l.link {
		return ReasonMemoryTooLarge, fmt.Sprintf("to read %s of memory takes %s: less memory, or a kernel with soft-dirty",
			size(float64(e.RSSBytes)), short(l.freeze))
	}
	return ReasonChangesTooFast, fmt.Sprintf("%s change from round to round, and the node uploads %s a second: "+
		"a faster network, or a larger CPUShare for rounds", size(l.changed), size(m.rate))
}

// short is a duration as a person reads it.
func short(s float64) string {
	d := seconds(s)
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// size is a number of bytes as a person reads it.
func size(bytes float64) string {
	unit := 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for bytes >= 1024 && unit < len(units)-1 {
		bytes, unit = bytes/1024, unit+1
	}
	return fmt.Sprintf("%.3g %s", bytes, units[unit])
}
