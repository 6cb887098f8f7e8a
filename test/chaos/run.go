package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
	"github.com/lifeboat-dev/lifeboat/test/e2e/lease"
)

// World is a bed with Lifeboat on it and the image of the counter.
type World struct {
	Bed   *bed.Cluster
	Kube  *deploy.Kube
	Image string
}

// Bounds of the phases of a run. They are generous: nothing here asserts on time.
const (
	beginTime    = 90 * time.Second
	handOverTime = 90 * time.Second
	settleTime   = 4 * time.Minute
	finishTime   = 90 * time.Second
	healTime     = 3 * time.Minute
	// silence is how long after its deadline a bare pod may be gone or have failed without a word on its Checkpoint.
	silence = time.Minute
)

// run is a Plan being carried out.
type run struct {
	*World
	*history
	plan   Plan
	logs   string
	jobs   []*job
	leases *lease.Server
	server string
	sight  *sight
	ranges map[string]netip.Prefix

	mu sync.Mutex
	// deadlines are of the nodes under notice.
	deadlines map[string]time.Time
	kills     []kill
	// noticedUntil is the latest deadline there was; deleted are the addresses of pods that somebody deleted who had a right to.
	noticedUntil time.Time
	deleted      map[string]bool
	injected     map[FaultKind]int
	// restarted are the bare pods that were lost and that their user has started again, silent those of them of which no
	// Checkpoint said so.
	restarted int
	silent    []string
	// failedSince is when a bare pod was first seen to have failed.
	failedSince map[string]time.Time
}

// kill is the death of a node.
type kill struct {
	node string
	at   time.Time
}

// Run carries out a plan and judges it; it leaves the bed well and without pods of its own. What it finds wrong is in the Outcome; logs
// of the bed are put into the folder logs then.
func (w *World) Run(ctx context.Context, p Plan, logs string) Outcome {
	began := time.Now()
	_ = os.RemoveAll(logs) // of an earlier run of the seed
	r := &run{
		World: w, history: &history{began: began}, plan: p, logs: logs, leases: &lease.Server{Recovers: true, Alone: map[string]bool{}},
		deadlines: map[string]time.Time{}, injected: map[FaultKind]int{}, failedSince: map[string]time.Time{}, deleted: map[string]bool{}, ranges: map[string]netip.Prefix{},
	}
	r.sight = &sight{history: r.history, points: map[types.UID]*seen{}}
	for i, jp := range p.Jobs {
		j := &job{JobPlan: jp, name: fmt.Sprintf("s%d-%s", p.Seed, jp.Kind), pods: p.Jobs[i].Pods}
		r.jobs = append(r.jobs, j)
		for _, name := range j.alone() {
			r.leases.Alone[name] = true
		}
	}
	var o Outcome
	err := r.serve(ctx, func(ctx context.Context) {
		o = r.judge(ctx, r.all(ctx))
		if len(o.Faults) > 0 {
			r.note("logs are in %s; %v", logs, deploy.CollectLogs(ctx, r.Bed, filepath.Join(logs, "at-the-end")))
		}
		for _, err := range []error{r.remove(ctx), r.heal(ctx)} {
			if err != nil {
				o.Faults = append(o.Faults, err.Error())
			}
		}
	})
	if len(o.Faults) == 0 && err == nil && o.Anew+o.Recovered == 0 {
		err = os.RemoveAll(r.healedLogs())
	}
	if err != nil {
		o.Faults = append(o.Faults, err.Error())
	}
	o.Plan, o.History, o.Took = p, r.history.String(), time.Since(began)
	if err := o.save(filepath.Join(logs, "report.txt")); err != nil {
		o.Faults = append(o.Faults, err.Error())
	}
	return o
}

// serve keeps leases and watches Checkpoints while do runs.
func (r *run) serve(ctx context.Context, do func(context.Context)) error {
	for _, name := range []string{"a", "b"} {
		n, err := r.Bed.Node(name)
		if err != nil {
			return err
		}
		if r.ranges[name], err = netip.ParsePrefix(n.PodRange); err != nil {
			return err
		}
	}
	listener, err := r.Bed.Listen()
	if err != nil {
		return err
	}
	r.server = listener.Addr().String()
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	served := make(chan error, 1)
	go func() { served <- r.leases.Serve(listener) }()
	wg.Go(func() {
		r.Kube.WatchCheckpoints(watching, namespace, func(c *v1alpha1.Checkpoint) {
			if strings.HasPrefix(c.Name, fmt.Sprintf("s%d-", r.plan.Seed)) {
				r.sight.see(c)
			}
		})
	})
	do(ctx)
	stop()
	wg.Wait()
	return errors.Join(ignoreClosed(listener.Close()), <-served)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// all is the run itself.
func (r *run) all(ctx context.Context) error {
	if err := r.remove(ctx); err != nil { // of a run that was cut off
		return err
	}
	for _, j := range r.jobs {
		if err := r.create(ctx, j); err != nil {
			return err
		}
	}
	if err := r.until(ctx, beginTime, "all jobs at work and protected", r.begun); err != nil {
		return err
	}
	r.note("all jobs are at work on node %s", r.plan.Source)
	if err := pause(ctx, r.plan.Settle); err != nil {
		return err
	}
	if err := r.interrupt(ctx, r.plan.Source, r.plan.Window); err != nil {
		return err
	}
	var wg sync.WaitGroup
	faults := make([]error, len(r.plan.Faults))
	for i, f := range r.plan.Faults {
		wg.Go(func() { faults[i] = r.suffer(ctx, f) })
	}
	wg.Wait()
	if err := errors.Join(faults...); err != nil {
		return err
	}
	for _, node := range []string{r.plan.Source, other(r.plan.Source)} {
		if err := r.conclude(ctx, node); err != nil {
			return err
		}
	}
	if err := errors.Join(r.keepLogs(), r.heal(ctx)); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.note("the jobs may end")
	r.sight.end()
	r.leases.End()
	return r.until(ctx, finishTime, "end of all jobs' work", r.finished)
}

// begun says whether all processes have made some steps and are protected.
func (r *run) begun(context.Context) (bool, string, error) {
	state, good := "", true
	for _, j := range r.jobs {
		protected := 0
		r.sight.of(j, func(p *seen) {
			if p.now.Status.IsTrue(v1alpha1.ConditionProtectable) {
				protected++
			}
		})
		stepping := 0
		for _, p := range r.current(j) {
			if p.Last > 5 {
				stepping++
			}
		}
		good = good && protected == j.Pods && stepping == j.Pods
		state += fmt.Sprintf("%s: %d protected, %d at work of %d; ", j.name, protected, stepping, j.Pods)
	}
	return good, state, nil
}

// processes are those of a job, the newest first.
func (r *run) processes(j *job) []process {
	var all []process
	for token, p := range r.leases.Processes() {
		if name, _, _ := strings.Cut(token, "/"); name == j.name || strings.HasPrefix(name, j.name+"-") {
			all = append(all, process{Process: p, token: token, name: name})
		}
	}
	slices.SortFunc(all, func(a, b process) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.token, b.token)) })
	return all
}

// process is one of a job.
type process struct {
	lease.Process
	token, name string
}

// current are the processes of a job that are to be at work: the newest ones of their names.
func (r *run) current(j *job) []process {
	all := r.processes(j)
	if j.Kind == Deployment {
		r.mu.Lock()
		defer r.mu.Unlock()
		return all[:min(len(all), j.pods)]
	}
	var out []process
	had := map[string]bool{}
	for _, p := range all {
		if !had[p.name] {
			out = append(out, p)
		}
		had[p.name] = true
	}
	return out
}

// on says whether a process was on that node last.
func (r *run) on(p process, node string) bool {
	address, err := netip.ParseAddr(p.Places[len(p.Places)-1])
	return err == nil && r.ranges[node].Contains(address)
}

// conclude waits until a node under notice is empty, as far as it will be, and ends the interruption: the node dies and comes back,
// or the notice is taken back.
func (r *run) conclude(ctx context.Context, node string) error {
	r.mu.Lock()
	deadline, noticed := r.deadlines[node]
	_, otherToo := r.deadlines[other(node)]
	r.mu.Unlock()
	if !noticed {
		return nil
	}
	if !otherToo { // otherwise there is nowhere to go
		err := r.until(ctx, handOverTime, "empty node "+node, func(context.Context) (bool, string, error) {
			left := r.leftOn(node)
			late := time.Now().After(deadline.Add(5 * time.Second))
			return len(left) == 0 || late, strings.Join(left, ", "), nil
		})
		r.note("the hand-over from node %s: still there are %v; %v", node, r.leftOn(node), err)
	}
	if r.plan.Dies || otherToo {
		return r.powerCycle(ctx, node, r.plan.Return, 0)
	}
	n, err := r.Bed.Node(node)
	if err != nil {
		return err
	}
	r.note("the notice to node %s is taken back", node)
	r.mu.Lock()
	delete(r.deadlines, node)
	r.mu.Unlock()
	return n.ClearNotice(ctx)
}

// leftOn are the jobs whose processes are on a node and may still leave it.
func (r *run) leftOn(node string) []string {
	var left []string
	for _, j := range r.jobs {
		if r.sight.unable(j, node) {
			continue
		}
		for _, p := range r.current(j) {
			if r.on(p, node) {
				left = append(left, p.token)
			}
		}
	}
	return left
}

// settle waits until all jobs are at work again. A bare pod that is lost is started again, as its user would.
func (r *run) settle(ctx context.Context) error {
	before := r.leases.Processes()
	return r.until(ctx, settleTime, "all jobs at work again", func(ctx context.Context) (bool, string, error) {
		state, good := "", true
		for _, j := range r.jobs {
			r.mu.Lock()
			want := j.pods
			r.mu.Unlock()
			stepping := 0
			for _, p := range r.current(j) {
				if p.Last >= before[p.token].Last+3 && time.Since(p.At) < 2*time.Second {
					stepping++
				}
			}
			if j.Kind == Bare && stepping == 0 {
				if err := r.restart(ctx, j); err != nil {
					state += err.Error() + "; "
				}
			}
			good = good && stepping == want
			state += fmt.Sprintf("%s: %d of %d at work; ", j.name, stepping, want)
		}
		return good, state, nil
	})
}

// restart starts a bare pod again that is lost, as soon as its Checkpoint says so.
func (r *run) restart(ctx context.Context, j *job) error {
	pods, err := r.podsOf(ctx, j)
	if err != nil {
		return err
	}
	if len(pods) > 1 || len(pods) == 1 && pods[0].Status.Phase != corev1.PodFailed {
		delete(r.failedSince, j.name)
		return nil
	}
	if r.failedSince[j.name].IsZero() {
		r.failedSince[j.name] = time.Now()
	}
	c, err := r.Kube.Checkpoint(ctx, namespace, j.name)
	told := false
	if err == nil {
		p := c.Status.Condition(v1alpha1.ConditionProtectable)
		told = p != nil && p.Status == metav1.ConditionFalse
	}
	r.mu.Lock()
	told = told || apierrors.IsNotFound(err) && j.ended
	late := time.Since(r.failedSince[j.name]) > silence && time.Since(r.noticedUntil) > silence
	r.mu.Unlock()
	if !told && !late {
		return err // it may still go on
	}
	r.note("%s is lost, and its user starts it again", j.name)
	if !told {
		r.silent = append(r.silent, j.name)
	}
	for i := range pods {
		now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pods[i].UID))}
		if err := r.Kube.CoreV1().Pods(namespace).Delete(ctx, pods[i].Name, now); err != nil {
			return err
		}
	}
	if err := r.create(ctx, j); err != nil {
		return err
	}
	delete(r.failedSince, j.name)
	j.ended = false
	r.restarted++
	return nil
}

// finished says whether every process has proven itself after its last step, and every owner is satisfied.
func (r *run) finished(ctx context.Context) (bool, string, error) {
	if faults := r.leases.Faults(); len(faults) > 0 {
		return false, "", errors.New("the leases were violated")
	}
	state, good := "", true
	for _, j := range r.jobs {
		proven := 0
		for _, p := range r.current(j) {
			if p.Proven {
				proven++
			}
		}
		done, what, err := r.satisfied(ctx, j)
		if err != nil {
			return false, "", err
		}
		good = good && done && proven == j.pods
		state += fmt.Sprintf("%s: %d of %d proven %s; ", j.name, proven, j.pods, what)
	}
	return good, state, nil
}

func (r *run) count(kind FaultKind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.injected[kind]++
}

// tally is a copy of what was injected.
func (r *run) tally() map[FaultKind]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.injected)
}
