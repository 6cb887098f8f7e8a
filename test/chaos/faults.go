package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// errMissed says that a fault met nothing to harm.
var errMissed = errors.New("there was nothing to harm")

// stageTime bounds the wait for a fault's stage; then it comes all the same.
const stageTime = 25 * time.Second

// suffer has one fault happen at its moment, last as long as it is to, and end.
func (r *run) suffer(ctx context.Context, f Fault) error {
	j := r.jobs[f.Job]
	err := r.until(ctx, stageTime, "stage "+f.Stage.String(), func(context.Context) (bool, string, error) {
		stage := r.stage(j)
		return stage >= f.Stage, stage.String(), nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.note("%s: its stage has not come", f.Kind)
	}
	if err := pause(ctx, f.Delay); err != nil {
		return err
	}
	r.note("fault: %s (%s is %s)", f, j.name, r.stage(j))
	mend, err := r.inject(ctx, f, j)
	if err != nil {
		r.note("%s came to nothing: %s", f.Kind, err)
		return ctx.Err()
	}
	r.count(f.Kind)
	if mend == nil {
		return nil
	}
	if err := pause(ctx, f.For); err != nil {
		return err
	}
	if err := mend(ctx); err != nil {
		r.note("the end of %s: %s", f.Kind, err) // what is still broken at the end of the run is put right then, or fails it
		return nil
	}
	r.note("over: %s", f.Kind)
	return nil
}

// stage is how far the job's hand-over has come, as far as anybody outside can see.
func (r *run) stage(j *job) Stage {
	stage := r.sight.stage(j)
	if stage != Noticed {
		return stage
	}
	for _, p := range r.current(j) {
		if time.Since(p.At) > frozenFor {
			return Frozen
		}
	}
	return stage
}

// inject does what the fault is. What it returns, if anything, ends it.
func (r *run) inject(ctx context.Context, f Fault, j *job) (mend func(context.Context) error, err error) {
	source, target := r.plan.Source, other(r.plan.Source)
	switch f.Kind {
	case SourceAgentKilled:
		return nil, r.killProcess(ctx, source, "^lifeboat-agent run")
	case TargetAgentKilled:
		return nil, r.killProcess(ctx, target, "^lifeboat-agent run")
	case ControllerKilled:
		one, two := r.killProcess(ctx, source, "^lifeboat-controller"), r.killProcess(ctx, target, "^lifeboat-controller")
		if one != nil && two != nil {
			return nil, errors.Join(one, two)
		}
		return nil, nil
	case APIServerDown:
		return r.Bed.StartAPI, r.Bed.StopAPI(ctx)
	case BucketDown:
		return r.Bed.StartBucket, r.Bed.StopBucket(ctx)
	case BucketHangs:
		return r.Bed.ResumeBucket, r.Bed.PauseBucket(ctx)
	case BucketSlow:
		return nil, r.slowBucket(ctx, f.For)
	case SourceKilled, TargetKilled:
		node := source
		if f.Kind == TargetKilled {
			node = target
		}
		return nil, r.powerCycle(ctx, node, f.Return, f.For)
	case ReplacedEarly:
		return nil, r.deleteOn(ctx, j, source, 30)
	case ReplacedTwice:
		return nil, r.replaceTwice(ctx, j)
	case TargetDying:
		if err := r.interrupt(ctx, target, r.plan.Window); err != nil {
			return nil, err
		}
		return nil, r.powerCycle(ctx, source, Reboots, f.For)
	}
	return nil, fmt.Errorf("fault %q is not known", f.Kind)
}

func other(node string) string {
	if node == "a" {
		return "b"
	}
	return "a"
}

// killProcess ends processes of a node with SIGKILL, by the beginning of their command.
func (r *run) killProcess(ctx context.Context, node, pattern string) error {
	n, err := r.Bed.Node(node)
	if err != nil {
		return err
	}
	_, err = n.Exec(ctx, "pkill", "-KILL", "-f", pattern)
	return err
}

// slowBucket has the S3 server run for a tenth of the time.
func (r *run) slowBucket(ctx context.Context, d time.Duration) error {
	const on, off = 30 * time.Millisecond, 270 * time.Millisecond
	for until := time.Now().Add(d); time.Now().Before(until); {
		if err := errors.Join(r.Bed.PauseBucket(ctx), pause(ctx, off), r.Bed.ResumeBucket(context.WithoutCancel(ctx)), pause(ctx, on)); err != nil {
			return err
		}
	}
	return nil
}

// interrupt sends the notice that AWS sends.
func (r *run) interrupt(ctx context.Context, node string, in time.Duration) error {
	n, err := r.Bed.Node(node)
	if err != nil {
		return err
	}
	at := time.Now().Add(in).UTC().Truncate(time.Second)
	if err := n.Notice(ctx, "terminate", at); err != nil {
		return err
	}
	r.note("notice to node %s, for %s", node, at.Format(time.TimeOnly))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadlines[node] = at
	if at.After(r.noticedUntil) {
		r.noticedUntil = at
	}
	return nil
}

// deleteOn deletes the pods of a job on a node.
func (r *run) deleteOn(ctx context.Context, j *job, node string, graceSeconds int64) error {
	pods, err := r.podsOf(ctx, j)
	if err != nil {
		return err
	}
	deleted := 0
	for i := range pods {
		if pods[i].Spec.NodeName != node || pods[i].DeletionTimestamp != nil {
			continue
		}
		o := metav1.DeleteOptions{GracePeriodSeconds: &graceSeconds, Preconditions: metav1.NewUIDPreconditions(string(pods[i].UID))}
		if err := r.Kube.CoreV1().Pods(namespace).Delete(ctx, pods[i].Name, o); err != nil {
			return fmt.Errorf("delete pod %s: %w", pods[i].Name, err)
		}
		if node != r.plan.Source && pods[i].Status.PodIP != "" { // where it runs again by now, that is the end of it
			r.mu.Lock()
			r.deleted[pods[i].Status.PodIP] = true
			j.ended = j.Kind == Bare
			r.mu.Unlock()
		}
		r.note("deleted pod %s on node %s, with a grace of %d s", pods[i].Name, node, graceSeconds)
		deleted++
	}
	if deleted == 0 {
		return errMissed
	}
	return nil
}

// replaceTwice has a Deployment make one pod more than it had, or deletes the replacement, so that another one is made.
func (r *run) replaceTwice(ctx context.Context, j *job) error {
	if j.Kind != Deployment {
		return r.deleteOn(ctx, j, other(r.plan.Source), 1)
	}
	d, err := r.Kube.AppsV1().Deployments(namespace).Get(ctx, j.name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get deployment %s: %w", j.name, err)
	}
	d.Spec.Replicas = ptr.To(*d.Spec.Replicas + 1)
	if _, err := r.Kube.AppsV1().Deployments(namespace).Update(ctx, d, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("scale deployment %s: %w", j.name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	j.pods++
	return nil
}

// powerCycle kills a node and starts it again after some time. It returns when the node is ready.
func (r *run) powerCycle(ctx context.Context, name string, how Return, after time.Duration) error {
	n, err := r.Bed.Node(name)
	if err != nil {
		return err
	}
	if _, err := n.PID(); err != nil {
		return err
	}
	r.note("node %s is killed and %s", name, how)
	if err := n.Kill(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	r.kills = append(r.kills, kill{node: name, at: time.Now()})
	delete(r.deadlines, name)
	r.mu.Unlock()
	try := func(what string, do func(context.Context) error) error {
		return r.until(ctx, time.Minute, what, func(ctx context.Context) (bool, string, error) {
			err := do(ctx) // the API server may be down as well
			return err == nil, fmt.Sprint(err), nil
		})
	}
	switch how {
	case Removed:
		err = try("removal of node "+name, func(ctx context.Context) error {
			return r.Kube.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
		})
	case OutOfService:
		err = try("taint of node "+name, func(ctx context.Context) error { return r.outOfService(ctx, name, true) })
	}
	if err := errors.Join(err, pause(ctx, after)); err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	r.note("node %s is back", name)
	if how == OutOfService {
		return try("node "+name+" without taint", func(ctx context.Context) error { return r.outOfService(ctx, name, false) })
	}
	return nil
}

// outOfService puts the taint onto a node that says that it is gone for certain, or takes it off.
func (w *World) outOfService(ctx context.Context, name string, on bool) error {
	mark := corev1.TaintNodeOutOfService + "=nodeshutdown:NoExecute"
	if !on {
		mark = corev1.TaintNodeOutOfService + "-"
	}
	n, err := w.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	has := false
	for _, taint := range n.Spec.Taints {
		has = has || taint.Key == corev1.TaintNodeOutOfService
	}
	if has == on {
		return nil
	}
	_, err = w.Kube.Kubectl(ctx, nil, "taint", "node", name, mark, "--overwrite")
	return err
}

// until is deploy.Until with a bound of its own.
func (*World) until(ctx context.Context, limit time.Duration, what string, done func(context.Context) (bool, string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return deploy.Until(ctx, what, done)
}
