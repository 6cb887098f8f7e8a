package snapshot

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// What is taken where nothing was measured yet; docs/policy.md has where each comes from.
const (
	gib = 1 << 30
	// defaultScanCPU is s per GiB: reading and hashing.
	defaultScanCPU = 0.2
	// A freeze is freezeBase s, and s per GiB of RSS (freezeTracked with soft-dirty) and of what changed.
	freezeBase, freezeRSS, freezeTracked, freezeChanged = 0.1, 0.33, 0.02, 1.0
	// scaleLeast and scaleMost bound how far measured freezes may be from that.
	scaleLeast, scaleMost = 0.1, 1000
	// defaultCommit is s.
	defaultCommit = 0.5
	// encoders is how many cores one target's writer compresses on.
	encoders = 4
	// keptPoints is how many measured points of a kind count.
	keptPoints = 16
	// slack is how much older than an interval what is stored may be.
	slack = 1.25
	// horizon in s stands for ever.
	horizon = 1e9
)

// codecOrder is from the least CPU to the fewest bytes.
var codecOrder = []store.Codec{store.CodecNone, store.CodecS2, store.CodecZstd}

var defaultCodecs = map[store.Codec]CodecFacts{
	store.CodecNone: {Stored: 1, CPU: 1}, store.CodecS2: {Stored: 0.55, CPU: 1.3}, store.CodecZstd: {Stored: 0.45, CPU: 2.5},
}

func (t TargetFacts) codec(c store.Codec) CodecFacts {
	if facts, ok := t.Codecs[c]; ok {
		return facts
	}
	return defaultCodecs[c]
}

// seconds is the time.Duration of s, at most the horizon. It rounds up to µs, so that tiny differences are none.
func seconds(s float64) time.Duration {
	return time.Duration(math.Ceil(min(s, horizon)*1e6-0.01)) * time.Microsecond
}

// whole rounds bytes up.
func whole(bytes float64) int64 { return int64(math.Ceil(min(bytes, 1<<62))) }

// newest returns the points that count.
func newest[T any](points []T) []T { return points[max(0, len(points)-keptPoints):] }

// high is the value that nine of ten do not exceed; of fewer than ten it is the largest. Raising any value never
// lowers it, which a mean and its spread could not promise.
func high(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)-1-len(values)/10]
}

// low is the value that four of five reach; of fewer than five it is the smallest.
func low(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/5]
}

// curve is how many bytes change over an interval: it never falls, and never rises faster than the interval does, as the
// same bytes changed twice count once.
type curve struct {
	intervals, bytes []float64
	limit            float64
}

// newCurve raises each measured point to what the others say must have changed by then, then leaves out the highest
// tenth.
func newCurve(points []ChangePoint, bytesOf func(ChangePoint) int64, limit int64) curve {
	c := curve{limit: float64(limit)}
	points = newest(points)
	for _, at := range points {
		least := make([]float64, 0, len(points))
		for _, p := range points {
			least = append(least, float64(bytesOf(p))*min(1, at.Interval.Seconds()/p.Interval.Seconds()))
		}
		c.intervals, c.bytes = append(c.intervals, at.Interval.Seconds()), append(c.bytes, high(least))
	}
	return c
}

// at is the most that the points allow: as much as the next longer interval, and in proportion to the next shorter one.
// Without points everything may have changed.
func (c curve) at(interval float64) float64 {
	most := c.limit
	for i, bytes := range c.bytes {
		most = min(most, bytes*max(1, interval/c.intervals[i]))
	}
	return most
}

// estimate is one target as the model sees it: s, bytes and cores.
type estimate struct {
	TargetFacts
	// index is the target's place among the facts.
	index        int
	node         *model
	pages, files curve
	// scale is how freezes relate to the formula.
	scale       float64
	roundCodec  store.Codec
	windowCodec store.Codec
	// late is the time since the last round.
	late float64
	// unhurried and floor are the longest and shortest interval between rounds that policy and budgets allow; interval
	// is the one chosen.
	unhurried, floor, interval float64
	// dumpInterval is 0 where there are to be no safety dumps.
	dumpInterval float64
	bounds       Bounds
	predicted    float64
}

// changed is how many bytes change within gap s. Nothing is stored before the first round has ended.
func (e *estimate) changed(gap float64) float64 {
	if e.LastRound.IsZero() {
		return e.pages.limit + e.files.limit
	}
	return e.meanwhile(gap)
}

// meanwhile is how many bytes change within gap s after a round, the first one too.
func (e *estimate) meanwhile(gap float64) float64 { return e.pages.at(gap) + e.files.at(gap) }

// scan is the CPU s of one round before any change.
func (e *estimate) scan() float64 {
	perGiB := e.ScanCPU
	if perGiB == 0 {
		perGiB = defaultScanCPU
	}
	return perGiB * float64(e.RSSBytes) / gib
}

// roundCPU and roundBytes are what a round after interval s takes in CPU s and upload bytes.
func (e *estimate) roundCPU(interval float64) float64 {
	return e.scan() + e.changed(interval)/gib*e.codec(e.roundCodec).CPU
}

func (e *estimate) roundBytes(interval float64) float64 {
	return e.changed(interval) * e.codec(e.roundCodec).Stored
}

// takes is how many s a round after interval s takes within its bounds.
func (e *estimate) takes(interval float64) float64 {
	return min(horizon, max(e.roundCPU(interval)/e.bounds.CPU, e.roundBytes(interval)/e.bounds.BytesPerSecond))
}

// gap is the longest time whose changes may be left to write when rounds come every interval s. Rounds read in one order,
// so no page is older than an interval, and slack more as rounds are not even. A round under way counts as half done.
func (e *estimate) gap(interval float64) float64 {
	late := e.late
	if e.Busy != ActionNone {
		late /= 2
	}
	return max(slack*interval, late)
}

// freeze is how many s a dump holds the target for reading, changed bytes being new.
func (e *estimate) freeze(changed float64) float64 {
	return e.scale * freezeFormula(float64(e.RSSBytes), changed, e.SoftDirty) / min(1, e.node.Cores)
}

func freezeFormula(rss, changed float64, tracked bool) float64 {
	perGiB := freezeRSS
	if tracked {
		perGiB = freezeTracked
	}
	return freezeBase + perGiB*rss/gib + freezeChanged*changed/gib
}

func (e *estimate) commit() float64 {
	if e.CommitTime == 0 {
		return defaultCommit
	}
	return e.CommitTime.Seconds()
}

// link is how many s the uplink, or the encoders where they are slower, are taken by changed bytes in the window.
func (e *estimate) link(changed float64) float64 {
	return changed * e.node.perByte(e.codec(e.windowCodec))
}

// load is what the final dump of a target asks of the node, gap s after the state that is stored.
type load struct {
	changed, uploaded float64
	// freeze is s, work s of a core, link s of the uplink, commit s in which neither is needed.
	freeze, work, link, commit float64
}

func (e *estimate) load(gap float64) load { return e.loadOf(e.changed(gap)) }

func (e *estimate) loadOf(changed float64) load {
	codec := e.codec(e.windowCodec)
	freeze := e.freeze(changed)
	return load{
		changed: changed, uploaded: changed * codec.Stored, freeze: freeze, work: freeze + changed/gib*codec.CPU,
		link: e.link(changed), commit: e.commit(),
	}
}

// still is the longest that a target stands still for a dump: a final one until it is committed, a safety dump until all is
// read, for which it may have to wait for the link.
func (l load) still() float64 { return l.freeze + l.link + l.commit }

// length is what puts equals in order: the s of an evacuation gap s after the last round at the policy's own upload rate.
func (e *estimate) length(gap float64) float64 {
	changed := e.changed(gap)
	return e.freeze(changed) + changed*e.codec(e.roundCodec).Stored/e.node.UploadRate
}

// order puts targets into the order of an evacuation: begun ones, priority, then the shortest.
func order(estimates []*estimate, gap func(*estimate) float64) {
	length := map[*estimate]float64{}
	for _, e := range estimates {
		length[e] = e.length(gap(e))
	}
	slices.SortFunc(estimates, func(a, b *estimate) int {
		if a.Evacuating != b.Evacuating {
			if a.Evacuating {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(length[a], length[b]), cmp.Compare(a.ID, b.ID))
	})
}
