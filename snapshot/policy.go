package snapshot

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/store"
)

// Policy decides when each target of a node is copied, how, and in which order a node is evacuated, and tells how long
// that would take. It holds settings alone: Plan is a function of the measured facts it is handed, without clock, I/O
// or memory, so equal facts make equal plans. docs/policy.md explains the model and every default.
type Policy struct {
	// WindowShare is the part of the window, 0 to 1, within which a notice is to be answered for a target to be Safe.
	WindowShare float64
	// CPUShare is the part of the node's cores, 0 to 1, that the rounds of all targets together may take.
	CPUShare float64
	// NetworkShare is the part of the upload rate, 0 to 1, that the rounds of all targets together may take.
	NetworkShare float64
	// TargetCPU is how much of one core the rounds of one target may take where its settings do not say.
	TargetCPU float64
	// Interval is from the begin of a round to that of the next while nothing presses. Pressure shortens it as far as
	// MinInterval and the shares allow; a quiet target has it doubled round by round up to MaxInterval.
	Interval, MinInterval, MaxInterval time.Duration
	// QuietBytes is how much may change from round to round of a target that counts as quiet.
	QuietBytes int64
	// RecoveryPoint is from one safety dump to the next where the target's settings do not say.
	RecoveryPoint time.Duration
	// FreezeShare is the part of its time that a target may stand still for safety dumps; RecoveryPoint is stretched
	// for it. It does not stretch what the target's settings ask for.
	FreezeShare float64
	// Reaction is from the provider's notice to the first freeze: hearing it, listing the targets, writing it down.
	Reaction time.Duration
	// Concurrency is how many targets are evacuated side by side, if there are as many cores.
	Concurrency int
	// UploadRate in bytes/s is taken where none was measured. It also tells long evacuations from short ones when they
	// are put in order, so that the order does not change with the link's mood.
	UploadRate float64
}

// DefaultPolicy returns the defaults; docs/policy.md says why they are what they are.
func DefaultPolicy() Policy {
	return Policy{
		WindowShare: 0.5, CPUShare: 0.015, NetworkShare: 0.25, TargetCPU: 0.25,
		Interval: 30 * time.Second, MinInterval: 5 * time.Second, MaxInterval: 10 * time.Minute, QuietBytes: 1 << 20,
		RecoveryPoint: 10 * time.Minute, FreezeShare: 0.005,
		Reaction: 2 * time.Second, Concurrency: atOnce, UploadRate: 62.5e6,
	}
}

// Validate joins all faults of the settings, each with its mend.
func (p Policy) Validate() error {
	var faults []error
	for _, s := range []struct {
		name  string
		value float64
	}{
		{"WindowShare", p.WindowShare}, {"CPUShare", p.CPUShare},
		{"NetworkShare", p.NetworkShare}, {"FreezeShare", p.FreezeShare},
	} {
		if !(s.value > 0 && s.value <= 1) {
			faults = append(faults, fmt.Errorf("%s is %v: set a part of the whole, more than 0 and at most 1", s.name, s.value))
		}
	}
	if !(p.TargetCPU > 0) || math.IsInf(p.TargetCPU, 0) {
		faults = append(faults, fmt.Errorf("setting TargetCPU is %v: set a number of cores above 0, for example 0.25", p.TargetCPU))
	}
	if !(p.UploadRate >= 1) || math.IsInf(p.UploadRate, 0) {
		faults = append(faults, fmt.Errorf("setting UploadRate is %v: set the bytes/s to count on where none were measured", p.UploadRate))
	}
	if p.MinInterval < time.Millisecond || p.Interval < p.MinInterval || p.MaxInterval < p.Interval {
		faults = append(faults, fmt.Errorf("intervals are %s, %s, %s: set MinInterval, Interval, MaxInterval in ascending order, from 1ms on",
			p.MinInterval, p.Interval, p.MaxInterval))
	}
	if p.RecoveryPoint < p.MinInterval {
		faults = append(faults, fmt.Errorf("RecoveryPoint is %s: set at least MinInterval, %s", p.RecoveryPoint, p.MinInterval))
	}
	if p.QuietBytes < 0 || p.Reaction < 0 {
		faults = append(faults, fmt.Errorf("QuietBytes is %d, Reaction is %s: set 0 or more", p.QuietBytes, p.Reaction))
	}
	if p.Concurrency < 1 {
		faults = append(faults, fmt.Errorf("setting Concurrency is %d: set 1 or more", p.Concurrency))
	}
	return errors.Join(faults...)
}

// MostFileBytes is how much of files can be uploaded between a notice and the deadline where nothing was before, however
// little they compress.
func (p Policy) MostFileBytes(window, margin time.Duration) int64 {
	return int64(p.UploadRate * max(0, window-margin-p.Reaction).Seconds())
}

// Action is what a target is to undergo.
type Action string

// The actions of a Step.
const (
	// ActionNone leaves the target alone.
	ActionNone Action = ""
	// ActionRound is a round of pre-dump.
	ActionRound Action = "round"
	// ActionDump is a safety dump. It takes the place of a round.
	ActionDump Action = "dump"
)

// Bounds are what an action may take of the node while it lasts.
type Bounds struct {
	// CPU is in cores: 0.1 is a tenth of one.
	CPU float64
	// BytesPerSecond is of uploading, after compression.
	BytesPerSecond float64
}

// Step is the next action of a target.
type Step struct {
	Action Action
	// At is when it is to begin, never before NodeFacts.Now; zero for ActionNone.
	At    time.Time
	Codec store.Codec
	Bounds
	// Takes is how long it is likely to take.
	Takes time.Duration
}

// Prediction tells what would happen on a notice that came at the worst moment, with rounds on time.
type Prediction struct {
	// Durable is from the notice to the commit, all targets of the node evacuated in their order.
	Durable time.Duration
	// Freeze is how much of it the target's memory takes to be read while frozen.
	Freeze time.Duration
	// Changed is how many raw bytes are then left to write, Uploaded what of them goes over the network.
	Changed, Uploaded int64
	// Codec is the fastest one for the window.
	Codec store.Codec
}

// TargetPlan is what Plan has to say on one target.
type TargetPlan struct {
	ID   string
	Step Step
	// Interval is from the begin of a round to that of the next; DumpInterval the same of safety dumps, 0 where there
	// are to be none.
	Interval, DumpInterval time.Duration
	Prediction             Prediction
	Verdict                Verdict
}

// Plan is what is to be done on a node.
type Plan struct {
	// Targets are in the order of the facts.
	Targets []TargetPlan
	// Durable is from a notice until every target of the node is durable, those included that would not be tried.
	Durable time.Duration
	// Evacuation is nil as long as there is no notice.
	Evacuation *Evacuation
	// Next is the earliest moment of a Step; zero where there is none.
	Next time.Time
}

// Plan decides for all targets of a node. It is to be called whenever a step has ended, a fact has changed or Next has
// come; targets that are Busy are left alone. Under a notice there are no steps, only the Evacuation. The error says
// which setting or fact of the node cannot be; faulty facts of one target, or what keeps it from being dumped, make that
// target Unprotected, stop its rounds and leave the others alone.
func (p Policy) Plan(node NodeFacts, targets []TargetFacts) (Plan, error) {
	if err := errors.Join(p.Validate(), node.Validate(), distinct(targets)); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	m := p.model(node, targets)
	m.grant()
	plan := Plan{Targets: make([]TargetPlan, len(targets))}
	for i, t := range targets {
		plan.Targets[i] = TargetPlan{ID: t.ID}
		if t.Settings.Off {
			plan.Targets[i].Verdict = Verdict{Unprotected, ReasonOff, "switched off in the target's settings; switch it on there"}
		} else if err := t.Validate(); err != nil {
			plan.Targets[i].Verdict = Verdict{Unprotected, ReasonFactsRefused, err.Error()}
		} else if len(t.Obstacles) > 0 {
			plan.Targets[i].Verdict = Verdict{Unprotected, t.Obstacles[0].Reason, obstacle.Text(t.Obstacles)}
		}
	}
	plan.Durable = seconds(m.predict())
	for _, e := range m.estimates {
		out := &plan.Targets[e.index]
		load := e.load(e.gap(e.interval))
		out.Interval, out.DumpInterval = seconds(e.interval), seconds(e.dumpInterval)
		out.Prediction = Prediction{
			Durable: seconds(e.predicted), Freeze: seconds(load.freeze), Codec: e.windowCodec,
			Changed: whole(load.changed), Uploaded: whole(load.uploaded),
		}
		out.Verdict = m.judge(e)
	}
	if !node.Deadline.IsZero() {
		plan.Evacuation = m.evacuation()
		return plan, nil
	}
	m.steps(plan.Targets)
	for _, t := range plan.Targets {
		if t.Step.Action != ActionNone && (plan.Next.IsZero() || t.Step.At.Before(plan.Next)) {
			plan.Next = t.Step.At
		}
	}
	return plan, nil
}
