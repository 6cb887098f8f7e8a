package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// train starts the job on the node that will go, lets it train, and returns its pod when it is protected.
func (d *demo) train(ctx context.Context) (*corev1.Pod, error) {
	limit, cancel := context.WithTimeout(ctx, patience+d.Train)
	defer cancel()
	job := Job{
		Name: jobName, Image: d.JobImage, Node: fromNode, Protect: true,
		Steps: d.Steps, Pace: pace, Linger: linger, BallastMB: d.BallastMB,
	}
	pod, err := d.start(limit, job)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName != fromNode {
		return nil, fmt.Errorf("the scheduler put the job on node %s: the demo wants it on node %s", pod.Spec.NodeName, fromNode)
	}
	d.sampler.watch(pod.UID, fromNode)
	d.tell.say("pod %s runs on node %s, with nothing but the label %s=true", pod.Name, pod.Spec.NodeName, v1alpha1.LabelProtect)
	d.followers.Go(func() { d.before.follow(ctx, d.Kube, pod, d.tell) })
	_, err = d.Kube.WaitCheckpoint(limit, pod.Namespace, pod.Name, "protected", func(c *v1alpha1.Checkpoint) bool {
		p := c.Status.Condition(v1alpha1.ConditionProtectable)
		return p != nil && p.Status == metav1.ConditionTrue
	})
	if err != nil {
		return nil, err
	}
	d.tell.say("Checkpoint %s exists: %s", pod.Name, v1alpha1.ReasonProtected)
	return pod, d.before.reach(limit, int(d.Train/pace))
}

// interrupt sends the notice and waits, telling of every moment, until the pod is released; then node a dies.
func (d *demo) interrupt(ctx context.Context, pod *corev1.Pod) error {
	announced := metav1.NowMicro()
	d.evidence.Announced = &announced
	deadline := announced.Add(d.Window)
	if err := d.stage.Notice(ctx, fromNode, deadline); err != nil {
		return err
	}
	d.tell.say("%s the metadata service of node %s now says: terminate at %s",
		d.tell.Bold(pad("notice", 9)), fromNode, deadline.UTC().Format(time.RFC3339))
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	told := map[string]bool{"notice": true}
	var failed *metav1.Condition
	_, err := d.Kube.WaitCheckpoint(ctx, pod.Namespace, pod.Name, "released", func(c *v1alpha1.Checkpoint) bool {
		d.moment(c, told)
		if e := c.Status.Condition(v1alpha1.ConditionEvacuated); e != nil && e.Status == metav1.ConditionFalse && e.Reason != v1alpha1.ReasonNoInterruption {
			failed = e
		}
		return failed != nil || d.released(c, pod)
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("evacuate pod %s: %s: %s", pod.Name, failed.Reason, failed.Message)
	}
	if err := d.stage.Kill(ctx, fromNode); err != nil {
		return err
	}
	d.tell.say("%s node %s: kill -9 of its pid 1, %.0f s before the deadline", d.tell.Bold(pad("killed", 9)), fromNode, time.Until(deadline).Seconds())
	return nil
}

// released says that this pod has been evacuated and is gone: nothing of node a is needed any more.
func (d *demo) released(c *v1alpha1.Checkpoint, pod *corev1.Pod) bool {
	r := c.Status.Condition(v1alpha1.ConditionReleased)
	t := c.Status.Timeline
	return r != nil && r.Status == metav1.ConditionTrue && t != nil && t.PodUID == pod.UID && t.Released != nil
}

// resume waits for the same process in another pod on the other node.
func (d *demo) resume(ctx context.Context, old *corev1.Pod) (*corev1.Pod, error) {
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pod, err := d.Kube.WaitPod(limit, old.Namespace, old.Name, "placed anew", func(p *corev1.Pod) (bool, error) {
		return p.UID != old.UID && p.Spec.NodeName != "", nil
	})
	if err != nil {
		return nil, err
	}
	d.sampler.watch(pod.UID, pod.Spec.NodeName)
	d.evidence.ToNode = pod.Spec.NodeName
	pod, err = d.Kube.WaitPod(limit, pod.Namespace, pod.Name, "running", func(p *corev1.Pod) (bool, error) {
		if p.Status.Phase == corev1.PodFailed {
			return false, errors.New("the replacement failed: " + p.Status.Message)
		}
		return p.Status.Phase != corev1.PodPending, nil
	})
	if err != nil {
		return nil, err
	}
	d.followers.Go(func() { d.after.follow(ctx, d.Kube, pod, d.tell) })
	return pod, d.waitRestored(limit, pod)
}

// waitRestored waits until the agent says that the claimed generation runs in this pod.
func (d *demo) waitRestored(ctx context.Context, pod *corev1.Pod) error {
	told := map[string]bool{"notice": true, "frozen": true, "dumped": true, "durable": true, "released": true}
	var failed *metav1.Condition
	_, err := d.Kube.WaitCheckpoint(ctx, pod.Namespace, pod.Name, "restored", func(c *v1alpha1.Checkpoint) bool {
		r := c.Status.Condition(v1alpha1.ConditionRestored)
		if r == nil || c.Status.Claim == nil || c.Status.Claim.PodUID != pod.UID {
			return false
		}
		if r.Status == metav1.ConditionFalse && r.Reason == v1alpha1.ReasonStartedClean {
			failed = r
			return true
		}
		return r.Status == metav1.ConditionTrue
	})
	if err == nil && failed != nil {
		return fmt.Errorf("restore pod %s: %s: %s", pod.Name, failed.Reason, failed.Message)
	}
	if err != nil {
		return err
	}
	if err := d.after.reach(ctx, 1); err != nil {
		return err
	}
	c, err := d.Kube.Checkpoint(ctx, pod.Namespace, pod.Name)
	if err != nil {
		return err
	}
	d.moment(c, told)
	return nil
}

// finish lets the job end, reads its log from within the pod while it lingers, and takes its exit code.
func (d *demo) finish(ctx context.Context, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, patience+time.Duration(d.Steps)*2*pace)
	defer cancel()
	line, err := d.Kube.Kubectl(ctx, nil, "exec", "-n", pod.Namespace, pod.Name, "--", "head", "-n", "1", logFile)
	if err != nil {
		return err
	}
	var head Output
	if err := head.Add(strings.TrimSpace(line)); err != nil {
		return err
	}
	d.evidence.ExecToken = tokenOf(head)
	d.tell.say("kubectl exec in the restored pod reads %s: it begins with step %d", logFile, first(head))
	if err := d.after.end(ctx); err != nil {
		return err
	}
	text, err := d.Kube.Kubectl(ctx, nil, "exec", "-n", pod.Namespace, pod.Name, "--", "cat", logFile)
	if err != nil {
		return err
	}
	if d.evidence.Volume, err = ReadOutput(strings.NewReader(text)); err != nil {
		return err
	}
	return d.takeEnd(ctx, pod)
}

// takeEnd waits for the container's end, and reads its exit code and, once more and whole, its log.
func (d *demo) takeEnd(ctx context.Context, pod *corev1.Pod) error {
	ended, err := d.Kube.WaitPod(ctx, pod.Namespace, pod.Name, "ended", func(p *corev1.Pod) (bool, error) {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed, nil
	})
	if err != nil {
		return err
	}
	for _, c := range ended.Status.ContainerStatuses {
		if c.State.Terminated != nil {
			d.evidence.ExitCode = int(c.State.Terminated.ExitCode)
		}
	}
	text, err := d.Kube.Kubectl(ctx, nil, "logs", "--timestamps", "-n", pod.Namespace, pod.Name)
	if err != nil {
		return err
	}
	if d.evidence.After, err = ReadOutput(strings.NewReader(text)); err != nil {
		return err
	}
	d.tell.say("the job has ended with exit code %d after step %d", d.evidence.ExitCode, d.evidence.After.Last())
	return nil
}
