package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// sight is what was seen on the Checkpoints of a run.
type sight struct {
	history *history

	mu     sync.Mutex
	points map[types.UID]*seen
	// over says that the jobs may end: what is said from then on tells of no loss.
	over bool
}

// seen is one Checkpoint.
type seen struct {
	now  v1alpha1.Checkpoint
	line string
	// words are the conditions that it ever bore: "Type=Status/Reason".
	words map[string]bool
	// final says that a final generation waits, as far as was seen before the jobs could end, backward that one may be restored that
	// is not final.
	final, backward bool
}

func (s *sight) see(c *v1alpha1.Checkpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.points[c.UID]
	if p == nil {
		p = &seen{words: map[string]bool{}}
		s.points[c.UID] = p
	}
	p.now = *c
	for _, o := range c.Status.Conditions {
		if s.over {
			break
		}
		p.words[o.Type+"="+string(o.Status)+"/"+o.Reason] = true
	}
	if g := c.Status.UnclaimedGeneration(); !s.over {
		p.final = g != nil && g.Final
	}
	p.backward = p.backward || c.Status.Generation != nil && !c.Status.Generation.Final || c.Status.Claim != nil && c.Status.Claim.Fallback != nil
	if line := describe(c); line != p.line {
		p.line = line
		s.history.note("checkpoint %s: %s", c.Name, line)
	}
}

// end says that the jobs may end.
func (s *sight) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// describe is what matters of a Checkpoint in one line.
func describe(c *v1alpha1.Checkpoint) string {
	var b strings.Builder
	s := &c.Status
	if s.Pod != nil {
		fmt.Fprintf(&b, "%s on %s", s.Pod.Name, s.Pod.NodeName)
	}
	if g := s.Safety; g != nil {
		fmt.Fprintf(&b, ", safety %d", g.Number)
	}
	if g := s.Generation; g != nil {
		fmt.Fprintf(&b, ", generation %d (final: %t)", g.Number, g.Final)
	}
	if l := s.Claim; l != nil {
		fmt.Fprintf(&b, ", claim on %d by %s on %s", l.Generation, l.PodName, l.NodeName)
	}
	for _, o := range s.Conditions {
		if o.Type == v1alpha1.ConditionCurrent || o.Type == v1alpha1.ConditionTolerated || o.Type == v1alpha1.ConditionDumpable {
			continue
		}
		fmt.Fprintf(&b, ", %s=%s/%s", o.Type, o.Status, o.Reason)
		if o.Status == metav1.ConditionFalse {
			fmt.Fprintf(&b, " (%s)", strings.ReplaceAll(o.Message, "\n", "; "))
		}
	}
	return b.String()
}

// checkpoints are the newest states of all.
func (s *sight) checkpoints() []v1alpha1.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []v1alpha1.Checkpoint
	for _, p := range s.points {
		all = append(all, p.now)
	}
	return all
}

// of hands all Checkpoints of a job to look.
func (s *sight) of(j *job, look func(*seen)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.points {
		if p.now.Name == j.name || strings.HasPrefix(p.now.Name, j.name+"-") {
			look(p)
		}
	}
}

// stage is how far the farthest hand-over of the job has come.
func (s *sight) stage(j *job) Stage {
	far := Announced
	s.of(j, func(p *seen) { far = max(far, stageOf(&p.now.Status)) })
	return far
}

func stageOf(s *v1alpha1.CheckpointStatus) Stage {
	claimed := s.Claim != nil && s.Generation != nil && s.Claim.Generation == s.Generation.Number
	switch {
	case claimed && s.IsTrue(v1alpha1.ConditionRestored):
		return Restored
	case claimed:
		return Claimed
	case s.WaitingGeneration() != nil:
		return Released
	case s.UnclaimedGeneration() != nil:
		return Durable
	case s.Evacuating():
		return Noticed
	}
	return Announced
}

// told are the words on Checkpoints that own up to a loss.
func (s *sight) told(j *job) []string {
	var out []string
	s.of(j, func(p *seen) {
		for word := range p.words {
			for _, owns := range []string{
				v1alpha1.ConditionRestored + "=False/", v1alpha1.ConditionEvacuated + "=False/",
				v1alpha1.ConditionProtectable + "=False/" + v1alpha1.ReasonPodLost, v1alpha1.ConditionProtectable + "=False/" + v1alpha1.ReasonPodEnded,
			} {
				if strings.HasPrefix(word, owns) {
					out = append(out, word)
				}
			}
		}
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// unable says whether every Checkpoint of a pod of the job on that node says that it was not evacuated.
func (s *sight) unable(j *job, node string) bool {
	all := true
	s.of(j, func(p *seen) {
		c := p.now.Status.Condition(v1alpha1.ConditionEvacuated)
		if b := p.now.Status.Pod; b != nil && b.NodeName == node {
			all = all && c != nil && c.Status == metav1.ConditionFalse
		}
	})
	return all
}

// frozenFor is how long a process makes no step before it counts as frozen.
const frozenFor = 300 * time.Millisecond
