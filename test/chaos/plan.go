// Package chaos has jobs handed over from node to node on the test bed while things go wrong at random: agents, the controller, the
// API server and nodes are killed, the bucket is slow or away, replacements come early, twice, or to a node that is dying itself.
// The jobs keep a count under an exclusive lease outside of the cluster and prove their memory and files; at the end of a run each of
// them must have done every step once, by one copy at a time, and whatever was lost must have been told.
//
// A seed gives a Plan, which says all but the moments at which things happen to meet.
package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// FaultKind is a way in which things go wrong.
type FaultKind string

// The faults. Source is the node that is interrupted first, target the other one.
const (
	SourceAgentKilled FaultKind = "source agent killed"
	TargetAgentKilled FaultKind = "target agent killed"
	ControllerKilled  FaultKind = "controller killed"
	APIServerDown     FaultKind = "API server down"
	SourceKilled      FaultKind = "source node killed"
	TargetKilled      FaultKind = "target node killed"
	BucketDown        FaultKind = "bucket down"
	BucketHangs       FaultKind = "bucket hangs"
	BucketSlow        FaultKind = "bucket slow"
	// ReplacedEarly: somebody deletes the source pods, so that their owner makes the replacement before there is anything to
	// go on from.
	ReplacedEarly FaultKind = "replaced early"
	// ReplacedTwice: a Deployment is scaled up in the hand-over, or the replacement is deleted, so that one more is made.
	ReplacedTwice FaultKind = "replaced twice"
	// TargetDying: the node that the replacements come to gets a notice as well, and the source dies.
	TargetDying FaultKind = "replaced on a dying node"
)

// FaultKinds are all of them.
var FaultKinds = []FaultKind{
	SourceAgentKilled, TargetAgentKilled, ControllerKilled, APIServerDown, SourceKilled, TargetKilled, BucketDown, BucketHangs, BucketSlow,
	ReplacedEarly, ReplacedTwice, TargetDying,
}

// Stage is how far a hand-over has come, as its Checkpoint shows it.
type Stage int

// The stages. Announced comes before anything is seen on a Checkpoint.
const (
	Announced Stage = iota
	Noticed
	Frozen
	Durable
	Released
	Claimed
	Restored
)

var stageNames = []string{"announced", "noticed", "frozen", "durable", "released", "claimed", "restored"}

// String names the stage.
func (s Stage) String() string { return stageNames[s] }

// stagesOf are the stages at which a fault can meet something; the others take all.
var stagesOf = map[FaultKind][2]Stage{
	SourceAgentKilled: {Announced, Released},
	TargetAgentKilled: {Durable, Restored},
	TargetKilled:      {Durable, Restored},
	BucketDown:        {Announced, Claimed},
	BucketHangs:       {Announced, Claimed},
	BucketSlow:        {Announced, Claimed},
	ReplacedEarly:     {Noticed, Durable},
	ReplacedTwice:     {Durable, Claimed},
	TargetDying:       {Durable, Restored},
}

// Return is how a node comes back that was killed.
type Return string

// The returns.
const (
	// Reboots: it comes back as it was.
	Reboots Return = "reboots"
	// Removed: the cloud removes the Node object, and later another machine takes the name.
	Removed Return = "is removed from the API"
	// OutOfService: an administrator says that it is gone for certain.
	OutOfService Return = "is tainted out-of-service"
)

// Fault is one thing that goes wrong.
type Fault struct {
	Kind FaultKind
	// Stage and Delay say when: so long after a Checkpoint of the job has come that far.
	Job   int
	Stage Stage
	Delay time.Duration
	// For is how long it lasts, where that has a meaning; Return what becomes of a node.
	For    time.Duration
	Return Return
}

// String is one line.
func (f Fault) String() string {
	s := fmt.Sprintf("%s %s after job %d is %s, for %s", f.Kind, f.Delay, f.Job, f.Stage, f.For)
	if f.Return != "" {
		s += ", the node " + string(f.Return)
	}
	return s
}

// JobKind is an owner of pods.
type JobKind string

// The owners.
const (
	Bare        JobKind = "pod"
	Job         JobKind = "job"
	IndexedJob  JobKind = "indexed"
	StatefulSet JobKind = "stateful"
	Deployment  JobKind = "deployment"
)

// JobKinds are all of them.
var JobKinds = []JobKind{Bare, Job, IndexedJob, StatefulSet, Deployment}

// JobPlan is one owner with its pods.
type JobPlan struct {
	Kind JobKind
	Pods int
	// Safety has safety dumps taken all the time.
	Safety bool
}

// Plan is one run.
type Plan struct {
	Seed   uint64
	Jobs   []JobPlan
	Source string
	// Settle is how long the jobs run before the notice, Window the time from the notice to the deadline.
	Settle, Window time.Duration
	Faults         []Fault
	// Dies says that the source dies when the hand-over is over; otherwise its notice is taken back. Return is how it comes back.
	Dies   bool
	Return Return
}

// maxPods bounds the pods of a run: more would only be slower.
const maxPods = 4

// Draw makes the plan of a seed.
func Draw(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 0x11feb0a7))
	p := Plan{Seed: seed, Source: []string{"a", "b"}[r.IntN(2)], Settle: millis(r, 0, 6000), Window: 2 * time.Minute, Dies: r.IntN(3) > 0, Return: Reboots}
	if r.IntN(4) == 0 {
		p.Window = millis(r, 8000, 20000)
	}
	kinds := slices.Clone(JobKinds)
	r.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	pods := 0
	for _, kind := range kinds[:1+r.IntN(3)] {
		j := JobPlan{Kind: kind, Pods: 1, Safety: r.IntN(2) == 0}
		if kind != Bare && kind != Job {
			j.Pods += r.IntN(2)
		}
		if pods += j.Pods; pods > maxPods {
			break
		}
		p.Jobs = append(p.Jobs, j)
	}
	for range 1 + r.IntN(3) {
		p.Faults = append(p.Faults, drawFault(r, &p))
	}
	return p
}

func drawFault(r *rand.Rand, p *Plan) Fault {
	f := Fault{Kind: FaultKinds[r.IntN(len(FaultKinds))], Job: r.IntN(len(p.Jobs)), Delay: millis(r, 0, 1500), For: millis(r, 500, 8000)}
	from, to := Announced, Restored
	if of, ok := stagesOf[f.Kind]; ok {
		from, to = of[0], of[1]
	}
	f.Stage = from + Stage(r.IntN(int(to-from)+1))
	if f.Kind == SourceKilled || f.Kind == TargetKilled {
		f.Return = []Return{Reboots, Reboots, Removed, OutOfService}[r.IntN(4)]
	}
	return f
}

// millis draws a time of whole milliseconds.
func millis(r *rand.Rand, from, to int) time.Duration {
	return time.Duration(from+r.IntN(to-from)) * time.Millisecond
}

// String says what the run is to be, in a few lines.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: node %s is interrupted after %s, with a window of %s", p.Seed, p.Source, p.Settle, p.Window)
	if p.Dies {
		fmt.Fprintf(&b, "; it dies after the hand-over and %s", p.Return)
	}
	for i, j := range p.Jobs {
		fmt.Fprintf(&b, "\n  job %d: %s of %d", i, j.Kind, j.Pods)
		if j.Safety {
			b.WriteString(", with safety dumps")
		}
	}
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "\n  %s", f)
	}
	return b.String()
}
