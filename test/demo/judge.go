package demo

import (
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// runtimeDelay is how late the container runtime may stamp a line that was written before the freeze.
const runtimeDelay = time.Second

// Evidence is what the demo has seen. Judge decides from it alone.
type Evidence struct {
	FromNode string
	// ToNode is the node of the pod that went on.
	ToNode string
	// Announced is when the metadata service began to announce the interruption; nil where it never did.
	Announced stamp
	Timeline  v1alpha1.Timeline
	// Generation is the one that was restored; nil where none was made.
	Generation *v1alpha1.GenerationReference
	// Before and After are the container logs of the two pods, After read once more when the job had ended.
	Before, After Output
	// Volume is the job's log file in its emptyDir, read by exec in the restored pod.
	Volume Output
	// Reference is an uninterrupted run of the same job.
	Reference Output
	// Samples are looks at the processes of both nodes while the job was handed over.
	Samples []Sample
	// ExecToken is the token that an exec in the restored pod read.
	ExecToken string
	// ExitCode is the restored container's; -1 while it has not ended.
	ExitCode int
}

// Sample is one look at the job's processes on both nodes.
type Sample struct {
	At time.Time
	// Running counts the processes of the job on each node that were not frozen.
	Running map[string]int
}

// Check is one thing that must hold.
type Check struct {
	Name string
	OK   bool
	// Detail is the figure behind the verdict.
	Detail string
}

// Judge checks the evidence. The report passes only where every check is OK.
func Judge(e Evidence) (Report, []Check) {
	r := Report{
		FromNode: e.FromNode, ToNode: e.ToNode,
		LastStepBefore: e.Before.Last(), FirstStepAfter: first(e.After),
		SameToken: sameToken(e), DoubleRun: doubleRun(e),
	}
	fillMoments(&r, e)
	if e.Generation != nil {
		r.WindowBytes, r.RSSBytes = e.Generation.WindowBytes, e.Generation.RSSBytes
	}
	checks := []Check{
		checkTimeline(e),
		checkDeadline(r),
		{"another node", e.FromNode != "" && e.ToNode != "" && e.FromNode != e.ToNode, e.FromNode + " → " + e.ToNode},
		checkGeneration(e),
		{"same token in memory", r.SameToken, shortToken(e)},
		checkNextStep(e),
		checkVolume(e),
		checkReference(e),
		{"never ran twice", !r.DoubleRun && seen(e, e.FromNode) && seen(e, e.ToNode), fmt.Sprintf("%d looks at both nodes", len(e.Samples))},
		{"kubectl exec", len(e.Volume.Steps) > 0 && e.ExecToken != "" && e.ExecToken == tokenOf(e.After), "in the restored pod"},
		{"kubectl logs", len(e.After.Steps) > 0, fmt.Sprintf("%d lines of the restored pod", len(e.After.Steps))},
		checkEnd(e),
	}
	r.Pass = true
	for _, c := range checks {
		r.Pass = r.Pass && c.OK
	}
	return r, checks
}

func fillMoments(r *Report, e Evidence) {
	t := e.Timeline
	for _, m := range []struct {
		to   *Moment
		from stamp
	}{
		{&r.NoticeAt, e.Announced}, {&r.FrozenAt, t.Frozen}, {&r.DumpedAt, t.Dumped}, {&r.DurableAt, t.Durable},
		{&r.ReleasedAt, t.Released}, {&r.ResumedAt, t.Resumed}, {&r.Deadline, t.Deadline},
	} {
		if m.from != nil {
			*m.to = Moment(m.from.Time)
		}
	}
	if t.Frozen != nil && t.Resumed != nil {
		r.FreezeSeconds = t.Resumed.Sub(t.Frozen.Time).Seconds()
	}
}

func checkTimeline(e Evidence) Check {
	c := Check{Name: "moments in order", OK: true, Detail: "notice … resumed"}
	var before time.Time
	for _, m := range moments(e) {
		if m.at == nil {
			return Check{Name: c.Name, Detail: "never " + m.name}
		}
		if m.at.Time.Before(before) {
			return Check{Name: c.Name, Detail: m.name + " is earlier than the moment before it"}
		}
		before = m.at.Time
	}
	return c
}

func checkDeadline(r Report) Check {
	deadline, durable := time.Time(r.Deadline), time.Time(r.DurableAt)
	if deadline.IsZero() || durable.IsZero() {
		return Check{Name: "durable before the deadline", Detail: "no such moment"}
	}
	left := deadline.Sub(durable)
	return Check{"durable before the deadline", left > 0, fmt.Sprintf("%.1f s to spare", left.Seconds())}
}

func checkGeneration(e Evidence) Check {
	g := e.Generation
	if g == nil {
		return Check{Name: "final generation", Detail: "none committed"}
	}
	ok := g.Final && g.NodeName == e.FromNode && g.PodUID == e.Timeline.PodUID && g.StoredBytes > 0 && g.RSSBytes > 0
	detail := fmt.Sprintf("generation %d of node %s, %s stored of %s in memory",
		g.Number, g.NodeName, bytesText(g.StoredBytes), bytesText(g.RSSBytes))
	return Check{"final generation", ok, detail}
}

func checkNextStep(e Evidence) Check {
	last, next := e.Before.Last(), first(e.After)
	ok := last > 0 && next == last+1 && consecutive(e.Before.Steps, 1) && consecutive(e.After.Steps, next)
	return Check{"the very next step", ok, fmt.Sprintf("%d on %s, %d on %s", last, e.FromNode, next, e.ToNode)}
}

func checkVolume(e Evidence) Check {
	c := Check{Name: "emptyDir log continuous", Detail: fmt.Sprintf("steps 1 to %d, each once", e.Volume.Last())}
	said := append(append([]Step{}, e.Before.Steps...), e.After.Steps...)
	c.OK = len(e.Volume.Steps) > 0 && e.Volume.Last() == e.After.Last() && consecutive(e.Volume.Steps, 1) && sameSteps(e.Volume.Steps, said)
	return c
}

func checkReference(e Evidence) Check {
	c := Check{Name: "equal to an uninterrupted run", Detail: "losses and weights of every step"}
	c.OK = len(e.Volume.Steps) > 0 && e.Reference.Done != nil && sameSteps(e.Volume.Steps, e.Reference.Steps)
	return c
}

func checkEnd(e Evidence) Check {
	done := e.After.Done
	if done == nil {
		return Check{Name: "ended by itself", Detail: "no last line"}
	}
	ok := e.ExitCode == 0 && done.Steps == e.After.Last()
	return Check{"ended by itself", ok, fmt.Sprintf("exit code %d, accuracy %.1f %%", e.ExitCode, 100*done.Accuracy)}
}

// doubleRun says whether the job was seen to run in two places, or on the old node after it had been frozen.
func doubleRun(e Evidence) bool {
	seen := map[int]bool{}
	for _, s := range e.Before.Steps {
		if e.Timeline.Frozen != nil && s.At.After(e.Timeline.Frozen.Add(runtimeDelay)) {
			return true
		}
		seen[s.Number] = true
	}
	for _, s := range e.After.Steps {
		if seen[s.Number] {
			return true
		}
	}
	for _, s := range e.Samples {
		if s.Running[e.FromNode] > 0 && s.Running[e.ToNode] > 0 {
			return true
		}
	}
	return false
}

// seen says that the samples could tell: they saw the job run on this node.
func seen(e Evidence, node string) bool {
	return slices.ContainsFunc(e.Samples, func(s Sample) bool { return s.Running[node] > 0 })
}

func sameToken(e Evidence) bool {
	token := tokenOf(e.Before)
	if token == "" || len(e.After.Steps) == 0 || len(e.Volume.Steps) == 0 {
		return false
	}
	for _, o := range []Output{e.Before, e.After, e.Volume} {
		for _, s := range o.Steps {
			if s.Token != token {
				return false
			}
		}
	}
	return e.After.Done == nil || e.After.Done.Token == token
}

func tokenOf(o Output) string {
	if len(o.Steps) == 0 {
		return ""
	}
	return o.Steps[0].Token
}

func shortToken(e Evidence) string {
	token := tokenOf(e.Before)
	if len(token) > 16 {
		token = token[:16] + "…"
	}
	return token
}

func first(o Output) int {
	if len(o.Steps) == 0 {
		return 0
	}
	return o.Steps[0].Number
}

func consecutive(steps []Step, from int) bool {
	for i, s := range steps {
		if s.Number != from+i {
			return false
		}
	}
	return true
}

// sameSteps compares numbers, losses and weights; tokens and times differ from run to run.
func sameSteps(a, b []Step) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Number != b[i].Number || a[i].Loss != b[i].Loss || a[i].Weights != b[i].Weights {
			return false
		}
	}
	return true
}
