package snapshot

import (
	"time"

	"github.com/rs/zerolog"
)

// laps are the stretches of an evacuation, for the log: they say where the time from notice to durable goes. The zero value
// takes none.
type laps struct {
	last  time.Time
	names []string
	took  []time.Duration
}

// newLaps begins at that moment.
func newLaps(began time.Time) laps { return laps{last: began} }

// end ends a stretch. One that comes again is added to.
func (l *laps) end(name string) {
	now := time.Now()
	l.add(name, now.Sub(l.last))
	l.last = now
}

// add notes a stretch within the next one that ends.
func (l *laps) add(name string, took time.Duration) {
	if l.last.IsZero() {
		return
	}
	for i, known := range l.names {
		if known == name {
			l.took[i] += took
			return
		}
	}
	l.names, l.took = append(l.names, name), append(l.took, took)
}

// log adds a field for each, with the unit in its name.
func (l *laps) log(e *zerolog.Event) *zerolog.Event {
	for i, name := range l.names {
		e = e.Dur(name+"_seconds", l.took[i])
	}
	return e
}
