package snapshot

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

// draws is how many random nodes each property is tried on.
const draws = 300

// upTo draws from 0 to most, small numbers as often as large ones.
func upTo(r *rand.Rand, most float64) int64 { return int64(math.Expm1(r.Float64() * math.Log1p(most))) }

func ago(r *rand.Rand, most time.Duration) time.Time {
	if r.IntN(5) == 0 {
		return time.Time{}
	}
	return noon.Add(-time.Duration(upTo(r, float64(most))))
}

func drawTarget(r *rand.Rand, id string) TargetFacts {
	t := TargetFacts{
		ID: id, Priority: int32(r.IntN(3)), RSSBytes: upTo(r, 1<<40), FileBytes: upTo(r, 1<<36),
		LastRound: ago(r, time.Hour), LastDump: ago(r, 3*time.Hour), LastCommit: ago(r, 3*time.Hour),
		ScanCPU: r.Float64(), CommitTime: time.Duration(upTo(r, 3e9)), Idle: r.IntN(5) == 0, Throttled: r.IntN(5) == 0,
		SoftDirty: r.IntN(2) == 0, Codecs: map[store.Codec]CodecFacts{},
		Settings: TargetSettings{Off: r.IntN(20) == 0, FinalOnly: r.IntN(10) == 0},
	}
	if r.IntN(4) == 0 {
		t.Settings.MaxCPU, t.Settings.RecoveryPoint = r.Float64(), time.Duration(upTo(r, 1e13))
	}
	if r.IntN(4) == 0 {
		t.Settings.MaxFreeze = time.Duration(upTo(r, 1e11))
	}
	for range r.IntN(40) {
		t.Changes = append(t.Changes, ChangePoint{
			Interval:  time.Millisecond + time.Duration(upTo(r, 1e12)),
			PageBytes: upTo(r, float64(t.RSSBytes)), FileBytes: upTo(r, float64(t.FileBytes)),
		})
	}
	for range r.IntN(15) {
		t.Freezes = append(t.Freezes, FreezePoint{RSSBytes: upTo(r, 1<<40), ChangedBytes: upTo(r, 1<<38), Took: time.Duration(upTo(r, 1e11))})
	}
	for _, c := range codecOrder {
		if r.IntN(3) == 0 {
			t.Codecs[c] = CodecFacts{Stored: r.Float64(), CPU: 4 * r.Float64()}
		}
	}
	return t
}

func drawNode(r *rand.Rand) (NodeFacts, []TargetFacts) {
	n := NodeFacts{
		Now: noon, Window: []time.Duration{30 * time.Second, 2 * time.Minute, time.Hour}[r.IntN(3)], Margin: 5 * time.Second,
		Cores: 0.3 + float64(upTo(r, 100)),
	}
	for range r.IntN(12) {
		n.UploadRates = append(n.UploadRates, float64(upTo(r, 4e9)))
	}
	var targets []TargetFacts
	for i := range 1 + r.IntN(12) {
		targets = append(targets, drawTarget(r, fmt.Sprintf("t%02d", i)))
	}
	return n, targets
}

func plans(t *testing.T, n NodeFacts, targets []TargetFacts) Plan {
	t.Helper()
	plan, err := DefaultPolicy().Plan(n, targets)
	require.NoError(t, err)
	return plan
}

// everyDraw tries a property on many random nodes, each named by its seed.
func everyDraw(t *testing.T, property func(t *testing.T, r *rand.Rand, n NodeFacts, targets []TargetFacts)) {
	for seed := range uint64(draws) {
		r := rand.New(rand.NewPCG(seed, 4))
		n, targets := drawNode(r)
		if !t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { property(t, r, n, targets) }) {
			return
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	n, targets := drawNode(r)
	for len(targets) < 30 {
		targets = append(targets, drawTarget(r, fmt.Sprintf("t%02d", len(targets))))
	}
	for b.Loop() {
		if _, err := DefaultPolicy().Plan(n, targets); err != nil {
			b.Fatal(err)
		}
	}
}

// requireNoBetter holds that no target of before is better off in after. Rounding may take a few µs, or a billionth.
func requireNoBetter(t *testing.T, before, after []TargetPlan) {
	t.Helper()
	for i, b := range before {
		a := after[i]
		least := b.Prediction.Durable - 5*time.Microsecond - b.Prediction.Durable/1e8
		require.GreaterOrEqual(t, a.Prediction.Durable, least, "target %s: %v became %v", b.ID, b, a)
		require.GreaterOrEqual(t, a.Verdict.Level, b.Verdict.Level, "target %s: %v became %v", b.ID, b, a)
	}
}

func TestMoreLoadIsNeverPredictedBetter(t *testing.T) {
	more := func(r *rand.Rand, bytes int64) int64 { return bytes + upTo(r, 1<<39) }
	for name, grow := range map[string]func(r *rand.Rand, t *TargetFacts){
		"memory": func(r *rand.Rand, t *TargetFacts) { t.RSSBytes = more(r, t.RSSBytes) },
		"files":  func(r *rand.Rand, t *TargetFacts) { t.FileBytes = more(r, t.FileBytes) },
		"one change": func(r *rand.Rand, t *TargetFacts) {
			if len(t.Changes) > 0 {
				c := &t.Changes[r.IntN(len(t.Changes))]
				c.PageBytes, c.FileBytes = more(r, c.PageBytes), more(r, c.FileBytes)
			}
		},
		"all changes": func(r *rand.Rand, t *TargetFacts) {
			factor := 1 + r.Float64()
			for i := range t.Changes {
				t.Changes[i].PageBytes = int64(float64(t.Changes[i].PageBytes) * factor)
			}
		},
		"a freeze": func(r *rand.Rand, t *TargetFacts) {
			if len(t.Freezes) > 0 {
				t.Freezes[r.IntN(len(t.Freezes))].Took += time.Duration(upTo(r, 1e11))
			}
		},
		"a late round": func(r *rand.Rand, t *TargetFacts) {
			if !t.LastRound.IsZero() {
				t.LastRound = t.LastRound.Add(-time.Duration(upTo(r, 1e12)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			everyDraw(t, func(t *testing.T, r *rand.Rand, n NodeFacts, targets []TargetFacts) {
				before := plans(t, n, targets)
				i := r.IntN(len(targets))
				targets[i].Changes, targets[i].Freezes = slices.Clone(targets[i].Changes), slices.Clone(targets[i].Freezes)
				grow(r, &targets[i])
				after := plans(t, n, targets)
				requireNoBetter(t, before.Targets[i:i+1], after.Targets[i:i+1])
				require.GreaterOrEqual(t, after.Durable, before.Durable-5*time.Microsecond-before.Durable/1e8)
			})
		})
	}
}

func TestMoreNeighboursAreNeverPredictedBetter(t *testing.T) {
	everyDraw(t, func(t *testing.T, r *rand.Rand, n NodeFacts, targets []TargetFacts) {
		before := plans(t, n, targets)
		after := plans(t, n, append(targets, drawTarget(r, "new")))
		requireNoBetter(t, before.Targets, after.Targets)
		require.GreaterOrEqual(t, after.Durable, before.Durable-5*time.Microsecond-before.Durable/1e8)
	})
}

func TestLessBandwidthIsNeverPredictedBetter(t *testing.T) {
	everyDraw(t, func(t *testing.T, r *rand.Rand, n NodeFacts, targets []TargetFacts) {
		n.UploadRates = append(n.UploadRates, float64(upTo(r, 4e9)))
		before := plans(t, n, targets)
		n.UploadRates[r.IntN(len(n.UploadRates))] *= r.Float64()
		after := plans(t, n, targets)
		requireNoBetter(t, before.Targets, after.Targets)
		require.GreaterOrEqual(t, after.Durable, before.Durable-5*time.Microsecond-before.Durable/1e8)
	})
}

func TestBudgetsAreNeverExceeded(t *testing.T) {
	p := DefaultPolicy()
	everyDraw(t, func(t *testing.T, _ *rand.Rand, n NodeFacts, targets []TargetFacts) {
		m := p.model(n, targets)
		m.grant()
		m.predict()
		var cpu, bytes float64
		for _, e := range m.estimates {
			cpu, bytes = cpu+e.bounds.CPU, bytes+e.bounds.BytesPerSecond
			most := p.TargetCPU
			if e.Settings.MaxCPU > 0 {
				most = e.Settings.MaxCPU
			}
			if e.Throttled {
				most /= 2
			}
			require.LessOrEqual(t, e.bounds.CPU, most)
			require.Positive(t, e.bounds.CPU)
			require.Positive(t, e.bounds.BytesPerSecond)
			require.LessOrEqual(t, e.takes(e.interval), e.interval*(1+1e-9), "a round ends before the next one begins")
			require.GreaterOrEqual(t, e.interval, p.MinInterval.Seconds())
			if e.interval > p.MaxInterval.Seconds() {
				require.Equal(t, e.floor, e.interval, "only the budgets stretch it further")
			}
			if still := e.load(e.gap(e.interval)).still(); e.dumpInterval > 0 && e.Settings.RecoveryPoint == 0 {
				require.LessOrEqual(t, still/e.dumpInterval, p.FreezeShare*(1+1e-9))
			} else if e.dumpInterval > 0 {
				require.LessOrEqual(t, still/e.dumpInterval, stillMost*(1+1e-9))
			}
		}
		require.LessOrEqual(t, cpu, p.CPUShare*n.Cores*(1+1e-9))
		require.LessOrEqual(t, bytes, p.NetworkShare*m.rate*(1+1e-9))
	})
}

func TestPlansAreSound(t *testing.T) {
	everyDraw(t, func(t *testing.T, r *rand.Rand, n NodeFacts, targets []TargetFacts) {
		plan := plans(t, n, targets)
		require.Equal(t, plan, plans(t, n, targets), "equal facts, equal plans")
		order := r.Perm(len(targets))
		turned := make([]TargetFacts, len(targets))
		for to, from := range order {
			turned[to] = targets[from]
		}
		again := plans(t, n, turned)
		for to, from := range order {
			require.Equal(t, plan.Targets[from], again.Targets[to], "the order of the facts does not matter")
		}
		var next time.Time
		dumps := map[time.Time]bool{}
		for i, p := range plan.Targets {
			require.NotEmpty(t, p.Verdict.Reason)
			require.NotEmpty(t, p.Verdict.Message)
			require.NotContains(t, p.Verdict.Message, "NaN")
			if targets[i].Settings.Off {
				require.Equal(t, TargetPlan{ID: p.ID, Verdict: p.Verdict}, p)
				continue
			}
			require.Positive(t, p.Prediction.Durable)
			require.GreaterOrEqual(t, p.Prediction.Uploaded, int64(0))
			require.NotEqual(t, ActionNone, p.Step.Action, "nobody is forgotten")
			require.False(t, p.Step.At.Before(n.Now), "an action in the past")
			require.False(t, p.Step.At.After(n.Now.Add(p.Interval)), "an action later than the interval")
			if p.Step.Action == ActionDump {
				require.False(t, dumps[p.Step.At] && p.Step.At.Before(noon.Add(1e8*time.Second)), "two dumps at a time")
				dumps[p.Step.At] = true
				require.Positive(t, p.DumpInterval)
			}
			if next.IsZero() || p.Step.At.Before(next) {
				next = p.Step.At
			}
		}
		require.Equal(t, next, plan.Next)
	})
}

func TestEvacuationsAreSound(t *testing.T) {
	everyDraw(t, func(t *testing.T, r *rand.Rand, n NodeFacts, targets []TargetFacts) {
		n.Deadline = noon.Add(time.Duration(upTo(r, 3e11)) - time.Minute)
		targets[0].Evacuating = r.IntN(4) == 0
		left := n.Deadline.Add(-n.Margin).Sub(noon)
		facts, inTime := map[string]TargetFacts{}, map[string]bool{}
		for _, f := range targets {
			if !f.Settings.Off {
				facts[f.ID] = f
			}
		}
		plan := plans(t, n, targets)
		seen := map[string]bool{}
		for _, s := range plan.Evacuation.Order {
			f, known := facts[s.ID]
			require.True(t, known && !seen[s.ID], s.ID)
			seen[s.ID] = true
			inTime[s.ID] = !s.Alone
			if !s.Alone && !f.Evacuating && !targets[0].Evacuating {
				require.LessOrEqual(t, s.Durable, left+time.Microsecond, s.ID)
			}
			require.LessOrEqual(t, s.Still, s.Durable+time.Microsecond)
		}
		for _, l := range plan.Evacuation.Left {
			require.False(t, seen[l.ID], l.ID)
			seen[l.ID] = true
			require.False(t, facts[l.ID].Evacuating)
			require.Contains(t, []string{ReasonPriority, ReasonDeadline}, l.Reason)
			require.NotEmpty(t, l.Message)
		}
		require.ElementsMatch(t, slices.Collect(maps.Keys(facts)), slices.Collect(maps.Keys(seen)))
		for _, p := range plan.Targets {
			require.Equal(t, ActionNone, p.Step.Action, "no rounds under notice")
		}

		// Whether a target is in time does not depend on those of lower priority.
		least := int32(r.IntN(3))
		among := slices.DeleteFunc(slices.Clone(targets), func(f TargetFacts) bool { return f.Priority < least && !f.Evacuating })
		for _, s := range plans(t, n, among).Evacuation.Order {
			if !s.Alone {
				require.True(t, inTime[s.ID], "target %s of priority %d gave way to a lower one", s.ID, facts[s.ID].Priority)
			}
		}
	})
}

// TestNobodyStarves runs the plans of a node for hours of its own time: whatever the others are, each target has its
// rounds and safety dumps.
func TestNobodyStarves(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			n := NodeFacts{Now: noon, Window: 30 * time.Second, Margin: 5 * time.Second, Cores: 4, UploadRates: []float64{6e7}}
			targets := make([]TargetFacts, 1+r.IntN(10))
			for i := range targets {
				targets[i] = TargetFacts{ID: fmt.Sprint(i), RSSBytes: upTo(r, 1<<36), Idle: r.IntN(4) == 0}
			}
			rounds, dumps := runPlans(t, n, targets, 200*time.Hour)
			for i, f := range targets {
				require.Greater(t, rounds[i]+dumps[i], 3, "rounds and dumps of target %d of %s", i, size(float64(f.RSSBytes)))
				require.Positive(t, dumps[i], "safety dumps of target %d of %s", i, size(float64(f.RSSBytes)))
			}
		})
	}
}

// runPlans carries plans out in a time of its own, at most 2000 of them, and returns how many rounds and dumps each
// target had. A hundredth of its memory changes whatever the interval.
func runPlans(t *testing.T, n NodeFacts, targets []TargetFacts, span time.Duration) (rounds, dumps []int) {
	rounds, dumps = make([]int, len(targets)), make([]int, len(targets))
	longest := make([]time.Duration, len(targets))
	type running struct{ began, ends time.Time }
	under := make([]running, len(targets))
	for range 2000 {
		if n.Now.Sub(noon) > span {
			break
		}
		next := noon.Add(2 * span)
		for i, p := range plans(t, n, targets).Targets {
			f := &targets[i]
			longest[i] = max(longest[i], p.Interval)
			if f.Busy == ActionNone && !p.Step.At.After(n.Now) {
				if !under[i].ends.IsZero() {
					require.LessOrEqual(t, n.Now.Sub(under[i].ends), longest[i]+time.Second, "target %d waits for longer than an interval", i)
				}
				longest[i] = 0
				f.Busy, under[i] = p.Step.Action, running{n.Now, n.Now.Add(p.Step.Takes)}
			}
			at := p.Step.At
			if f.Busy != ActionNone {
				at = under[i].ends
			}
			if at.Before(next) {
				next = at
			}
		}
		n.Now = next
		for i := range targets {
			f := &targets[i]
			if f.Busy == ActionNone || under[i].ends.After(n.Now) {
				continue
			}
			if !f.LastRound.IsZero() {
				f.Changes = append(f.Changes, ChangePoint{Interval: max(1, under[i].began.Sub(f.LastRound)), PageBytes: f.RSSBytes / 100})
			}
			if f.LastRound = under[i].began; f.Busy == ActionDump {
				f.LastDump, f.LastCommit = under[i].began, n.Now
				dumps[i]++
			} else {
				rounds[i]++
			}
			f.Busy = ActionNone
		}
	}
	return rounds, dumps
}
