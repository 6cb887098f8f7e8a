package snapshot

import (
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// lateFactor is how much longer than the time left an evacuation may be predicted to take and still be tried when
// nobody else is in its way: predictions are on the safe side, and not to try is to lose for certain.
const lateFactor = 1.5

// Evacuation is what to do with the targets of a node under notice.
type Evacuation struct {
	// Concurrency is how many are evacuated side by side.
	Concurrency int
	// Order are those to evacuate.
	Order []EvacuationStep
	// Left are those that are not tried, because there is no time for them. They keep their last safety dump.
	Left []LeftOut
}

// EvacuationStep is one target of an Evacuation.
type EvacuationStep struct {
	ID string
	// PreDump asks for one more round, unbounded, before the freeze: it shortens the time that the target stands still.
	PreDump bool
	// Alone asks to begin only when all before are durable or given up. It is not likely to be in time.
	Alone bool
	Codec store.Codec
	// Durable is from now on, Still how much of it the target stands still; both are 0 where the facts of the target
	// were refused or something keeps it from being dumped: it is tried all the same, the last.
	Durable, Still time.Duration
}

// LeftOut is one target that an Evacuation does not try.
type LeftOut struct {
	ID string
	// Reason is ReasonPriority or ReasonDeadline, Message has the numbers.
	Reason, Message string
	// RecoveryPoint is the moment of the newest safety dump, which is what remains; zero where there is none.
	RecoveryPoint time.Time
}

// candidate is a target with what its evacuation asks of the node, and for how long it stands still.
type candidate struct {
	of      *estimate
	asks    load
	still   float64
	preDump bool
}

func newCandidate(e *estimate) candidate {
	l := e.load(e.late)
	return candidate{of: e, asks: l, still: l.still()}
}

func (c candidate) step(durable float64, alone bool) EvacuationStep {
	return EvacuationStep{
		ID: c.of.ID, PreDump: c.preDump, Alone: alone, Codec: c.of.windowCodec, Durable: seconds(durable), Still: seconds(c.still),
	}
}

// evacuation takes in targets in their order as long as everybody taken in is in time. Whoever is refused costs those
// behind nothing.
func (m *model) evacuation() *Evacuation {
	left := max(0, m.Deadline.Add(-m.Margin).Sub(m.Now).Seconds())
	all := slices.Clone(m.estimates)
	order(all, func(e *estimate) float64 { return e.late })
	var taken, refused []candidate
	for _, e := range all {
		c := newCandidate(e)
		more := append(slices.Clone(taken), c)
		if e.Evacuating || m.inTime(more, left) {
			taken = more
		} else {
			refused = append(refused, c)
		}
	}
	m.preDumps(taken, left*m.WindowShare)
	out := &Evacuation{Concurrency: m.parallel()}
	ends, _ := m.durable(loadsOf(taken))
	end := 0.0
	for i, c := range taken {
		out.Order, end = append(out.Order, c.step(ends[i], false)), max(end, ends[i])
	}
	for _, c := range refused {
		alone, _ := m.durable([]load{c.asks})
		if end+alone[0] <= left*lateFactor {
			end += alone[0]
			out.Order = append(out.Order, c.step(end, true))
		} else {
			out.Left = append(out.Left, leave(c.of, alone[0], left))
		}
	}
	for _, id := range m.unknown {
		out.Order = append(out.Order, EvacuationStep{ID: id, Alone: true, Codec: store.CodecZstd})
	}
	return out
}

func loadsOf(candidates []candidate) []load {
	loads := make([]load, len(candidates))
	for i, c := range candidates {
		loads[i] = c.asks
	}
	return loads
}

// inTime says whether all of them are durable within left s.
func (m *model) inTime(candidates []candidate, left float64) bool {
	ends, _ := m.durable(loadsOf(candidates))
	return slices.Max(ends) <= left
}

// preDumps gives one more round before the freeze to those who then stand still for less, as long as everybody is
// durable within limit s.
func (m *model) preDumps(taken []candidate, limit float64) {
	for i, c := range taken {
		taken[i] = c.withPreDump()
		if c.of.Evacuating || taken[i].still > (1-gain)*c.still || !m.inTime(taken, limit) {
			taken[i] = c
		}
	}
}

// withPreDump is c with an unbounded round first: the round writes what changed until now, the dump what changes
// meanwhile.
func (c candidate) withPreDump() candidate {
	cpu := c.of.scan() + c.asks.changed/gib*c.of.codec(c.of.windowCodec).CPU
	round := max(cpu/min(1, c.of.node.Cores), c.asks.link)
	then := c.of.loadOf(c.of.meanwhile(round))
	c.still, c.preDump = then.still(), true
	then.freeze += round
	then.work += cpu
	then.link += c.asks.link
	c.asks = then
	return c
}

func leave(e *estimate, alone, left float64) LeftOut {
	out := LeftOut{ID: e.ID, Reason: ReasonPriority, RecoveryPoint: e.LastDump}
	if e.LastCommit.IsZero() || e.Settings.FinalOnly {
		out.RecoveryPoint = time.Time{}
	}
	rest := "there is no safety dump to go back to"
	if !out.RecoveryPoint.IsZero() {
		rest = fmt.Sprintf("the safety dump of %s before remains", short(e.node.Now.Sub(out.RecoveryPoint).Seconds()))
	}
	cause := "which goes to targets of higher priority, or shorter ones of the same"
	if alone > left {
		out.Reason, cause = ReasonDeadline, "which is not enough"
	}
	out.Message = fmt.Sprintf("not evacuated: that takes %s of %s left, %s; %s", short(alone), short(left), cause, rest)
	return out
}
