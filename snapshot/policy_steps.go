package snapshot

import (
	"cmp"
	"math"
	"slices"
	"time"
)

const (
	// gain is by which part a freeze must become shorter for one more round to be worth it.
	gain = 0.2
	// stillMost is the part of its time that a target may stand still for safety dumps, whatever its settings ask for.
	stillMost = 0.1
)

// dumpInterval is from one safety dump to the next in s, 0 where there are to be none.
func (m *model) dumpInterval(e *estimate) float64 {
	still := e.load(e.gap(e.interval)).still()
	if s := e.Settings; s.FinalOnly || s.MaxFreeze > 0 && still > s.MaxFreeze.Seconds() {
		return 0
	}
	if asked := e.Settings.RecoveryPoint.Seconds(); asked > 0 {
		return max(asked, m.MinInterval.Seconds(), still/stillMost)
	}
	return max(m.RecoveryPoint.Seconds(), still/m.FreezeShare)
}

// after is the moment s after now, now where that has passed.
func (m *model) after(s float64) time.Time { return m.Now.Add(seconds(max(0, s))) }

// steps sets what is to be done next with each target that is not Busy. Of safety dumps one is begun at a time, those of
// targets that have none first, then the longest due.
func (m *model) steps(plans []TargetPlan) {
	free := 0.0
	type dump struct {
		*estimate
		due float64
	}
	var dumps []dump
	for _, e := range m.estimates {
		if e.Busy == ActionDump {
			free = max(free, e.load(e.gap(e.interval)).still())
		}
		if e.Busy != ActionNone {
			continue
		}
		plans[e.index].Step = m.round(e)
		if due, wanted := m.dumpDue(e); wanted {
			dumps = append(dumps, dump{e, due})
		}
	}
	slices.SortFunc(dumps, func(a, b dump) int { return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.ID, b.ID)) })
	for _, d := range dumps {
		at := max(d.due, free, 0)
		l := d.load(at + d.late)
		// A round that comes first leaves the dump for the next plan.
		if step := &plans[d.index].Step; !m.after(at).After(step.At) {
			*step = Step{
				Action: ActionDump, At: m.after(at), Codec: d.windowCodec, Takes: seconds(l.still()),
				Bounds: Bounds{CPU: min(encoders, m.Cores), BytesPerSecond: m.rate},
			}
			free = at + l.still()
		}
	}
}

// round is the next round of e.
func (m *model) round(e *estimate) Step {
	due := 0.0
	if !e.LastRound.IsZero() {
		due = e.interval - e.late
	}
	takes := e.takes(max(e.interval, e.late))
	return Step{Action: ActionRound, At: m.after(due), Codec: e.roundCodec, Bounds: e.bounds, Takes: seconds(takes)}
}

// dumpDue tells in how many s the next safety dump of e is due, and whether one is wanted now: not before a second round
// has measured how much changes, nor while a round would shorten the freeze and none has begun since it was due.
func (m *model) dumpDue(e *estimate) (float64, bool) {
	if e.dumpInterval == 0 || e.LastRound.IsZero() || len(e.Changes) == 0 {
		return 0, false
	}
	due := math.Inf(-1)
	if !e.LastDump.IsZero() {
		due = e.dumpInterval - max(0, m.Now.Sub(e.LastDump).Seconds())
	}
	begun := -e.late
	if due <= 0 && !e.LastDump.IsZero() && begun < due && e.shortens() {
		return due, false
	}
	return due, true
}

// shortens says whether a dump after one more round would be that much shorter than one now.
func (e *estimate) shortens() bool {
	return e.freeze(e.changed(e.takes(e.late))) <= (1-gain)*e.freeze(e.changed(e.late))
}
