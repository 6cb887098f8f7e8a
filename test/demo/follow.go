package demo

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// follower keeps what a pod says, as it says it.
type follower struct {
	mu    sync.Mutex
	out   Output
	err   error
	ended bool
}

// output returns all that was said so far.
func (f *follower) output() Output {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.out
	out.Steps = append([]Step{}, f.out.Steps...)
	return out
}

// follow reads the pod's log until the job has said its last line, the pod is gone, or ctx ends, and shows each step in
// passing.
func (f *follower) follow(ctx context.Context, kube *deploy.Kube, pod *corev1.Pod, tell *teller) {
	err := f.read(ctx, kube, pod, tell)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	if ctx.Err() == nil {
		f.err = err
	}
}

// read begins again where a stream ends early: the kubelet ends one also when the machine has no inotify watch left.
func (f *follower) read(ctx context.Context, kube *deploy.Kube, pod *corev1.Pod, tell *teller) error {
	for known := 0; ; {
		seen := 0
		err := kube.FollowLogs(ctx, pod.Namespace, pod.Name, func(line string) error {
			if at, _ := splitTime(line); !at.IsZero() {
				if seen++; seen <= known {
					return nil
				}
				known = seen
			}
			return f.add(line, pod.Spec.NodeName, tell)
		})
		if err != nil || f.output().Done != nil {
			return err
		}
		runs, err := kube.Runs(ctx, pod)
		if err != nil || !runs {
			return err
		}
	}
}

func (f *follower) add(line, node string, tell *teller) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.out.Add(line); err != nil {
		return err
	}
	if n := len(f.out.Steps); n > 0 {
		tell.passing("node %s  step %d  loss %.4f", node, f.out.Steps[n-1].Number, f.out.Steps[n-1].Loss)
	}
	return nil
}

// reach waits until a step has been printed.
func (f *follower) reach(ctx context.Context, step int) error {
	return f.until(ctx, fmt.Sprintf("step %d", step), func(o *Output) bool { return o.Last() >= step })
}

// end waits until the job has said its last line.
func (f *follower) end(ctx context.Context) error {
	return f.until(ctx, "the job's end", func(o *Output) bool { return o.Done != nil })
}

func (f *follower) until(ctx context.Context, what string, ok func(*Output) bool) error {
	return deploy.Until(ctx, what, func(context.Context) (bool, string, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		state := fmt.Sprintf("step %d", f.out.Last())
		switch {
		case f.err != nil:
			return false, state, f.err
		case ok(&f.out):
			return true, state, nil
		case f.ended:
			return false, state, fmt.Errorf("the log ended at step %d%s", f.out.Last(), f.lastWords())
		}
		return false, state, nil
	})
}

// lastWords is the newest line that is no step: an error of Python or of the kubelet, where there is one.
func (f *follower) lastWords() string {
	if n := len(f.out.Other); n > 0 {
		return ": " + f.out.Other[n-1]
	}
	return ""
}
