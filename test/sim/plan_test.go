package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Who makes the pods of a job.
const (
	bare        = "Pod"
	job         = "Job"
	statefulSet = "StatefulSet"
	replicaSet  = "ReplicaSet"
)

// rate is how often requests fail.
type rate struct{ fails, loses float64 }

// interruption is what happens to a node.
type interruption struct {
	node string
	at   time.Duration
	// window is how long the notice is; 0: none, the node is gone at once.
	window time.Duration
	// dies is when it is gone, counted from at; withdrawn is when the notice is taken back, 0: never.
	dies, withdrawn time.Duration
	// drains has another part evict the node's pods a while after the notice.
	drains time.Duration
}

// crash is the end of a process at one of its requests after a moment.
type crash struct {
	who string
	// after is the moment: "notice" on its node, "asked" by lifeboat-runtime, "written" a final generation.
	after string
	at    int
}

// plan is all that a seed chooses.
type plan struct {
	kind     string
	replicas int
	work     time.Duration
	restarts string // the pods' restartPolicy
	// safety has agents copy what runs, and take safety dumps.
	safety        bool
	interruptions []interruption
	crashes       []crash
	outages       []outage
	rates         [2]rate
	// calm is when faults end.
	calm time.Duration
	// restart is how long a process is away that has died.
	restart                 time.Duration
	dumpFails, restoreFails int
	// damaged is a part of a final generation that is damaged once it is written: "", "pack" or "manifest".
	damaged string
	// stale is for how long a second controller thinks that it leads, lag how far behind its cache is.
	stale, lag time.Duration
	// early schedules onto nodes under notice; terminating lets a Job replace pods early.
	early, terminating bool
	// hooked is when the webhook answers again that is down from the first interruption on.
	hooked time.Duration
	// twice is when the owner begins to make one pod more than it wants, for a while; 0: never.
	twice time.Duration
	// lies is how many writes the bucket says it has taken and has not.
	lies int
	// nodeGone is when the object of a node goes that has died.
	nodeGone time.Duration
	skew     map[string]time.Duration
}

// finite tells whether the job comes to an end.
func (p *plan) finite() bool { return p.kind == bare || p.kind == job }

// troubled tells whether anything is planned that may keep us from saving a job within its notice.
func (p *plan) troubled() bool {
	return len(p.crashes)+len(p.outages)+p.dumpFails+p.restoreFails > 0 || p.rates != [2]rate{} || p.damaged != "" || p.hooked+p.stale+p.twice > 0 || p.lies > 0
}

func seconds(lot *rand.Rand, from, to float64) time.Duration {
	return time.Duration((from + lot.Float64()*(to-from)) * float64(time.Second))
}

func oneOf[T any](lot *rand.Rand, all ...T) T { return all[lot.IntN(len(all))] }

func often(lot *rand.Rand, share float64) bool { return lot.Float64() < share }

// newPlan chooses. A history has few kinds of faults, so that what it does is not all outages.
func newPlan(lot *rand.Rand) *plan {
	p := &plan{
		kind: oneOf(lot, bare, job, job, statefulSet, replicaSet), replicas: oneOf(lot, 1, 1, 2), work: seconds(lot, 60, 200),
		safety: often(lot, 0.25), calm: 3 * time.Minute, restart: seconds(lot, 0.2, 12), nodeGone: seconds(lot, 15, 90),
		terminating: often(lot, 0.5), skew: map[string]time.Duration{},
	}
	p.restarts = "Always"
	if p.finite() {
		p.restarts = oneOf(lot, "Never", "Never", "OnFailure")
	}
	p.interrupt(lot)
	for range 1 + lot.IntN(3) {
		p.fault(lot)
	}
	return p
}

// interrupt chooses what happens to nodes.
func (p *plan) interrupt(lot *rand.Rand) {
	first := interruption{node: "a", at: seconds(lot, 8, 20), window: oneOf(lot, 30*time.Second, 30*time.Second, time.Minute, 2*time.Minute)}
	first.dies = first.window + seconds(lot, 0, 20)
	switch {
	case often(lot, 0.1):
		first.window, first.dies = 0, 0
	case often(lot, 0.1):
		first.withdrawn = seconds(lot, 0.5, first.window.Seconds())
	case often(lot, 0.15):
		first.dies = seconds(lot, 0.1, first.window.Seconds()) // too early
	case often(lot, 0.1):
		first.dies = first.window + seconds(lot, 30, 60) // late
	}
	if first.window > 0 && often(lot, 0.2) {
		first.drains = seconds(lot, 0.1, 10)
	}
	p.interruptions = append(p.interruptions, first)
	if often(lot, 0.35) {
		second := interruption{node: "b", at: first.at + seconds(lot, 0, 90), window: 30 * time.Second}
		second.dies = second.window + seconds(lot, 0, 10)
		if often(lot, 0.3) {
			second.window, second.dies = 0, 0
		}
		p.interruptions = append(p.interruptions, second)
	}
}

// fault adds one kind of trouble.
func (p *plan) fault(lot *rand.Rand) {
	first := p.interruptions[0]
	from := max(0, first.at+seconds(lot, -5, 40))
	switch lot.IntN(16) {
	case 0:
		p.rates[toAPI] = rate{fails: seconds(lot, 0, 0.3).Seconds(), loses: seconds(lot, 0, 0.2).Seconds()}
	case 1:
		p.rates[toBucket] = rate{fails: seconds(lot, 0, 0.3).Seconds(), loses: seconds(lot, 0, 0.2).Seconds()}
	case 2, 3:
		who := oneOf(lot, "", "", "agent a", "agent b", "controller", "kubelet a", "kubelet b")
		p.outages = append(p.outages, outage{kind: toAPI, who: who, from: from, to: from + seconds(lot, 1, 45), slow: often(lot, 0.4)})
	case 4:
		who := oneOf(lot, "", "agent a", "agent b")
		p.outages = append(p.outages, outage{kind: toBucket, who: who, from: from, to: from + seconds(lot, 1, 45), slow: often(lot, 0.4)})
	case 5, 6:
		p.crashes = append(p.crashes, crash{"agent a", "notice", 1 + lot.IntN(60)})
	case 7, 8:
		p.crashes = append(p.crashes, crash{oneOf(lot, "agent b", "agent c"), "asked", 1 + lot.IntN(40)})
	case 9:
		p.crashes = append(p.crashes, crash{"controller", oneOf(lot, "notice", "written"), 1 + lot.IntN(30)})
	case 10:
		p.stale, p.lag = seconds(lot, 10, 60), seconds(lot, 0.2, 10)
	case 11:
		p.dumpFails, p.restoreFails = oneOf(lot, 0, 1, 2), oneOf(lot, 0, 1, 1, 2, 4)
	case 12:
		p.damaged = oneOf(lot, "", "pack", "manifest")
		if often(lot, 0.3) {
			p.hooked = first.at + seconds(lot, 5, 60)
		}
		p.early = often(lot, 0.5)
	case 13:
		for _, who := range []string{"a", "b", "c", "controller"} {
			p.skew[who] = seconds(lot, -4, 4)
		}
	case 14:
		p.twice = first.at + seconds(lot, 0, 5)
		if often(lot, 0.7) { // so that their claims meet
			p.outages = append(p.outages, outage{kind: toAPI, who: "agent", from: first.at + 3*time.Second, to: first.at + 43*time.Second, slow: true})
		}
	case 15:
		p.lies = 1 + lot.IntN(2)
	}
}

func (p *plan) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d of %s, restartPolicy %s, work %s, calm at %s", p.replicas, p.kind, p.restarts, p.work, p.calm)
	for _, i := range p.interruptions {
		fmt.Fprintf(&out, "\n  node %s at %s: window %s, dies after %s, withdrawn after %s, drained after %s", i.node, i.at, i.window, i.dies, i.withdrawn, i.drains)
	}
	for _, c := range p.crashes {
		fmt.Fprintf(&out, "\n  %s dies at request %d after %s, back after %s", c.who, c.at, c.after, p.restart)
	}
	for _, o := range p.outages {
		fmt.Fprintf(&out, "\n  %s", o)
	}
	fmt.Fprintf(&out, "\n  API %v, bucket %v, dumps that fail %d, restores that fail %d, damaged %q, stale leader for %s with a cache %s behind, one pod too many at %s, writes that the bucket forgets %d",
		p.rates[toAPI], p.rates[toBucket], p.dumpFails, p.restoreFails, p.damaged, p.stale, p.lag, p.twice, p.lies)
	fmt.Fprintf(&out, "\n  scheduled early %v, webhook back at %s, Job replaces early %v, node objects go after %s, clocks %v, safety dumps %v",
		p.early, p.hooked, p.terminating, p.nodeGone, p.skew, p.safety)
	return out.String()
}
