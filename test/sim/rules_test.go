package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
)

// errRule is what the API server refuses by the rules of the Checkpoint's schema.
var errRule = errors.New("a rule of the schema does not hold")

// dumpOf is a state of a container that was dumped.
type dumpOf struct {
	lineage int
	work    time.Duration
}

// final is a generation that a Checkpoint names.
type final struct {
	point    string
	number   int64
	epoch    int64
	lineage  *lineage
	damaged  bool
	restored int
}

func finalKey(c *v1alpha1.Checkpoint, number, epoch int64) string {
	return fmt.Sprintf("%s/%d/%d", c.UID, number, epoch)
}

// dumped notes a dump.
func (w *world) dumped(c *container) {
	w.note(c.m.name, "%s is dumped at %s", c, c.work)
	w.dumps[c.uid] = append(w.dumps[c.uid], dumpOf{c.lineage.id, c.work})
}

func (w *world) newLineage(c *container) *lineage {
	l := &lineage{id: len(w.lineages) + 1, kind: w.plan.kind}
	w.lineages[uint64(l.id)] = l
	return l
}

// excuse notes that a fault may have cost a lineage.
func (w *world) excuse(l *lineage, format string, args ...any) {
	if l == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(l.excuses, text) {
		l.excuses = append(l.excuses, text)
		w.note("excuse", "lineage %d: %s", l.id, text)
	}
}

// checkRun holds that a container may go on.
func (w *world) checkRun(c *container, how string) {
	if c.lineage.ended {
		w.broken("%s: %s goes on with lineage %d, which has come to its end", how, c, c.lineage.id)
	}
	for _, m := range w.nodes {
		for _, other := range m.containers {
			if other != c && other.lineage == c.lineage && other.state == running {
				w.broken("%s: %s runs, and so does %s, both lineage %d", how, c, other, c.lineage.id)
			}
		}
	}
	if c.work < c.lineage.reached && !w.rewinds(c) {
		w.broken("%s: %s goes on at %s with lineage %d, which had come to %s", how, c, c.work, c.lineage.id, c.lineage.reached)
	}
}

// rewinds tells whether a container goes back in time for a reason: from a safety generation, because its node is gone or the
// final one could not be restored.
func (w *world) rewinds(c *container) bool { return c.older && len(c.lineage.excuses) > 0 }

// excuseNode is that of the end of a node without a final generation.
const excuseNode = "its node has died without a final generation"

// checkRestore holds that what is restored is the claimed generation, as it was dumped, and for the first time.
func (w *world) checkRestore(c *container) {
	for _, p := range w.api.checkpoints() {
		claim, gen := p.Status.Claim, p.Status.Generation
		if claim == nil || string(claim.PodUID) != c.uid || gen == nil || claim.Generation != gen.Number {
			continue
		}
		if claim.Fallback != nil {
			gen = &claim.Fallback.Generation
		}
		c.older = !gen.Final
		c.generation = finalKey(p, gen.Number, gen.Epoch)
		f := w.finals[c.generation]
		if f == nil {
			w.broken("%s is restored from generation %d of %s, which was never durable", c, gen.Number, p.Name)
			return
		}
		if head, err := w.raw.Head(w.ctx, folderOf(p)); (err != nil || head.Epoch < p.Status.Epoch) && !w.forgot {
			w.broken("%s is restored under epoch %d, and the bucket is at %d: who was before may still commit (%v)", c, p.Status.Epoch, head.Epoch, err)
		}
		f.restored++
		if f.restored > 1 {
			w.broken("%s is restored from generation %d of %s, which has been restored before", c, gen.Number, p.Name)
		}
		if !slices.Contains(w.dumps[string(gen.PodUID)], dumpOf{c.lineage.id, c.work}) {
			w.broken("%s is restored with lineage %d at %s, which was never dumped of pod %s", c, c.lineage.id, c.work, gen.PodUID)
		}
		return
	}
	w.broken("%s is restored and its pod has no claim", c)
}

// checkExit judges the end of a container.
func (w *world) checkExit(c *container, was state) {
	if was != running && was != frozen || c.code == exitDone || c.lineage == nil {
		return
	}
	switch {
	case !c.m.alive:
	case was == frozen && w.isFinal(c):
	case w.drained[types.UID(c.uid)]:
		w.excuse(c.lineage, "its pod was drained")
	case w.gcOf(c):
		w.excuse(c.lineage, "its pod was removed by the control plane")
	default:
		w.broken("%s was %s at %s and is ended with code %d, and nothing will go on with it", c, was, c.work, c.code)
	}
}

// containerOf is the live container of a pod.
func (w *world) containerOf(pod types.UID) *container {
	for _, m := range w.nodes {
		for _, c := range m.containers {
			if c.uid == string(pod) && c.state != ended && c.lineage != nil {
				return c
			}
		}
	}
	return nil
}

// gcOf tells whether the owner no longer wants the container's pod.
func (w *world) gcOf(c *container) bool {
	return w.plan.kind != bare && w.api.now(key{"nodes", c.m.name}) == nil
}

// isFinal tells whether a Checkpoint names a final generation of the container's pod.
func (w *world) isFinal(c *container) bool {
	for _, p := range w.api.checkpoints() {
		if g := p.Status.Generation; g != nil && g.Final && string(g.PodUID) == c.uid {
			return true
		}
	}
	return false
}

// committed tells whether the bucket has a final generation of the container's pod.
func (w *world) committed(c *container) bool {
	for _, p := range w.api.checkpoints() {
		folder := folderOf(p)
		head, err := w.raw.Head(w.ctx, folder)
		if err != nil || head.Number == 0 {
			continue
		}
		r, err := w.raw.Open(w.ctx, folder, head.Number, head.WrittenEpoch)
		if err == nil && r.Meta().Final && r.Meta().PodUID == c.uid {
			return true
		}
	}
	return false
}

func folderOf(p *v1alpha1.Checkpoint) store.Target {
	return store.Target{Cluster: cluster, Namespace: namespace, Name: p.Name, UID: string(p.UID)}
}

// checkpointWritten holds the rules of the Checkpoint's schema, and what its new status says.
func (w *world) checkpointWritten(was, next *v1alpha1.Checkpoint) error {
	a, b := &was.Status, &next.Status
	switch {
	case b.Epoch < a.Epoch, a.Generation != nil && (b.Generation == nil || b.Generation.Number < a.Generation.Number),
		a.Claim != nil && (b.Claim == nil || b.Claim.Generation < a.Claim.Generation):
		return errRule
	case a.Claim != nil && b.Claim.Generation == a.Claim.Generation &&
		(b.Claim.PodUID != a.Claim.PodUID || b.Claim.NodeName != a.Claim.NodeName || b.Claim.Epoch != a.Claim.Epoch):
		return errRule
	case a.Generation != nil && !a.Generation.Final && b.Generation.PodUID == a.Generation.PodUID &&
		(b.Generation.Number != a.Generation.Number || b.Generation.Final):
		return errRule
	}
	if before, after := tell(a), tell(b); before != after {
		w.note("api", "checkpoint %s: %s", next.Name, after)
	}
	for _, c := range b.Conditions {
		if !v1alpha1.KnownReason(c.Type, c.Reason) {
			w.broken("condition %s of %s has the reason %s", c.Type, next.Name, c.Reason)
		}
	}
	if g := b.Generation; g != nil && (a.Generation == nil || a.Generation.Number != g.Number || a.Generation.Epoch != g.Epoch) {
		w.checkDurable(next, g)
	}
	if g := b.Safety; g != nil && (a.Safety == nil || a.Safety.Number != g.Number || a.Safety.Epoch != g.Epoch) {
		w.checkSafety(next, g)
	}
	return nil
}

// checkSafety holds that a safety generation that a Checkpoint names is there, and whole.
func (w *world) checkSafety(p *v1alpha1.Checkpoint, g *v1alpha1.GenerationReference) *final {
	k := finalKey(p, g.Number, g.Epoch)
	if f := w.finals[k]; f != nil {
		return f // promoted
	}
	f := &final{point: p.Name, number: g.Number, epoch: g.Epoch}
	w.finals[k] = f
	if err := w.whole(p, g); err != nil {
		w.broken("generation %d of %s is called durable: %v", g.Number, p.Name, err)
	}
	for _, m := range w.nodes {
		for _, c := range m.containers {
			if c.uid == string(g.PodUID) && c.lineage != nil {
				f.lineage = c.lineage
			}
		}
	}
	return f
}

// checkDurable holds that a generation that may be claimed is there, whole, and of a source that does not run.
func (w *world) checkDurable(p *v1alpha1.Checkpoint, g *v1alpha1.GenerationReference) {
	f := w.checkSafety(p, g)
	for _, m := range w.nodes {
		for _, c := range m.containers {
			if c.uid == string(g.PodUID) && c.state == running {
				w.broken("generation %d of %s may be claimed, and %s runs", g.Number, p.Name, c)
			}
		}
	}
	w.damage(p, f)
	w.arm("written", "controller")
}

// whole verifies a generation in the bucket.
func (w *world) whole(p *v1alpha1.Checkpoint, g *v1alpha1.GenerationReference) error {
	r, err := w.raw.Open(w.ctx, folderOf(p), g.Number, g.Epoch)
	if err != nil {
		return err
	}
	if r.Meta().PodUID != string(g.PodUID) {
		return fmt.Errorf("it is of pod %s", r.Meta().PodUID)
	}
	report, err := r.Verify(w.ctx, store.VerifyOptions{})
	if err == nil && len(report.Faults) > 0 {
		err = report.Faults[0].Err
	}
	return err
}

// damage spoils a part of a generation in the bucket, where that is planned.
func (w *world) damage(p *v1alpha1.Checkpoint, f *final) {
	if w.plan.damaged == "" || w.damagedAny || w.since() > w.plan.calm {
		return
	}
	w.damagedAny, f.damaged = true, true
	for info, err := range w.bucket.List(w.ctx, folderOf(p).Prefix()) {
		w.must(err)
		if base(info.Key) != w.plan.damaged {
			continue
		}
		stream, err := w.bucket.Get(w.ctx, info.Key, 0, -1)
		w.must(err)
		body := make([]byte, info.Size)
		_, err = stream.Read(body)
		w.must(err)
		body[len(body)/2] ^= 1
		_, err = w.bucket.Put(w.ctx, info.Key, body, store.Condition{})
		w.must(err)
	}
	w.note("bucket", "every %s of %s is damaged", w.plan.damaged, p.Name)
	w.excuse(f.lineage, "its generation was damaged")
}

// agentDown notes what the end of an agent may cost, and looks whether what is durable is still there.
func (w *world) agentDown(m *machine) { w.claimsLost(m, "an agent died while it restored") }

// nodeDies notes what the end of a node may cost.
func (w *world) nodeDies(m *machine) {
	w.claimsLost(m, "a node died while it restored")
	for _, c := range m.containers {
		if (c.state == running || c.state == frozen) && !w.isFinal(c) {
			w.excuse(c.lineage, excuseNode)
		}
	}
}

// claimsLost excuses what was being restored on a node, and verifies what waits to be.
func (w *world) claimsLost(m *machine, why string) {
	for _, p := range w.api.checkpoints() {
		s := &p.Status
		if g := s.Generation; g != nil {
			f := w.finals[finalKey(p, g.Number, g.Epoch)]
			if s.Claim != nil && s.Claim.Generation == g.Number && s.Claim.NodeName == m.name && !s.IsTrue(v1alpha1.ConditionRestored) {
				w.excuse(f.lineage, "%s", why)
			}
			if s.Claim == nil || s.Claim.Generation < g.Number {
				w.checkWhole(p, f)
			}
		}
	}
}

// checkWhole holds that a generation that nobody has claimed is still there.
func (w *world) checkWhole(p *v1alpha1.Checkpoint, f *final) {
	if f == nil || f.damaged {
		return
	}
	if err := w.whole(p, p.Status.Generation); err != nil {
		w.broken("generation %d of %s was durable: %v", f.number, p.Name, err)
	}
}

// restoreFailed notes that CRIU has failed.
func (w *world) restoreFailed(c *container) {
	w.note(c.m.name, "CRIU fails to restore %s", c)
	for _, p := range w.api.checkpoints() {
		if claim := p.Status.Claim; claim != nil && string(claim.PodUID) == c.uid {
			g := p.Status.Generation
			w.excuse(w.finals[finalKey(p, g.Number, g.Epoch)].lineage, "CRIU failed to restore it")
		}
	}
}

// inspect holds what has to hold at every moment.
func (w *world) inspect() {
	for _, m := range w.nodes {
		if !m.alive || m.agent.gone.Load() {
			continue
		}
		for _, c := range m.containers {
			if c.state == frozen && time.Now().After(w.thawsBy(c)) && !w.isFinal(c) && !w.committed(c) {
				w.broken("%s is frozen since %s and should not be any more since %s", c, w.at(c.froze), w.at(w.thawsBy(c)))
			}
		}
	}
}

// thawsBy is when a frozen container without a final generation has to run again: 5 s after the deadline, or after whatever
// has kept its agent from seeing to it.
func (w *world) thawsBy(c *container) time.Time {
	by := c.deadline
	if begun := c.froze.Add(30 * time.Second); c.deadline.IsZero() {
		by = c.froze.Add(10 * time.Second)
	} else if c.deadline.Sub(c.froze) < margin && begun.After(by) {
		by = begun // it was begun too late for the notice, and tried all the same
	}
	slack := 5 * time.Second
	disturbed := func(at time.Time) {
		if at.Add(15*time.Second).After(by) && !at.After(time.Now()) {
			by, slack = at, 20*time.Second
		}
	}
	for _, o := range w.plan.outages {
		if begun := w.begun.Add(o.from); !begun.After(time.Now()) {
			end := w.begun.Add(min(o.to, w.plan.calm))
			if end.After(time.Now()) {
				return time.Now().Add(time.Hour)
			}
			disturbed(end)
		}
	}
	disturbed(c.m.agent.begun)
	if r := w.plan.rates; r[toAPI].fails+r[toBucket].fails+r[toAPI].loses+r[toBucket].loses > 0 {
		slack = 20 * time.Second
	}
	return by.Add(slack)
}

// settled tells whether every job runs, or has ended.
func (w *world) settled() bool {
	last := w.plan.interruptions[len(w.plan.interruptions)-1]
	if w.since() < last.at+max(last.dies, last.withdrawn)+time.Second {
		return false
	}
	alive := 0
	for _, m := range w.nodes {
		for _, c := range m.containers {
			switch {
			case c.state == ended:
			case c.state != running:
				return false
			default:
				alive++
			}
		}
	}
	if !w.plan.finite() {
		return alive >= w.plan.replicas && w.since() > w.plan.calm
	}
	return alive == 0 && w.finished()+w.lost() >= w.plan.replicas
}

func (w *world) finished() int {
	n := 0
	for _, l := range w.lineages {
		if l.ended {
			n++
		}
	}
	return n
}

// lost counts bare pods that nobody makes again.
func (w *world) lost() int {
	if w.plan.kind != bare {
		return 0
	}
	n := 0
	for i := range w.plan.replicas {
		name := fmt.Sprintf("%s-%d", ownerName, i)
		pod := w.api.pod(name)
		point, _ := w.api.now(key{"checkpoints", name}).(*v1alpha1.Checkpoint)
		given := point == nil
		if point != nil {
			c := point.Status.Condition(v1alpha1.ConditionProtectable)
			given = c != nil && c.Reason == v1alpha1.ReasonPodLost
		}
		if given && (pod == nil || pod.Status.Phase == corev1.PodFailed) {
			n++
		}
	}
	return n
}

// checkEnd holds what has to hold when all is over.
func (w *world) checkEnd() {
	if n := w.finished(); w.plan.finite() && n > w.plan.replicas && w.plan.twice == 0 {
		w.broken("%d jobs came to their end, of %d", n, w.plan.replicas)
	}
	alive := map[*lineage]bool{}
	for _, m := range w.nodes {
		for _, c := range m.containers {
			alive[c.lineage] = alive[c.lineage] || c.state == running
		}
	}
	w.checkLost(alive)
	for _, p := range w.api.checkpoints() {
		if g := p.Status.UnclaimedGeneration(); g != nil {
			w.checkWhole(p, w.finals[finalKey(p, g.Number, g.Epoch)])
		}
	}
}

// checkLost holds that what was lost is explained by a fault. Pods of a Job or ReplicaSet are interchangeable: one whose work
// was given up for good reason may have come back in the place of another.
func (w *world) checkLost(alive map[*lineage]bool) {
	spared, lost := 0, []*lineage(nil)
	for id := range uint64(len(w.lineages)) {
		switch l := w.lineages[id+1]; {
		case l.ended || alive[l]:
			spared += min(len(l.excuses), 1)
		case l.reached > 0 && !w.excused(l):
			lost = append(lost, l)
		}
	}
	if w.plan.kind == bare || w.plan.kind == statefulSet {
		spared = 0
	}
	for _, l := range lost[min(spared, len(lost)):] {
		w.broken("lineage %d was lost at %s, and no fault explains it", l.id, l.reached)
	}
}

// excused tells whether a fault explains that a lineage was lost.
func (w *world) excused(l *lineage) bool {
	if len(l.excuses) > 0 || w.plan.hooked+w.plan.twice > 0 {
		return true
	}
	for _, o := range w.plan.outages {
		if o.to-o.from > 10*time.Second {
			return true
		}
	}
	// The whole ladder is climbed within one create, whose time is bounded.
	return w.plan.rates[toAPI].fails > 0.15 || w.plan.rates[toBucket].fails > 0.15
}
