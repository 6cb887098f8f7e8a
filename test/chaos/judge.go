package chaos

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Outcome is what became of a run.
type Outcome struct {
	Plan    Plan
	History string
	Took    time.Duration
	// Faults are what must not be. A run without any is a good one.
	Faults []string
	// Double counts steps of two copies at once or done twice, Torn processes that found their memory or files not to be what they
	// wrote, Unfinished jobs that did not come to their end.
	Double, Torn, Unfinished int
	// Processes is how many there were at the end, Moved how often one went on in another place without any loss.
	Processes, Moved int
	// Recovered counts processes that went on from an earlier step, Anew those that began anew, Restarted bare pods that their user
	// had to start again. Each was told, or is among the Faults.
	Recovered, Anew, Restarted int
	// Injected counts what met something to harm.
	Injected map[FaultKind]int
}

// judge looks at what became of the jobs. err is why the run did not come to its end, if it did not.
func (r *run) judge(ctx context.Context, err error) Outcome {
	o := Outcome{Plan: r.plan, Restarted: r.restarted, Injected: r.tally()}
	if err != nil {
		o.Faults = append(o.Faults, err.Error())
		for _, j := range r.jobs {
			o.Unfinished += r.unproven(j)
		}
	}
	for _, fault := range r.leases.Faults() {
		o.Faults = append(o.Faults, fault)
		if strings.Contains(fault, "differs from what was") {
			o.Torn++
		} else {
			o.Double++
		}
	}
	for _, j := range r.jobs {
		r.judgeJob(ctx, j, &o)
	}
	for _, name := range r.silent {
		o.Faults = append(o.Faults, fmt.Sprintf("%s was lost, and for %s its Checkpoint did not say so", name, silence))
	}
	for _, node := range []string{"a", "b"} {
		if err := r.nothingFrozen(ctx, node); err != nil {
			o.Faults = append(o.Faults, err.Error())
		}
	}
	return o
}

func (r *run) unproven(j *job) int {
	proven := 0
	for _, p := range r.current(j) {
		if p.Proven {
			proven++
		}
	}
	return max(0, j.pods-proven)
}

// judgeJob looks for what a job has lost, and whether that was told.
func (r *run) judgeJob(ctx context.Context, j *job, o *Outcome) {
	current := map[string]bool{}
	for _, p := range r.current(j) {
		current[p.token] = true
	}
	words := append(r.sight.told(j), r.events(ctx, j)...)
	final, backward := false, false
	r.sight.of(j, func(p *seen) { final, backward = final || p.final, backward || p.backward })
	for _, p := range r.processes(j) {
		for _, back := range p.Recoveries {
			r.note("%s went back from step %d to %d at %s", p.token, back.From, back.To, back.Place)
			if !backward {
				o.Faults = append(o.Faults, fmt.Sprintf("%s went back from step %d to %d, and no Checkpoint allows that", p.token, back.From, back.To))
			}
		}
		o.Recovered += len(p.Recoveries)
		o.Moved += len(p.Places) - 1 - len(p.Recoveries)
		if current[p.token] {
			o.Processes++
			continue
		}
		o.Anew++
		killed := r.killedWith(p)
		r.note("%s was at step %d at %s and went on nowhere; its node was killed: %t; told: %v", p.token, p.Last, p.Places[len(p.Places)-1], killed, words)
		switch {
		case len(words) > 0:
		case killed && !final, r.deletedWith(p):
		case final:
			o.Faults = append(o.Faults, fmt.Sprintf("%s was lost after step %d although a final generation was there, and nothing says why", p.token, p.Last))
		default:
			o.Faults = append(o.Faults, fmt.Sprintf("%s was lost after step %d, and nothing says why", p.token, p.Last))
		}
	}
}

// deletedWith says whether somebody deleted the pod that a process was in.
func (r *run) deletedWith(p process) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deleted[p.Places[len(p.Places)-1]]
}

// killedWith says whether the node that a process was on was killed after its last step, or just before that was heard of.
func (r *run) killedWith(p process) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.kills, func(k kill) bool { return r.on(p, k.node) && k.at.After(p.At.Add(-time.Second)) })
}

// events are the reasons of Events that own up to a loss, on pods of a job.
func (r *run) events(ctx context.Context, j *job) []string {
	list, err := r.Kube.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		r.note("events of %s: %s", j.name, err)
		return nil
	}
	found := map[string]bool{}
	for _, e := range list.Items {
		if e.Reason == v1alpha1.ReasonStartedClean && strings.HasPrefix(e.InvolvedObject.Name, j.name) {
			found["event "+e.Reason] = true
		}
	}
	return slices.Collect(maps.Keys(found))
}

// nothingFrozen waits until no container of a node stands still.
func (r *run) nothingFrozen(ctx context.Context, node string) error {
	n, err := r.Bed.Node(node)
	if err != nil {
		return err
	}
	const list = `runc --root /run/containerd/runc/k8s.io list -f json | jq -r '[.[]?|select(.status=="paused").annotations["io.kubernetes.cri.sandbox-name"]]|join(" ")'`
	return r.until(ctx, time.Minute, "node "+node+" without frozen containers", func(ctx context.Context) (bool, string, error) {
		out, err := n.Exec(ctx, "bash", "-c", list)
		if err != nil {
			return false, err.Error(), nil
		}
		frozen := strings.TrimSpace(string(out))
		return frozen == "", frozen, nil
	})
}
