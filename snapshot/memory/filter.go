package memory

import (
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Filter knows pages of one container that need not be read again, because the sink has them and the kernel says that they
// were not written to since (soft-dirty). A nil Filter knows none.
//
// A page is known when all of this holds; whatever else is read:
//
//   - The bits of its task were cleared first, those of all tasks before any page was read: tasks may share memory. All that
//     was known before was forgotten at that moment, so a page written to before it is read now, and one written to after
//     it is marked.
//   - It is private and anonymous memory, in memory, in an area that began, ended and was protected as it is when the bits were
//     cleared, and was in the same frame before and after it was read, not marked.
//     So what the sink has is what that frame had, and the frame was write-protected.
//   - The sink has taken it. Who loses what sinks have taken says so (Filters.Forget).
//   - It never showed as written to. Once it does it is read each time, until the bits are cleared again.
//
// It is left out when it shows in the same frame, not marked, in the same area of the same address space (PID, begin of the
// process, where exec has put things). The bit goes with the page table's entry and the content with the frame: what was unmapped, dropped
// (MADV_DONTNEED) or moved there (mremap, which moves tables of 2 MiB without a mark) shows another frame, or none, or the
// mark of its first write; so do a page of zeros, one that was merged, migrated or swapped, and a huge page that was made of
// small ones, which are then read without need. A child has its own task, and that its parent shares frames with it changes
// nothing: who writes gets a frame of his own, marked. Pages that a device may be writing to keep their mark (FOLL_PIN).
//
// What can fool it, and how that would be noticed: somebody else clears the bits. Pages whose mark went away tell that, and a
// task that has run and has no mark at all; then all is forgotten. And from time to time a round reads everything and holds
// the pages it would have left out against checksums of what was read before. One that differs is counted, and the Filter is
// not used for that container any more.
//
// One Read or ReadExactly at a time may use it.
type Filter struct {
	all *Filters

	off   bool
	tasks map[string]*knownTask // by name
	// checked is when everything was last read for the check, or first.
	checked time.Time
	// fickle says that a round has read much more than what had changed since the one before: the bits are cleared in the
	// next round, and where that was so twice, in every round until the next check.
	fickle  bool
	strikes int
	// used is what the tasks had used of the processor when the bits were cleared.
	used time.Duration

	mu  sync.Mutex // held by workers
	sum passed
}

// passed is what a pass over the memory found of pages that the Filter is about.
type passed struct {
	read, changed, missed int64
	dirty, cleared        bool
}

// pass is what a Read is for.
type pass int

const (
	// passPlain reads all without a Filter, passFresh clears the bits and learns all, passDirty reads what is not known,
	// passCheck reads all and checks what is known.
	passPlain pass = iota
	passFresh
	passDirty
	passCheck
	// passExact is a ReadExactly.
	passExact
)

// fickleFactor is how many times what has changed may be read before the bits are worth clearing in every round, fickleLeast
// from how many pages on.
const fickleFactor, fickleLeast = 1.2, 256

// begin decides what a Read is for.
func (f *Filter) begin(now time.Time) pass {
	if f == nil || f.off {
		return passPlain
	}
	f.sum = passed{}
	switch {
	case len(f.tasks) == 0:
		if f.checked.IsZero() {
			f.checked = now
		}
		return passFresh
	case now.Sub(f.checked) >= f.all.CheckEvery:
		f.checked, f.fickle, f.strikes = now, false, 0
		return passCheck
	case f.fickle:
		f.fickle = f.strikes > 1
		return passFresh
	}
	return passDirty
}

// trusted says whether a dump can leave pages out.
func (f *Filter) trusted() bool { return f != nil && !f.off && len(f.tasks) > 0 }

// beginExactly says whether a ReadExactly can leave anything out.
func (f *Filter) beginExactly() bool {
	if !f.trusted() {
		return false
	}
	f.sum = passed{}
	return true
}

// clear forgets everything, clears the bits of all processes, and begins to learn of those of which that worked.
func (f *Filter) clear(t *tree) {
	f.tasks, f.used = map[string]*knownTask{}, t.usedByAll()
	for _, pid := range t.pids {
		if name, known, err := t.cleared(pid); err == nil { // it has ended, or may not be asked: nothing is known of it
			f.tasks[name] = known
		}
	}
}

func (t *tree) cleared(pid int) (string, *knownTask, error) {
	p, err := t.open(pid)
	if err != nil {
		return "", nil, err
	}
	defer p.close()
	known := &knownTask{areas: map[uint64]extent{}, groups: map[uint64]*pageGroup{}}
	if known.incarnation, err = p.incarnation(); err != nil {
		return "", nil, err
	}
	maps, err := os.Open(t.path(pid, "maps"))
	if err != nil {
		return "", nil, err
	}
	defer maps.Close()
	for a := range areasOf(maps) {
		if a.inode == 0 {
			known.areas[a.start] = a.extent()
		}
	}
	return p.task, known, p.clearBits()
}

func (t *tree) usedByAll() (sum time.Duration) {
	for _, pid := range t.pids {
		sum += t.used(pid)
	}
	return sum
}

// taskOf is what is known of p, nil where that is nothing.
func (f *Filter) taskOf(p *process) *knownTask {
	if f == nil || f.off {
		return nil
	}
	k := f.tasks[p.task]
	if k == nil {
		return nil
	}
	if incarnation, err := p.incarnation(); err != nil || incarnation != k.incarnation {
		return nil
	}
	maps, err := os.Open(p.tree.path(p.pid, "maps"))
	if err != nil {
		return nil
	}
	defer maps.Close()
	k.refresh(maps)
	return k
}

func (f *Filter) note(found passed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sum.read += found.read
	f.sum.changed += found.changed
	f.sum.missed += found.missed
	f.sum.dirty = f.sum.dirty || found.dirty
	f.sum.cleared = f.sum.cleared || found.cleared
}

// end draws conclusions from a pass, before which the tasks had used that much of the processor. It returns how many pages
// were missed.
func (f *Filter) end(p pass, used time.Duration) (missed int64) {
	switch {
	case f == nil || p == passPlain:
		return 0
	case f.sum.missed > 0:
		f.off, f.tasks = true, nil
		f.all.missed.Add(float64(f.sum.missed))
		f.all.off.Inc()
	case p != passFresh && f.fooled(used):
		f.tasks = nil
		f.all.cleared.Inc()
	case p == passDirty:
		if f.fickle = f.sum.read > fickleLeast && float64(f.sum.read) > fickleFactor*float64(f.sum.changed); f.fickle {
			f.strikes++
		}
	}
	return f.sum.missed
}

// wasRead notes what a ReadExactly has read. Pages that were not wanted are in no generation, and are forgotten.
func (f *Filter) wasRead(wanted []Wanted, stats Stats, err error) {
	if f == nil {
		return
	}
	if err != nil {
		f.tasks = nil
		return
	}
	f.all.pages.WithLabelValues("read").Add(float64(stats.PagesRead))
	f.all.pages.WithLabelValues("kept").Add(float64(stats.PagesKept))
	tasks := map[string]*knownTask{}
	for _, want := range wanted {
		if known := f.tasks[want.Task]; known != nil {
			known.trim(want.Runs)
			tasks[want.Task] = known
		}
	}
	f.tasks = tasks
}

// leastUsed is how much of the processor tasks cannot use without writing anything.
const leastUsed = 200 * time.Millisecond

// fooled says that somebody else seems to have cleared the bits.
func (f *Filter) fooled(used time.Duration) bool {
	return f.sum.cleared || !f.sum.dirty && used-f.used >= leastUsed
}

// Filters are the Filters of all containers of a node. As a prometheus.Collector they count what they missed.
type Filters struct {
	// CheckEvery is how often all memory of a container is read to hold its Filter against it. To be set before the first use.
	CheckEvery time.Duration

	mu sync.Mutex
	of map[string]*Filter

	missed, cleared prometheus.Counter
	pages           *prometheus.CounterVec
	off             prometheus.Gauge
}

// DefaultCheckEvery costs some 0.3 ms of a core a second for each GiB.
const DefaultCheckEvery = 10 * time.Minute

// NewFilters returns Filters that know nothing yet.
func NewFilters() *Filters {
	const subsystem = "lifeboat_soft_dirty_"
	return &Filters{
		CheckEvery: DefaultCheckEvery, of: map[string]*Filter{},
		missed: prometheus.NewCounter(prometheus.CounterOpts{Name: subsystem + "missed_pages_total",
			Help: "Pages that had changed although the kernel did not say so. Anything but 0 is a fault of the kernel or of Lifeboat."}),
		cleared: prometheus.NewCounter(prometheus.CounterOpts{Name: subsystem + "foreign_clears_total",
			Help: "How often somebody else seemed to have cleared a target's soft-dirty bits, so that all was read."}),
		off: prometheus.NewGauge(prometheus.GaugeOpts{Name: subsystem + "switched_off_targets",
			Help: "Targets whose memory is read in full because pages of theirs were missed."}),
		pages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: subsystem + "frozen_pages_total",
			Help: "Pages of frozen targets, by whether they were read or left out as unchanged."}, []string{"how"}),
	}
}

// Of is the Filter of a container; nil without Filters.
func (f *Filters) Of(container string) *Filter {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of[container] == nil {
		f.of[container] = &Filter{all: f}
	}
	return f.of[container]
}

// Forget tells that nobody has any more what sinks have taken of a container.
func (f *Filters) Forget(container string) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if filter := f.of[container]; filter != nil && filter.off {
		return // it would be trusted again
	}
	delete(f.of, container)
}

// Describe implements prometheus.Collector.
func (f *Filters) Describe(to chan<- *prometheus.Desc) {
	for _, c := range f.collectors() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (f *Filters) Collect(to chan<- prometheus.Metric) {
	for _, c := range f.collectors() {
		c.Collect(to)
	}
}

func (f *Filters) collectors() []prometheus.Collector {
	return []prometheus.Collector{f.missed, f.cleared, f.off, f.pages}
}
