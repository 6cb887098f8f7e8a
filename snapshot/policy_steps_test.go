package snapshot

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

// overdue has a safety dump due for 10 s, and its last round began 5 min ago.
func overdue(change func(*TargetFacts)) TargetFacts {
	return with(with(workload("a", 8<<30), func(f *TargetFacts) {
		f.SoftDirty, f.Settings.RecoveryPoint = true, 10*time.Minute
		f.LastRound, f.LastDump = noon.Add(-5*time.Minute), noon.Add(-10*time.Minute-10*time.Second)
		f.Changes = []ChangePoint{{5 * time.Second, 1 << 20, 0}, {5 * time.Minute, 2 << 30, 0}}
	}), change)
}

func TestSteps(t *testing.T) {
	const due = 10 * time.Minute
	for _, c := range []struct {
		name   string
		target TargetFacts
		action Action
		in     time.Duration
	}{
		{"first round at once", TargetFacts{ID: "a", RSSBytes: 1 << 30}, ActionRound, 0},
		{"second round before the first safety dump", TargetFacts{ID: "a", RSSBytes: 1 << 20, LastRound: noon.Add(-time.Second)},
			ActionRound, 29 * time.Second},
		{"first safety dump once it is known what changes", with(workload("a", 1<<30), func(f *TargetFacts) {
			f.LastDump, f.LastCommit = time.Time{}, time.Time{}
		}), ActionDump, 0},
		{"next round", workload("a", 1<<30), ActionRound, 30 * time.Second},
		{"round that is overdue", with(workload("a", 1<<30), func(f *TargetFacts) { f.LastRound = noon.Add(-time.Minute) }), ActionRound, 0},
		{"safety dump that is due before the next round", with(workload("a", 1<<30), func(f *TargetFacts) {
			f.LastDump = noon.Add(-due + 20*time.Second)
		}), ActionDump, 20 * time.Second},
		{"round that is due before the next safety dump", with(workload("a", 1<<30), func(f *TargetFacts) {
			f.LastDump = noon.Add(-due + 40*time.Second)
		}), ActionRound, 30 * time.Second},
		{"overdue safety dump, a round shortens the freeze", overdue(func(*TargetFacts) {}), ActionRound, 0},
		{"the same after that round", overdue(func(f *TargetFacts) { f.LastRound = noon.Add(-5 * time.Second) }), ActionDump, 0},
		{"overdue safety dump, a round would not shorten the freeze", overdue(func(f *TargetFacts) {
			f.Changes = []ChangePoint{{5 * time.Second, 1 << 30, 0}, {5 * time.Minute, 1 << 30, 0}}
		}), ActionDump, 0},
		{"safety dumps as often as asked for", with(workload("a", 1<<30), func(f *TargetFacts) {
			f.Settings.RecoveryPoint, f.LastRound, f.LastDump = time.Minute, noon.Add(-10*time.Second), noon.Add(-time.Minute)
		}), ActionDump, 0},
		{"safety dumps that nobody goes back to", with(workload("a", 1<<30), func(f *TargetFacts) {
			f.Settings.FinalOnly, f.LastDump = true, time.Time{}
		}), ActionRound, 30 * time.Second},
		{"safety dumps longer than the target bears", with(workload("a", 8<<30), func(f *TargetFacts) {
			f.Settings.MaxFreeze, f.LastDump = time.Second, time.Time{}
		}), ActionRound, 30 * time.Second},
		{"busy", with(workload("a", 1<<30), func(f *TargetFacts) { f.Busy, f.LastDump = ActionRound, time.Time{} }), ActionNone, 0},
		{"off", with(workload("a", 1<<30), func(f *TargetFacts) { f.Settings.Off = true }), ActionNone, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.Cores = 32
			plan := plans(t, n, []TargetFacts{c.target})
			step := plan.Targets[0].Step
			require.Equal(t, c.action, step.Action)
			if c.action == ActionNone {
				require.Equal(t, Step{}, step)
				require.Zero(t, plan.Next)
				return
			}
			require.WithinDuration(t, noon.Add(c.in), step.At, time.Millisecond)
			require.Equal(t, step.At, plan.Next)
			require.Positive(t, step.Takes)
			require.Positive(t, step.CPU)
			require.Positive(t, step.BytesPerSecond)
		})
	}
}

func TestSafetyDumpsComeOneByOne(t *testing.T) {
	var targets []TargetFacts
	for i := range 3 {
		targets = append(targets, with(workload(fmt.Sprint(i), 1<<30), func(f *TargetFacts) {
			f.LastDump = noon.Add(-time.Hour - time.Duration(i)*time.Minute)
		}))
	}
	n := aws()
	n.Cores = 32
	plan := plans(t, n, targets)
	require.Equal(t, noon, plan.Targets[2].Step.At, "the longest due first")
	require.Equal(t, noon.Add(plan.Targets[2].Step.Takes), plan.Targets[1].Step.At)
	require.WithinDuration(t, plan.Targets[1].Step.At.Add(plan.Targets[1].Step.Takes), plan.Targets[0].Step.At, time.Millisecond)

	first := with(targets[0], func(f *TargetFacts) { f.ID, f.LastDump, f.LastCommit = "9", time.Time{}, time.Time{} })
	plan = plans(t, n, append(slices.Clone(targets), first))
	require.Equal(t, noon, plan.Targets[3].Step.At, "but a target without any comes before all others")

	targets[2].Busy = ActionDump
	plan = plans(t, n, targets)
	require.Equal(t, ActionNone, plan.Targets[2].Step.Action)
	require.True(t, plan.Targets[1].Step.At.After(noon), "one is under way")
}

func TestSafetyDumpsAreStretched(t *testing.T) {
	for _, c := range []struct {
		name     string
		rss      int64
		asked    time.Duration
		interval time.Duration
	}{
		{"the default", 1 << 30, 0, 10 * time.Minute},
		{"a large target", 60 << 30, 0, 77 * time.Minute},
		{"as asked for", 1 << 30, time.Minute, time.Minute},
		{"as asked for, large", 60 << 30, 20 * time.Minute, 20 * time.Minute},
		{"never most of the time", 60 << 30, time.Second, 4 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.Cores, n.UploadRates = 8, []float64{417e6}
			f := with(workload("a", c.rss), func(f *TargetFacts) { f.Settings.RecoveryPoint = c.asked })
			require.InEpsilon(t, c.interval.Seconds(), plans(t, n, []TargetFacts{f}).Targets[0].DumpInterval.Seconds(), 0.06)
		})
	}
}

func TestBounds(t *testing.T) {
	bounds := func(change func(*TargetFacts), beside ...TargetFacts) Bounds {
		return plans(t, aws(), append([]TargetFacts{with(workload("a", 16<<30), change)}, beside...)).Targets[0].Step.Bounds
	}
	share := 4 * DefaultPolicy().CPUShare
	require.InDelta(t, share, bounds(func(*TargetFacts) {}).CPU, 1e-9, "the whole share for who needs it")
	require.InDelta(t, share/2, bounds(func(*TargetFacts) {}, workload("b", 16<<30)).CPU, 1e-9)
	require.InDelta(t, 0.02, bounds(func(f *TargetFacts) { f.Settings.MaxCPU = 0.02 }).CPU, 1e-9)
	require.InDelta(t, 0.01, bounds(func(f *TargetFacts) { f.Settings.MaxCPU, f.Throttled = 0.02, true }).CPU, 1e-9)
	require.InDelta(t, share, bounds(func(*TargetFacts) {}, with(workload("b", 16<<30), func(f *TargetFacts) { f.Settings.Off = true })).CPU, 1e-9)
	first := with(workload("b", 60<<30), func(f *TargetFacts) { f.LastRound = time.Time{} })
	small := plans(t, aws(), []TargetFacts{workload("a", 1<<28), first})
	require.Equal(t, 30*time.Second, small.Targets[0].Interval, "a first round does not slow the others down")
}

func TestOrderOfAnEvacuation(t *testing.T) {
	at := func(id string, priority int32, gibs int64) TargetFacts {
		return with(hot(id, gibs<<30, gibs<<29), func(f *TargetFacts) { f.Priority = priority })
	}
	ids := func(e *Evacuation) (in, last, left []string) {
		for _, s := range e.Order {
			if s.Alone {
				last = append(last, s.ID)
			} else {
				in = append(in, s.ID)
			}
		}
		for _, l := range e.Left {
			left = append(left, l.ID)
		}
		return in, last, left
	}
	for _, c := range []struct {
		name           string
		seconds        int
		targets        []TargetFacts
		in, last, left []string
	}{
		{"nobody", 30, nil, nil, nil, nil},
		{"shortest first among equals", 120, []TargetFacts{at("c", 0, 3), at("a", 0, 1), at("b", 0, 2)}, []string{"a", "b", "c"}, nil, nil},
		{"priority before length", 120, []TargetFacts{at("a", 0, 1), at("c", 9, 3), at("b", 5, 2)}, []string{"c", "b", "a"}, nil, nil},
		{"equals by name", 120, []TargetFacts{at("b", 0, 1), at("a", 0, 1)}, []string{"a", "b"}, nil, nil},
		{"lower priorities give way", 30, []TargetFacts{at("low", 0, 5), at("high", 9, 5)}, []string{"high"}, nil, []string{"low"}},
		{"as many as can be saved", 30, []TargetFacts{at("large", 0, 6), at("a", 0, 1), at("b", 0, 1), at("c", 0, 1)},
			[]string{"a", "b", "c"}, nil, []string{"large"}},
		{"one that cannot be saved takes nobody's time", 30, []TargetFacts{at("lost", 9, 60), at("low", 0, 2)}, []string{"low"}, nil, []string{"lost"}},
		{"a little late, and in nobody's way", 30, []TargetFacts{at("a", 0, 6)}, nil, []string{"a"}, nil},
		{"no time left", 5, []TargetFacts{at("a", 0, 1)}, nil, nil, []string{"a"}},
		{"begun already", 5, []TargetFacts{at("a", 9, 1), with(at("b", 0, 6), func(f *TargetFacts) { f.Evacuating = true })},
			[]string{"b"}, nil, []string{"a"}},
		{"off", 120, []TargetFacts{with(at("a", 0, 1), func(f *TargetFacts) { f.Settings.Off = true })}, nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.Deadline = noon.Add(time.Duration(c.seconds) * time.Second)
			in, last, left := ids(plans(t, n, c.targets).Evacuation)
			require.Equal(t, c.in, in, "in time")
			require.Equal(t, c.last, last, "last and alone")
			require.Equal(t, c.left, left, "left out")
		})
	}
}

func TestWhatIsLeftOutIsTold(t *testing.T) {
	n := gcp()
	n.Deadline = noon.Add(30 * time.Second)
	targets := []TargetFacts{
		with(hot("high", 5<<30, 5<<29), func(f *TargetFacts) { f.Priority = 1 }),
		with(hot("low", 5<<30, 5<<29), func(f *TargetFacts) { f.LastDump = noon.Add(-7 * time.Minute) }),
		with(hot("lost", 60<<30, 50<<30), func(f *TargetFacts) { f.LastCommit = time.Time{} }),
	}
	left := plans(t, n, targets).Evacuation.Left
	require.Len(t, left, 2)
	require.Equal(t, ReasonPriority, left[0].Reason)
	require.Equal(t, noon.Add(-7*time.Minute), left[0].RecoveryPoint)
	require.Contains(t, left[0].Message, "goes to targets of higher priority, or shorter ones of the same; the safety dump of 7m0s before remains")
	require.Equal(t, ReasonDeadline, left[1].Reason)
	require.Zero(t, left[1].RecoveryPoint)
	require.Contains(t, left[1].Message, "which is not enough; there is no safety dump to go back to")
}

func TestPreDumpBeforeTheFreeze(t *testing.T) {
	// Much has changed since a late round, little changes in the seconds of another.
	late := with(workload("a", 4<<30), func(f *TargetFacts) {
		f.LastRound = noon.Add(-10 * time.Minute)
		f.Changes = []ChangePoint{{5 * time.Second, 1 << 20, 0}, {10 * time.Minute, 2 << 30, 0}}
	})
	for _, c := range []struct {
		name    string
		seconds int
		target  TargetFacts
		pre     bool
	}{
		{"it stands still for much less", 120, late, true},
		{"there is no time for it", 30, late, false},
		{"nothing to gain right after a round", 120, workload("a", 4<<30), false},
		{"nothing to gain where the same pages change all the time", 120, hot("a", 4<<30, 1<<30), false},
		{"the freeze has begun", 120, with(late, func(f *TargetFacts) { f.Evacuating = true }), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.Deadline = noon.Add(time.Duration(c.seconds) * time.Second)
			step := plans(t, n, []TargetFacts{c.target}).Evacuation.Order[0]
			require.Equal(t, c.pre, step.PreDump)
			require.Equal(t, store.CodecZstd, step.Codec)
			if c.pre {
				require.Less(t, step.Still, step.Durable/2)
			}
		})
	}
}
