package snapshot

import (
	"cmp"
	"math"
	"slices"

	"github.com/lifeboat-dev/lifeboat/store"
)

// near is how much of a target's share of the window may be used before its rounds come sooner.
const near = 0.8

// model is a node with the targets that are on and have sound facts, in the order of an evacuation.
type model struct {
	Policy
	NodeFacts
	estimates []*estimate
	// unknown are the targets whose facts were refused, or that something keeps from being dumped.
	unknown []string
	// rate is the bytes/s to count on.
	rate float64
	// share is within how many s a target is Safe, usable within how many an evacuation has to be done.
	share, usable float64
}

func (p Policy) model(node NodeFacts, targets []TargetFacts) *model {
	m := &model{Policy: p, NodeFacts: node, rate: p.UploadRate}
	if rates := newest(node.UploadRates); len(rates) > 0 {
		// A link that is down still has a rate, so that nothing is divided by 0.
		m.rate = max(1, low(rates))
	}
	m.usable = (node.Window - node.Margin).Seconds()
	m.share = min(p.WindowShare*node.Window.Seconds(), m.usable)
	for i, t := range targets {
		switch {
		case t.Settings.Off:
		case t.Validate() != nil || len(t.Obstacles) > 0:
			m.unknown = append(m.unknown, t.ID)
		default:
			m.estimates = append(m.estimates, m.estimate(i, t))
		}
	}
	order(m.estimates, func(e *estimate) float64 { return max(p.Interval.Seconds(), e.late) })
	return m
}

func (m *model) estimate(index int, t TargetFacts) *estimate {
	e := &estimate{TargetFacts: t, index: index, node: m, scale: 1}
	e.pages = newCurve(t.Changes, func(c ChangePoint) int64 { return c.PageBytes }, t.RSSBytes)
	e.files = newCurve(t.Changes, func(c ChangePoint) int64 { return c.FileBytes }, t.FileBytes)
	if !t.LastRound.IsZero() {
		e.late = max(0, m.Now.Sub(t.LastRound).Seconds())
	}
	var scales []float64
	for _, f := range newest(t.Freezes) {
		scales = append(scales, f.Took.Seconds()/freezeFormula(float64(f.RSSBytes), float64(f.ChangedBytes), t.SoftDirty))
	}
	if len(scales) > 0 {
		e.scale = min(max(high(scales), scaleLeast), scaleMost)
	}
	e.roundCodec, e.windowCodec = frugal(t), m.fastest(t)
	return e
}

// frugal is the codec of rounds, outside of any window, where bytes cost and time does not: the fewest bytes, where that
// is worth its CPU.
func frugal(t TargetFacts) store.Codec {
	best := codecOrder[0]
	for _, c := range codecOrder[1:] {
		if t.codec(c).Stored < 0.95*t.codec(best).Stored {
			best = c
		}
	}
	return best
}

// perByte is the s of the window that a raw byte takes: of the uplink or of the encoders, whichever is the bottleneck.
func (m *model) perByte(c CodecFacts) float64 {
	return max(c.Stored/m.rate, c.CPU/gib/min(encoders, m.Cores))
}

// fastest is the codec for the window. Of equals it is the one with the least CPU.
func (m *model) fastest(t TargetFacts) store.Codec {
	return slices.MinFunc(codecOrder, func(a, b store.Codec) int {
		return cmp.Or(cmp.Compare(m.perByte(t.codec(a)), m.perByte(t.codec(b))), cmp.Compare(t.codec(a).CPU, t.codec(b).CPU))
	})
}

// unhurried is the interval while nothing presses: the policy's, or up to twice the last one while a target is idle or so
// little changes that it is quiet.
func (m *model) unhurried(e *estimate) float64 {
	usual, longest := m.Interval.Seconds(), m.MaxInterval.Seconds()
	if asked := e.Settings.Interval.Seconds(); asked > 0 {
		usual = min(max(asked, m.MinInterval.Seconds()), longest)
	}
	if e.LastRound.IsZero() {
		return m.MinInterval.Seconds()
	}
	if len(e.Changes) == 0 {
		return usual
	}
	longest = min(longest, max(usual, 2*e.Changes[len(e.Changes)-1].Interval.Seconds()))
	if e.Idle {
		return longest
	}
	return longestInterval(usual, longest, func(i float64) bool { return e.changed(slack*i) <= float64(m.QuietBytes) })
}

// longestInterval is the longest interval from least to most s of which ok is true, or least. What ok is not true of it
// is not true of anything longer.
func longestInterval(least, most float64, ok func(float64) bool) float64 {
	if least >= most || ok(most) {
		return max(least, most)
	}
	for range 60 {
		middle := math.Sqrt(least * most)
		if ok(middle) {
			least = middle
		} else {
			most = middle
		}
	}
	return least
}

// Least bounds of a target that changes nothing, so that a sudden change is not stuck.
const leastCPU, leastBytes = 1e-3, 1 << 16

// grant divides the budgets: each target gets what the shortest interval asks for, or where that is too much together,
// those who ask for most get equally less. That gives every target the floor of its interval. What nobody asks for makes
// everybody's rounds shorter.
func (m *model) grant() {
	shortest := m.MinInterval.Seconds()
	var cpu, bytes []float64
	for _, e := range m.estimates {
		cpu = append(cpu, min(max(e.roundCPU(shortest)/shortest, leastCPU), m.mostCPU(e)))
		bytes = append(bytes, max(e.roundBytes(shortest)/shortest, leastBytes))
	}
	cpuBudget, bytesBudget := m.CPUShare*m.Cores, m.NetworkShare*m.rate
	cpuLevel, bytesLevel := level(cpu, cpuBudget), level(bytes, bytesBudget)
	var cpuGranted, bytesGranted float64
	for i, e := range m.estimates {
		e.bounds = Bounds{CPU: min(cpu[i], cpuLevel), BytesPerSecond: min(bytes[i], bytesLevel)}
		cpuGranted, bytesGranted = cpuGranted+e.bounds.CPU, bytesGranted+e.bounds.BytesPerSecond
		e.floor = shortest
		if e.takes(shortest) > shortest {
			// The longest interval that is too short for its round.
			e.floor = longestInterval(shortest, horizon, func(i float64) bool { return e.takes(i) > i })
		}
		e.unhurried = max(e.floor, m.unhurried(e))
	}
	for _, e := range m.estimates {
		e.bounds.CPU = min(e.bounds.CPU*max(1, cpuBudget/cpuGranted), m.mostCPU(e))
		e.bounds.BytesPerSecond *= max(1, bytesBudget/bytesGranted)
	}
}

// mostCPU is how much of a core the rounds of e may take however much there is.
func (m *model) mostCPU(e *estimate) float64 {
	most := e.Settings.MaxCPU
	if most == 0 {
		most = m.TargetCPU
	}
	if e.Throttled {
		most /= 2
	}
	return most
}

// level is the most that each may have so that all of them together have no more than budget; infinite where there is
// enough for all.
func level(wanted []float64, budget float64) float64 {
	wanted = slices.Sorted(slices.Values(wanted))
	for i, w := range wanted {
		if each := budget / float64(len(wanted)-i); w > each {
			return each
		}
		budget -= w
	}
	return math.Inf(1)
}

// parallel is how many evacuations go on side by side.
func (m *model) parallel() int { return int(max(1, min(float64(m.Concurrency), m.Cores))) }

// durable is how many s after the first freeze each of the loads is durable that are evacuated in this order, and when
// all are.
//
// A target waits for those before it, each at what is scarcest for it: cores, uplink or a place among the parallel. It
// then shares the uplink with as many as are evacuated beside it, but is never later than if it came last.
func (m *model) durable(loads []load) ([]float64, float64) {
	side := m.parallel()
	cores := min(float64(side), m.Cores)
	scarcest := make([]float64, len(loads))
	var all, slowest, commits float64
	hidden := math.Inf(1)
	for i, l := range loads {
		scarcest[i] = max(l.work/cores, l.link, (l.freeze+l.link+l.commit)/float64(side))
		all, slowest, commits = all+scarcest[i], max(slowest, l.freeze), max(commits, l.commit)
		hidden = min(hidden, scarcest[i]-l.link)
	}
	// Of whichever comes last only the uplink counts.
	all += slowest - min(hidden, all)
	ends := make([]float64, len(loads))
	var before float64
	slowest = 0
	for i, l := range loads {
		slowest = max(slowest, l.freeze)
		ends[i] = min(before+slowest+l.link*float64(min(side, len(loads))), all) + l.commit
		before += scarcest[i]
	}
	return ends, all + commits
}

// at is durable for intervals between rounds, from the notice on.
func (m *model) at(interval func(*estimate) float64) ([]float64, float64) {
	loads := make([]load, len(m.estimates))
	for i, e := range m.estimates {
		loads[i] = e.load(e.gap(interval(e)))
	}
	ends, all := m.durable(loads)
	for i := range ends {
		ends[i] += m.Reaction.Seconds()
	}
	return ends, all + m.Reaction.Seconds()
}

// predict sets how long each target takes and at which interval its rounds come, and returns how long the node takes.
//
// Rounds come at their unhurried pace as long as the node is near enough below its share; else all of them come sooner,
// down to what the budgets allow. So a prediction is what the unhurried pace gives, or the point where the hurry begins,
// or what even the fastest pace gives.
func (m *model) predict() float64 {
	aim := near * m.share
	slow, allSlow := m.at(func(e *estimate) float64 { return e.unhurried })
	fast, allFast := m.at(func(e *estimate) float64 { return e.floor })
	// Nobody hurries for one that cannot be saved at any pace.
	lost := slices.ContainsFunc(fast, func(end float64) bool { return end > m.usable })
	for i, e := range m.estimates {
		e.predicted = max(fast[i], min(slow[i], aim))
	}
	pace := longestInterval(m.MinInterval.Seconds(), m.MaxInterval.Seconds(), func(pace float64) bool {
		ends, all := m.at(func(e *estimate) float64 { return e.paced(pace) })
		for i, end := range ends {
			if fast[i] <= m.usable && end > max(aim, fast[i])*(1+1e-9) {
				return false
			}
		}
		return lost || all <= max(aim, allFast)*(1+1e-9)
	})
	for i, e := range m.estimates {
		e.interval = e.paced(pace)
		if fast[i] > m.usable {
			e.interval = e.floor
		}
		e.dumpInterval = m.dumpInterval(e)
	}
	return max(allFast, min(allSlow, aim))
}

// alone is how long e would take if it had the node for itself, at the fastest pace; punctual leaves out that its rounds
// are late.
func (m *model) alone(e *estimate, punctual bool) float64 {
	facts := e.TargetFacts
	if punctual && !facts.LastRound.IsZero() {
		facts.LastRound = m.Now
	}
	single := m.Policy.model(m.NodeFacts, []TargetFacts{facts})
	single.grant()
	ends, _ := single.at(func(e *estimate) float64 { return e.floor })
	return ends[0]
}

// withoutFiles is how long e would take alone if none of its files changed.
func (m *model) withoutFiles(e *estimate) float64 {
	bare := *e
	bare.FileBytes, bare.Changes = 0, slices.Clone(e.Changes)
	for i := range bare.Changes {
		bare.Changes[i].FileBytes = 0
	}
	return m.alone(&bare, false)
}

func (e *estimate) paced(pace float64) float64 { return max(e.floor, min(e.unhurried, pace)) }
