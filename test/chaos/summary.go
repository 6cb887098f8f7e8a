package chaos

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Summary adds up runs.
type Summary struct {
	Runs, Faults int
	sum          Outcome
	failed       []uint64
}

// Add adds a run.
func (s *Summary) Add(o Outcome) {
	s.Runs++
	s.Faults += len(o.Faults)
	if len(o.Faults) > 0 {
		s.failed = append(s.failed, o.Plan.Seed)
	}
	t := &s.sum
	t.Took += o.Took
	t.Double, t.Torn, t.Unfinished = t.Double+o.Double, t.Torn+o.Torn, t.Unfinished+o.Unfinished
	t.Processes, t.Moved = t.Processes+o.Processes, t.Moved+o.Moved
	t.Recovered, t.Anew, t.Restarted = t.Recovered+o.Recovered, t.Anew+o.Anew, t.Restarted+o.Restarted
	if t.Injected == nil {
		t.Injected = map[FaultKind]int{}
	}
	for kind, n := range o.Injected {
		t.Injected[kind] += n
	}
}

// Print writes what the runs came to.
func (s *Summary) Print(to io.Writer) {
	t := &s.sum
	fmt.Fprintf(to, "%d runs in %s, %s each: %d double runs, %d torn restores, %d jobs unfinished\n", s.Runs, t.Took.Round(time.Second),
		(t.Took / time.Duration(max(1, s.Runs))).Round(time.Second), t.Double, t.Torn, t.Unfinished)
	fmt.Fprintf(to, "%d processes ended with their count, %d hand-overs without any loss, %d went on from a recovery point, %d began anew (%d by their users)\n",
		t.Processes, t.Moved, t.Recovered, t.Anew, t.Restarted)
	for _, kind := range FaultKinds {
		fmt.Fprintf(to, "  %4d  %s\n", t.Injected[kind], kind)
	}
	if len(s.failed) > 0 {
		fmt.Fprintf(to, "failed: seeds %s\n", strings.Trim(fmt.Sprint(s.failed), "[]"))
	}
}

// Report is what a person needs of one run: a line for a good one; of another what was wrong, its plan and its history, and how to
// run it again.
func (o Outcome) Report() string {
	var b strings.Builder
	if len(o.Faults) == 0 {
		fmt.Fprintf(&b, "seed %d: good, %s; %d processes, %d hand-overs, %d recovered, %d began anew", o.Plan.Seed, o.Took.Round(time.Second),
			o.Processes, o.Moved, o.Recovered, o.Anew)
		return b.String()
	}
	fmt.Fprintf(&b, "seed %d: FAILED after %s\n%s", o.Plan.Seed, o.Took.Round(time.Second), o.full())
	return b.String()
}

// full is all that is known of a run.
func (o Outcome) full() string {
	var b strings.Builder
	for _, fault := range o.Faults {
		fmt.Fprintf(&b, "  %s\n", fault)
	}
	fmt.Fprintf(&b, "%s\n%s\nrun it again (its moments will differ a little): make chaos RUNS=1 SEED=%d", o.Plan, o.History, o.Plan.Seed)
	return b.String()
}

// save writes all that is known of a run to a file.
func (o Outcome) save(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	if err := os.WriteFile(path, []byte(o.full()+"\n"), 0o644); err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	return nil
}
