package snapshot

import (
	"maps"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// leastEncoded and leastSent are how many bytes say something of a codec or of the link.
	leastEncoded, leastSent = 1 << 20, 4 << 20
	// idleShare is how much of one core a target may take that counts as idle.
	idleShare = 0.001
	// throttledShare is in which part of the periods of its limit a target is held back that counts as throttled.
	throttledShare = 0.1
)

// measured is what is known of a target by measuring it.
type measured struct {
	facts TargetFacts
	// seen is up to where the Writer's progress is accounted for, of that Writer.
	seen store.Progress
	of   *openWriter
	// based is when the newest safety dump that is durable was taken.
	based time.Time
	// periods and throttled are those of the vitals before.
	periods, throttled int64
	// cpu is what the target had used when the newest round began.
	cpu time.Duration
	// pause and notBefore are for a target whose steps fail.
	pause     time.Duration
	notBefore time.Time
}

func newMeasured(t Target) measured {
	return measured{facts: TargetFacts{ID: t.PodUID, Codecs: map[store.Codec]CodecFacts{}}}
}

// copied is a deep copy of the facts.
func (m *measured) copied() TargetFacts {
	f := m.facts
	f.Changes, f.Freezes, f.Codecs = slices.Clone(f.Changes), slices.Clone(f.Freezes), maps.Clone(f.Codecs)
	return f
}

// lives notes vitals taken between rounds.
func (m *measured) lives(v Vitals) {
	f := &m.facts
	f.RSSBytes = max(f.RSSBytes, v.RSSBytes)
	if !f.LastRound.IsZero() {
		f.Idle = (v.CPU - m.cpu).Seconds() < idleShare*time.Since(f.LastRound).Seconds()
	}
	if periods := v.Periods - m.periods; periods > 0 {
		f.Throttled = float64(v.Throttled-m.throttled) >= throttledShare*float64(periods)
	}
	m.periods, m.throttled = v.Periods, v.Throttled
}

// since returns what w did since it was last asked for.
func (m *measured) since(w *openWriter) store.Progress {
	now := w.Progress()
	if m.of != w {
		m.seen, m.of = store.Progress{}, w
	}
	was := m.seen
	m.seen = now
	return store.Progress{
		NewBlocks: now.NewBlocks - was.NewBlocks, RawBytes: now.RawBytes - was.RawBytes,
		StoredBytes: now.StoredBytes - was.StoredBytes, EncodeTime: now.EncodeTime - was.EncodeTime,
		UploadedBytes: now.UploadedBytes - was.UploadedBytes, UploadTime: now.UploadTime - was.UploadTime,
	}
}

// changed notes what had changed by a round or dump that began at that time. The first one found no change.
func (m *measured) changed(began time.Time, pages, files int64) {
	if last := m.facts.LastRound; !last.IsZero() && began.After(last) {
		m.facts.Changes = keep(m.facts.Changes, ChangePoint{Interval: began.Sub(last), PageBytes: pages, FileBytes: files})
	}
	m.facts.LastRound = began
}

// encoded notes what a codec did.
func (m *measured) encoded(codec store.Codec, p store.Progress) {
	if p.RawBytes >= leastEncoded {
		m.facts.Codecs[codec] = CodecFacts{
			Stored: float64(p.StoredBytes) / float64(p.RawBytes), CPU: p.EncodeTime.Seconds() * gib / float64(p.RawBytes),
		}
	}
}

// keep appends a point and forgets those that no longer count.
func keep[T any](points []T, point T) []T {
	return slices.Clone(newest(append(points, point)))
}

// failed puts the next step off, for longer each time; succeeded makes up for that. A safety dump is not tried again before
// the next is due: each one holds the target still.
func (m *measured) failed(now time.Time, action Action) {
	if action == ActionDump {
		m.facts.LastDump = now
	}
	m.pause = min(max(2*m.pause, retryAfter), retryAtMost)
	m.notBefore = now.Add(m.pause)
}

func (m *measured) succeeded() { m.pause, m.notBefore = 0, time.Time{} }
