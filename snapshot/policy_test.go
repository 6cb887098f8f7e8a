package snapshot

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
)

// aws is a node of AWS with 4 cores and a link of 0.75 Gb/s, of which two thirds are counted on.
func aws() NodeFacts {
	return NodeFacts{Now: noon, Window: 2 * time.Minute, Margin: 5 * time.Second, Cores: 4, UploadRates: []float64{62.5e6}}
}

func gcp() NodeFacts {
	n := aws()
	n.Window = 30 * time.Second
	return n
}

func with(f TargetFacts, change func(*TargetFacts)) TargetFacts {
	change(&f)
	return f
}

// hot changes that many bytes in 30 s, and nearly as many in 5 s.
func hot(id string, rss, changed int64) TargetFacts {
	return with(workload(id, rss), func(f *TargetFacts) {
		f.Changes = []ChangePoint{{5 * time.Second, changed / 10 * 9, 0}, {30 * time.Second, changed, 0}}
	})
}

func TestDefaultPolicyIsValid(t *testing.T) { require.NoError(t, DefaultPolicy().Validate()) }

func TestPolicyThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Policy)
		fault string
	}{
		{"no share of the window", func(p *Policy) { p.WindowShare = 0 }, "WindowShare is 0: set a part of the whole"},
		{"more than all cores", func(p *Policy) { p.CPUShare = 1.5 }, "CPUShare is 1.5"},
		{"share that is no number", func(p *Policy) { p.NetworkShare = math.NaN() }, "NetworkShare is NaN"},
		{"freeze share below zero", func(p *Policy) { p.FreezeShare = -1 }, "FreezeShare is -1"},
		{"endless cores", func(p *Policy) { p.TargetCPU = math.Inf(1) }, "TargetCPU is +Inf: set a number of cores"},
		{"no upload rate", func(p *Policy) { p.UploadRate = 0 }, "UploadRate is 0: set the bytes/s"},
		{"intervals the wrong way round", func(p *Policy) { p.MinInterval = time.Minute }, "MaxInterval in ascending order"},
		{"interval of nothing", func(p *Policy) { p.MinInterval = 0 }, "from 1ms on"},
		{"recovery point in no time", func(p *Policy) { p.RecoveryPoint = 0 }, "RecoveryPoint is 0s: set at least MinInterval"},
		{"reaction before the notice", func(p *Policy) { p.Reaction = -1 }, "set 0 or more"},
		{"nobody at a time", func(p *Policy) { p.Concurrency = 0 }, "Concurrency is 0: set 1 or more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := DefaultPolicy()
			c.spoil(&p)
			require.ErrorContains(t, p.Validate(), c.fault)
			_, err := p.Plan(aws(), nil)
			require.ErrorContains(t, err, c.fault)
		})
	}
}

func TestNodeThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*NodeFacts)
		fault string
	}{
		{"no moment", func(n *NodeFacts) { n.Now = time.Time{} }, "no moment of the plan: hand in Now"},
		{"no window", func(n *NodeFacts) { n.Window = 0 }, "set a window above 0"},
		{"margin as long as the window", func(n *NodeFacts) { n.Margin = n.Window }, "and a shorter margin"},
		{"no cores", func(n *NodeFacts) { n.Cores = 0 }, "the node has 0 cores: hand in"},
		{"cores that are no number", func(n *NodeFacts) { n.Cores = math.NaN() }, "has NaN cores"},
		{"upload in no time", func(n *NodeFacts) { n.UploadRates = []float64{math.Inf(1)} }, "leave out uploads that took no time"},
		{"upload backwards", func(n *NodeFacts) { n.UploadRates = []float64{-1} }, "upload rate is -1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			c.spoil(&n)
			require.ErrorContains(t, n.Validate(), c.fault)
			_, err := DefaultPolicy().Plan(n, nil)
			require.ErrorContains(t, err, c.fault)
		})
	}
	_, err := DefaultPolicy().Plan(aws(), []TargetFacts{workload("a", 1), workload("a", 2)})
	require.ErrorContains(t, err, `two targets are called "a": hand in each pod once`)
}

func TestFaultyFactsOfOneTargetLeaveTheOthersAlone(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*TargetFacts)
		fault string
	}{
		{"no name", func(f *TargetFacts) { f.ID = "" }, "ID is empty: name the pod"},
		{"less than no memory", func(f *TargetFacts) { f.RSSBytes = -1 }, "measure again"},
		{"less than no files", func(f *TargetFacts) { f.FileBytes = -1 }, "measure again"},
		{"change in no time", func(f *TargetFacts) { f.Changes = []ChangePoint{{0, 1, 1}} }, "leave out rounds without an interval"},
		{"change below zero", func(f *TargetFacts) { f.Changes = []ChangePoint{{1, -1, 0}} }, "change of -1 and 0 bytes"},
		{"freeze below zero", func(f *TargetFacts) { f.Freezes = []FreezePoint{{1, 1, -1}} }, "freeze of -1ns"},
		{"ratio of nothing to nothing", func(f *TargetFacts) {
			f.Codecs = map[store.Codec]CodecFacts{store.CodecS2: {Stored: math.NaN()}}
		}, "codec s2 stores NaN of a byte"},
		{"endless scan", func(f *TargetFacts) { f.ScanCPU = math.Inf(1) }, "ScanCPU is +Inf"},
		{"commit below zero", func(f *TargetFacts) { f.CommitTime = -1 }, "CommitTime is -1ns"},
		{"setting below zero", func(f *TargetFacts) { f.Settings.RecoveryPoint = -1 }, "set 0 for the default"},
		{"CPU that is no number", func(f *TargetFacts) { f.Settings.MaxCPU = math.NaN() }, "NaN of a core"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := with(workload("bad", 1<<30), c.spoil)
			require.ErrorContains(t, bad.Validate(), c.fault)
			plan := plans(t, aws(), []TargetFacts{bad, workload("good", 1<<30)})
			require.Equal(t, Unprotected, plan.Targets[0].Verdict.Level)
			require.Equal(t, ReasonFactsRefused, plan.Targets[0].Verdict.Reason)
			require.Contains(t, plan.Targets[0].Verdict.Message, c.fault)
			require.Equal(t, ActionNone, plan.Targets[0].Step.Action)
			require.Equal(t, Safe, plan.Targets[1].Verdict.Level)

			n := aws()
			n.Deadline = noon.Add(time.Minute)
			evacuation := plans(t, n, []TargetFacts{bad, workload("good", 1<<30)}).Evacuation
			require.Len(t, evacuation.Order, 2)
			require.Equal(t, bad.ID, evacuation.Order[1].ID, "it is tried when nobody can be harmed")
			require.True(t, evacuation.Order[1].Alone)
		})
	}
}

func TestExtremes(t *testing.T) {
	most := int64(math.MaxInt64)
	for _, c := range []struct {
		name   string
		node   func(*NodeFacts)
		target func(*TargetFacts)
		level  Level
	}{
		{"nothing at all", nil, func(f *TargetFacts) { *f = TargetFacts{ID: "a"} }, AtRisk},
		{"empty target, all on time", nil, func(f *TargetFacts) { f.RSSBytes, f.Changes = 0, nil }, Safe},
		{"all the memory there can be", nil, func(f *TargetFacts) { f.RSSBytes, f.FileBytes, f.LastCommit = most, most, time.Time{} }, Unprotected},
		{"changes of all sizes", nil, func(f *TargetFacts) {
			f.RSSBytes = most
			f.Changes = []ChangePoint{{1, most, most}, {math.MaxInt64, most, most}, {1, 0, 0}, {math.MaxInt64, 0, 0}}
			f.LastCommit = time.Time{}
		}, Unprotected},
		{"freezes of all sizes", nil, func(f *TargetFacts) {
			f.Freezes = []FreezePoint{{0, 0, math.MaxInt64}, {most, most, 0}}
		}, AtRisk},
		{"free codecs", nil, func(f *TargetFacts) {
			f.Codecs = map[store.Codec]CodecFacts{store.CodecNone: {}, store.CodecS2: {}, store.CodecZstd: {}}
		}, Safe},
		{"link that is down", func(n *NodeFacts) { n.UploadRates = []float64{0} }, func(f *TargetFacts) { f.LastCommit = time.Time{} }, Unprotected},
		{"endless link and cores", func(n *NodeFacts) { n.UploadRates, n.Cores = []float64{math.MaxFloat64}, math.MaxFloat64 }, nil, Safe},
		{"hardly a core", func(n *NodeFacts) { n.Cores = 1e-9 }, nil, AtRisk},
		{"last round in the future", nil, func(f *TargetFacts) { f.LastRound, f.LastDump = noon.Add(time.Hour), noon.Add(time.Hour) }, Safe},
		{"last round when time began", nil, func(f *TargetFacts) { f.LastRound = time.Unix(0, 0) }, Safe},
		{"deadline long past", func(n *NodeFacts) { n.Deadline = time.Unix(0, 0) }, nil, Safe},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, f := aws(), workload("a", 1<<30)
			if c.node != nil {
				c.node(&n)
			}
			if c.target != nil {
				c.target(&f)
			}
			plan := plans(t, n, []TargetFacts{f, workload("other", 1<<20)})
			p := plan.Targets[0]
			require.Equal(t, c.level, p.Verdict.Level, p.Verdict.Message)
			require.NotContains(t, p.Verdict.Message, "NaN")
			require.Positive(t, p.Prediction.Durable)
			require.GreaterOrEqual(t, p.Prediction.Changed, int64(0))
			require.False(t, p.Step.Action != ActionNone && p.Step.At.Before(noon))
			require.GreaterOrEqual(t, p.Interval, DefaultPolicy().MinInterval)
		})
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name       string
		node       NodeFacts
		target     TargetFacts
		neighbours []TargetFacts
		level      Level
		reason     string
		message    string
	}{
		{name: "all well", node: aws(), target: workload("a", 1<<30), reason: ReasonWithinShare, message: "of a window of 2m0s, wanted within 1m0s"},
		{name: "off", node: aws(), target: with(workload("a", 1<<30), func(f *TargetFacts) { f.Settings.Off = true }),
			level: Unprotected, reason: ReasonOff, message: "switch it on"},
		{name: "small target before its first round", node: aws(), target: TargetFacts{ID: "a", RSSBytes: 1 << 28},
			level: AtRisk, reason: ReasonNoSafetyDump, message: "until the first safety dump"},
		{name: "large target before its first round", node: aws(), target: TargetFacts{ID: "a", RSSBytes: 60 << 30},
			level: Unprotected, reason: ReasonFirstRound, message: "the first round takes about"},
		{name: "restarted agent, large target", node: aws(), target: TargetFacts{ID: "a", RSSBytes: 60 << 30, LastCommit: noon},
			level: AtRisk, reason: ReasonFirstRound},
		{name: "no safety dump yet", node: aws(), target: with(workload("a", 1<<30), func(f *TargetFacts) { f.LastCommit = time.Time{} }),
			level: AtRisk, reason: ReasonNoSafetyDump},
		{name: "no safety dump wanted", node: aws(), target: with(workload("a", 1<<30), func(f *TargetFacts) {
			f.LastCommit, f.Settings.FinalOnly = time.Time{}, true
		}), reason: ReasonWithinShare},
		{name: "probe that bears no freeze", node: aws(), target: with(workload("a", 8<<30), func(f *TargetFacts) {
			f.LastCommit, f.Settings.MaxFreeze = time.Time{}, time.Second
		}), level: AtRisk, reason: ReasonFreezeTooLong, message: "give its liveness probe more failures"},
		{name: "memory that takes too long to read", node: gcp(), target: workload("a", 60<<30),
			level: AtRisk, reason: ReasonMemoryTooLarge, message: "kernel with soft-dirty"},
		{name: "more changes than the link takes", node: gcp(), target: hot("a", 8<<30, 3<<30),
			level: AtRisk, reason: ReasonChangesTooFast, message: "uploads 59.6 MiB a second"},
		{name: "the same, without a way back", node: gcp(), target: with(hot("a", 8<<30, 5<<30), func(f *TargetFacts) { f.Settings.FinalOnly = true }),
			level: Unprotected, reason: ReasonChangesTooFast},
		{name: "too many beside it", node: gcp(), target: hot("a", 4<<30, 1<<28), neighbours: []TargetFacts{
			hot("b", 4<<30, 1<<28), hot("c", 4<<30, 1<<28), hot("d", 4<<30, 1<<28), hot("e", 4<<30, 1<<28),
		}, level: AtRisk, reason: ReasonNeighbours, message: "it alone would take"},
		{name: "files that change too much", node: gcp(), target: with(workload("a", 1<<30), func(f *TargetFacts) {
			f.FileBytes = 20 << 30
			for i := range f.Changes {
				f.Changes[i].FileBytes = 6 << 30
			}
		}), level: AtRisk, reason: ReasonFilesTooLarge, message: "lifeboat.dev/exclude"},
		{name: "something that CRIU cannot dump", node: aws(), target: with(workload("a", 1<<30), func(f *TargetFacts) {
			f.Obstacles = []obstacle.Obstacle{{Reason: v1alpha1.ReasonIOUring, Message: "io_uring; without"}, {Reason: v1alpha1.ReasonMPTCP, Message: "no"}}
		}), level: Unprotected, reason: v1alpha1.ReasonIOUring, message: "IOUring: io_uring; without\nMPTCP: no"},
		{name: "rounds that do not come", node: gcp(), target: with(hot("a", 4<<30, 1<<28), func(f *TargetFacts) {
			f.LastRound = noon.Add(-time.Hour)
		}), level: AtRisk, reason: ReasonRoundsLate, message: "see the agent's log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plans(t, c.node, append([]TargetFacts{c.target}, c.neighbours...)).Targets[0]
			require.Equal(t, c.reason, p.Verdict.Reason, p.Verdict.Message)
			require.Equal(t, c.level, p.Verdict.Level, p.Verdict.Message)
			require.Contains(t, p.Verdict.Message, c.message)
		})
	}
	require.Equal(t, []string{"Safe", "AtRisk", "Unprotected"}, []string{Safe.String(), AtRisk.String(), Unprotected.String()})
}

func TestPace(t *testing.T) {
	quiet := func(last time.Duration) TargetFacts {
		return with(workload("a", 1<<30), func(f *TargetFacts) { f.Changes = []ChangePoint{{last, 4096, 0}} })
	}
	large := gcp()
	large.Cores = 64
	for _, c := range []struct {
		name     string
		node     NodeFacts
		target   TargetFacts
		interval time.Duration
	}{
		{"usual", aws(), workload("a", 1<<30), 30 * time.Second},
		{"before the first round", aws(), TargetFacts{ID: "a", RSSBytes: 1 << 20}, 5 * time.Second},
		{"quiet once", aws(), quiet(30 * time.Second), time.Minute},
		{"quiet again", aws(), quiet(time.Minute), 2 * time.Minute},
		{"quiet for long", aws(), quiet(9 * time.Minute), 10 * time.Minute},
		{"quiet no more", aws(), with(quiet(9*time.Minute), func(f *TargetFacts) {
			f.Changes = append(f.Changes, ChangePoint{10 * time.Minute, 1 << 28, 0})
		}), 30 * time.Second},
		{"idle although much changed before", aws(), with(workload("a", 1<<30), func(f *TargetFacts) { f.Idle = true }), time.Minute},
		{"idle, but too much would be left at that pace", large, with(workload("a", 1<<30), func(f *TargetFacts) {
			f.Idle, f.Changes = true, []ChangePoint{{30 * time.Second, 400 << 20, 0}}
			f.Codecs = map[store.Codec]CodecFacts{store.CodecZstd: {Stored: 0.9, CPU: 2.5}, store.CodecS2: {Stored: 0.9, CPU: 1.3}}
		}), 32 * time.Second},
		{"the prediction nears its share", large, with(workload("a", 22<<30), func(f *TargetFacts) {
			f.Changes = []ChangePoint{{10 * time.Second, 90 << 20, 0}, {20 * time.Second, 180 << 20, 0}, {30 * time.Second, 270 << 20, 0}}
		}), 22 * time.Second},
		{"the CPU that it may have does not allow more", aws(), with(workload("a", 8<<30), func(f *TargetFacts) {
			f.Settings.MaxCPU = 0.01
		}), 198 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.InDelta(t, c.interval.Seconds(), plans(t, c.node, []TargetFacts{c.target}).Targets[0].Interval.Seconds(), 2)
		})
	}
}

func TestCurve(t *testing.T) {
	of := func(limit int64, points ...ChangePoint) curve {
		return newCurve(points, func(p ChangePoint) int64 { return p.PageBytes }, limit)
	}
	at := func(seconds, bytes int64) ChangePoint {
		return ChangePoint{time.Duration(seconds) * time.Second, bytes, 0}
	}
	for _, c := range []struct {
		name    string
		curve   curve
		seconds float64
		bytes   float64
	}{
		{"nothing measured", of(1000), 1, 1000},
		{"what was measured", of(1000, at(10, 100)), 10, 100},
		{"in less time it may be as much", of(1000, at(10, 100)), 1, 100},
		{"in more time it may be as much more", of(1000, at(10, 100)), 30, 300},
		{"never more than there is", of(1000, at(10, 100)), 1e9, 1000},
		{"memory that has shrunk", of(50, at(10, 100)), 10, 50},
		{"between two, as the longer has it", of(1000, at(10, 100), at(100, 120)), 20, 120},
		{"between two, in proportion to the shorter", of(1000, at(10, 100), at(100, 500)), 20, 200},
		{"calm before counts no more than what came after", of(1000, at(100, 10), at(10, 200)), 100, 200},
		{"a short calm cannot hold what a long one shows", of(1000, at(10, 1), at(100, 500)), 10, 50},
		{"the highest of few", of(1000, at(10, 10), at(10, 300), at(10, 20)), 10, 300},
		{"one of ten may be out of line", of(1000, at(10, 9), at(10, 9), at(10, 9), at(10, 300), at(10, 9), at(10, 9),
			at(10, 9), at(10, 9), at(10, 9), at(10, 9)), 10, 9},
	} {
		t.Run(c.name, func(t *testing.T) { require.InDelta(t, c.bytes, c.curve.at(c.seconds), 1e-6) })
	}
	var old []ChangePoint
	for range keptPoints {
		old = append(old, at(10, 1))
	}
	require.InDelta(t, 1, of(1000, append([]ChangePoint{at(10, 999), at(10, 999)}, old...)...).at(10), 1e-6, "what is long ago counts no more")
}

func TestFreeze(t *testing.T) {
	for _, c := range []struct {
		name    string
		target  TargetFacts
		cores   float64
		seconds float64
	}{
		{"by the formula", TargetFacts{RSSBytes: 1 << 30}, 4, 0.43},
		{"soft-dirty", TargetFacts{RSSBytes: 1 << 30, SoftDirty: true}, 4, 0.12},
		{"half a core", TargetFacts{RSSBytes: 1 << 30}, 0.5, 0.86},
		{"twice as slow as the formula", TargetFacts{RSSBytes: 1 << 30, Freezes: []FreezePoint{{4 << 30, 0, 2840 * time.Millisecond}}}, 4, 0.86},
		{"the slowest of few", TargetFacts{RSSBytes: 1 << 30, Freezes: []FreezePoint{
			{4 << 30, 0, 2840 * time.Millisecond}, {4 << 30, 0, 10 * time.Millisecond},
		}}, 4, 0.86},
		{"not much faster than the formula", TargetFacts{RSSBytes: 1 << 30, Freezes: []FreezePoint{{4 << 30, 0, 1}}}, 4, 0.043},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.Cores = c.cores
			c.target.ID = "a"
			e := DefaultPolicy().model(n, []TargetFacts{c.target}).estimates[0]
			require.InDelta(t, c.seconds, e.freeze(0), 1e-6)
			require.InDelta(t, c.seconds+e.scale/min(1, c.cores), e.freeze(gib), 1e-6, "a second per GiB that changed")
		})
	}
}

func TestCodec(t *testing.T) {
	incompressible := map[store.Codec]CodecFacts{store.CodecNone: {1, 1}, store.CodecS2: {1, 1.1}, store.CodecZstd: {0.98, 2.5}}
	for _, c := range []struct {
		name          string
		bytes, cores  float64
		codecs        map[store.Codec]CodecFacts
		window, round store.Codec
	}{
		{"slow link: fewest bytes", 62.5e6, 4, nil, store.CodecZstd, store.CodecZstd},
		{"faster link, few cores: between", 417e6, 1, nil, store.CodecS2, store.CodecZstd},
		{"fast link, few cores: least CPU", 1250e6, 1, nil, store.CodecNone, store.CodecZstd},
		{"fast link, enough cores", 1250e6, 4, nil, store.CodecS2, store.CodecZstd},
		{"not worth the CPU of rounds", 62.5e6, 4, incompressible, store.CodecZstd, store.CodecNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.UploadRates, n.Cores = []float64{c.bytes}, c.cores
			p := plans(t, n, []TargetFacts{with(workload("a", 1<<30), func(f *TargetFacts) { f.Codecs = c.codecs })}).Targets[0]
			require.Equal(t, c.window, p.Prediction.Codec)
			require.Equal(t, ActionRound, p.Step.Action)
			require.Equal(t, c.round, p.Step.Codec)
		})
	}
}

func TestUploadRate(t *testing.T) {
	for _, c := range []struct {
		name  string
		rates []float64
		want  float64
	}{
		{"none measured", nil, 62.5e6},
		{"one", []float64{9}, 9},
		{"the slowest of few", []float64{9, 3, 7, 8}, 3},
		{"what four of five reach", []float64{9, 3, 7, 8, 5}, 5},
		{"down", []float64{0}, 1},
		{"the newest", append([]float64{1, 1, 1, 1, 1}, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9), 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.UploadRates = c.rates
			require.InDelta(t, c.want, DefaultPolicy().model(n, nil).rate, 1e-9)
			require.Equal(t, c.rates, n.UploadRates, "facts stay as they were")
		})
	}
}

func TestLevel(t *testing.T) {
	for _, c := range []struct {
		name   string
		wanted []float64
		budget float64
		each   float64
	}{
		{"enough for all", []float64{1, 2}, 3, math.Inf(1)},
		{"nobody", nil, 1, math.Inf(1)},
		{"equal parts", []float64{5, 5}, 4, 2},
		{"the small one has all it wants", []float64{9, 1, 9}, 5, 2},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.each, level(c.wanted, c.budget)) })
	}
}

func TestDurable(t *testing.T) {
	long, short := load{freeze: 8, work: 8, link: 2, commit: 1}, load{freeze: 1, work: 1, link: 2, commit: 1}
	for _, c := range []struct {
		name  string
		cores float64
		loads []load
		ends  []float64
		all   float64
	}{
		{"nobody", 4, nil, []float64{}, 0},
		{"one", 4, []load{short}, []float64{4}, 4},
		{"two share the link", 4, []load{short, short}, []float64{6, 6}, 6},
		{"one core, one after the other", 1, []load{short, short}, []float64{4, 8}, 8},
		{"behind a long freeze", 1, []load{long, short}, []float64{11, 22}, 22},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := aws()
			n.Cores = c.cores
			ends, all := DefaultPolicy().model(n, nil).durable(c.loads)
			require.Equal(t, c.ends, ends)
			require.InDelta(t, c.all, all, 1e-9)
		})
	}
}

func TestPredictionIsHeldBelowTheShare(t *testing.T) {
	n := gcp()
	n.Cores = 64
	hurried := func(perSecond int64) TargetPlan {
		return plans(t, n, []TargetFacts{with(workload("a", 22<<30), func(f *TargetFacts) {
			f.Changes = []ChangePoint{{10 * time.Second, 10 * perSecond, 0}, {30 * time.Second, 30 * perSecond, 0}}
		})}).Targets[0]
	}
	calm, held, beyond := hurried(1<<20), hurried(9<<20), hurried(40<<20)
	require.Less(t, calm.Prediction.Durable, 12*time.Second)
	require.Equal(t, 30*time.Second, calm.Interval)
	require.Equal(t, 12*time.Second, held.Prediction.Durable, "0.8 of half of 30 s")
	require.Less(t, held.Interval, calm.Interval)
	require.Equal(t, Safe, held.Verdict.Level)
	require.Greater(t, beyond.Prediction.Durable, 15*time.Second)
	require.Equal(t, AtRisk, beyond.Verdict.Level)
}

func TestRoundUnderWayCountsAsHalfDone(t *testing.T) {
	late := with(workload("a", 1<<30), func(f *TargetFacts) { f.LastRound = noon.Add(-10 * time.Minute) })
	busy := with(late, func(f *TargetFacts) { f.Busy = ActionRound })
	half := with(late, func(f *TargetFacts) { f.LastRound = noon.Add(-5 * time.Minute) })
	changed := func(f TargetFacts) int64 { return plans(t, aws(), []TargetFacts{f}).Targets[0].Prediction.Changed }
	require.Less(t, changed(busy), changed(late))
	require.Equal(t, changed(half), changed(busy))
}
