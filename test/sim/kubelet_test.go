package sim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// kubelet runs the pods that are bound to its node.
type kubelet struct {
	*life
	m    *machine
	feed *feed
	// serving has the pods that are looked after, each with what wakes its worker.
	serving map[string]chan struct{}
}

// startKubelet is called under the world's lock.
func (m *machine) startKubelet() {
	m.kubelet = &kubelet{life: m.w.newLife("kubelet " + m.name), m: m, feed: m.w.api.watch(), serving: map[string]chan struct{}{}}
	m.w.spawn(m.kubelet.run)
}

// run begins to look after pods as they are bound, and wakes who looks after them when they change.
func (k *kubelet) run() {
	for k.next(k.feed) {
		_ = k.w.locked(func() error {
			changed := k.feed.changed
			k.feed.changed = nil
			for _, name := range changed {
				pod := k.w.api.pod(name.name)
				if name.kind != "pods" || pod == nil || pod.Spec.NodeName != k.m.name || k.serving[string(pod.UID)] != nil {
					continue
				}
				uid := string(pod.UID)
				k.serving[uid] = make(chan struct{}, 1)
				k.w.spawn(func() { k.serve(pod.Name, uid) })
			}
			for _, wake := range k.serving {
				select {
				case wake <- struct{}{}:
				default:
				}
			}
			return nil
		})
	}
}

// next waits until the API has something new, and for the time that it takes to get here.
func (l *life) next(f *feed) bool {
	select {
	case <-f.poke:
	case <-l.dead:
	case <-l.ctx.Done():
	}
	lag := 5*time.Millisecond + time.Duration(l.lot("watch").Int64N(int64(100*time.Millisecond)))
	return l.wait(l.ctx, lag) == nil
}

// see returns the pod of that UID, nil where it is gone.
func (k *kubelet) see(name, uid string) *corev1.Pod {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	pod := k.w.api.pod(name)
	if pod == nil || string(pod.UID) != uid {
		return nil
	}
	return pod
}

// idle waits until the pod changes, the container ends or the time is up; false: nobody is there any more to go on.
func (k *kubelet) idle(uid string, gone <-chan struct{}, atMost time.Duration) bool {
	k.w.mu.Lock()
	wake := k.serving[uid]
	k.w.mu.Unlock()
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-wake:
	case <-gone:
	case <-timer.C:
	case <-k.dead:
	case <-k.ctx.Done():
	}
	return !k.gone.Load() && k.ctx.Err() == nil
}

// serve looks after one pod until it is gone.
func (k *kubelet) serve(name, uid string) {
	var c *container
	restarts, over := int32(0), false
	for {
		pod := k.see(name, uid)
		switch {
		case pod == nil:
			k.end(c)
			return
		case pod.DeletionTimestamp != nil:
			k.finish(pod, c)
			return
		case c == nil && !over:
			var err error
			if c, err = k.create(pod); err != nil {
				k.w.note(k.name, "pod %s (%s) not created: %v", name, uid, err)
				if over = pod.Spec.RestartPolicy == corev1.RestartPolicyNever; over {
					k.report(name, uid, corev1.PodFailed, restarts, 128)
				} else if !k.idle(uid, nil, 10*time.Second) {
					return
				}
				continue
			}
			if c == nil {
				return // the node is gone
			}
			k.report(name, uid, corev1.PodRunning, restarts, 0)
		case c != nil && c.hasEnded():
			again := pod.Spec.RestartPolicy == corev1.RestartPolicyAlways || pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && c.code != exitDone
			if !again {
				phase := corev1.PodFailed
				if c.code == exitDone {
					phase = corev1.PodSucceeded
				}
				k.report(name, uid, phase, restarts, c.code)
				c, over = nil, true
				continue
			}
			k.end(c)
			c, restarts = nil, restarts+1
			if k.wait(k.ctx, time.Second) != nil {
				return
			}
		default:
			var gone chan struct{}
			if c != nil {
				gone = c.gone
			}
			if !k.idle(uid, gone, time.Minute) {
				return
			}
		}
	}
}

func (c *container) hasEnded() bool {
	c.m.w.mu.Lock()
	defer c.m.w.mu.Unlock()
	return c.state == ended
}

// end kills what is left of a container and forgets it, as lifeboat-runtime does.
func (k *kubelet) end(c *container) {
	if c == nil {
		return
	}
	_ = k.w.locked(func() error {
		c.exit(exitKilled)
		_ = os.Remove(filepath.Join(k.m.dir, handover.HoldDir, c.id))
		_ = os.RemoveAll(filepath.Join(k.m.dir, bundleOf(c.id)))
		return nil
	})
}

// finish stops the container of a pod that is being deleted, and lets the pod go.
func (k *kubelet) finish(pod *corev1.Pod, c *container) {
	name, uid := pod.Name, string(pod.UID)
	began := time.Now()
	if c != nil && !c.hasEnded() {
		k.signal(c, syscall.SIGTERM)
		for !c.hasEnded() {
			pod = k.see(name, uid)
			if pod == nil {
				break
			}
			left := time.Until(began.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second))
			if left <= 0 {
				break
			}
			if !k.idle(uid, c.gone, left) {
				return
			}
		}
	}
	k.end(c)
	grace, only := int64(0), pod
	if only == nil {
		return
	}
	k.insist(func(ctx context.Context) error {
		return k.edge(ctx, toAPI, "delete pod "+name, true, func() error {
			if p := k.w.api.pod(name); p == nil || string(p.UID) != uid {
				return nil
			}
			return k.w.api.remove(key{"pods", name}, &metav1.Preconditions{UID: &only.UID}, &grace)
		})
	})
}

// insist does something again until it succeeds.
func (k *kubelet) insist(do func(context.Context) error) {
	for do(k.ctx) != nil {
		if k.wait(k.ctx, time.Second) != nil {
			return
		}
	}
}

// signal is `lifeboat-runtime kill`: a container on hold does not get it.
func (k *kubelet) signal(c *container, s syscall.Signal) {
	_ = k.w.locked(func() error {
		hold := filepath.Join(k.m.dir, handover.HoldDir, c.id)
		f, err := os.OpenFile(hold, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			k.w.note(k.name, "%s gets signal %d", c, s)
			c.deliver(s)
			return nil
		}
		defer f.Close()
		k.w.note(k.name, "signal %d for %s is held", s, c)
		_, err = fmt.Fprintln(f, int(s))
		return err
	})
}

// report writes the status of a pod.
func (k *kubelet) report(name, uid string, phase corev1.PodPhase, restarts int32, code int) {
	k.insist(func(ctx context.Context) error {
		return k.edge(ctx, toAPI, "write status of pod "+name, true, func() error {
			pod := k.w.api.pod(name)
			if pod == nil || string(pod.UID) != uid {
				return nil
			}
			next := pod.DeepCopy()
			next.Status.Phase = phase
			status := corev1.ContainerStatus{Name: "main", Image: "train:1", ImageID: "train@sha256:1", RestartCount: restarts}
			if phase == corev1.PodRunning {
				status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now())}
			} else {
				status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: int32(code), Reason: "Ended"}
			}
			if code == 128 { // it never was: no container has run
				status.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerError"}}
			}
			next.Status.ContainerStatuses = []corev1.ContainerStatus{status}
			k.w.note(k.name, "pod %s (%s) is %s", name, uid, phase)
			return k.w.api.update(next, true)
		})
	})
}

// bundleOf is the path of a container's OCI bundle on its node.
func bundleOf(id string) string { return "/run/bundles/" + id }

// upperOf is its writable layer.
func upperOf(id string) string { return "/var/snapshots/" + id + "/fs" }

// make makes a container with its bundle, which does nothing yet.
func (k *kubelet) make(pod *corev1.Pod) *container {
	m := k.m
	m.w.containers++
	c := &container{
		m: m, id: fmt.Sprintf("c%d", m.w.containers), pod: pod.Name, uid: string(pod.UID), name: "main", pid: 100 + m.w.containers,
		gone: make(chan struct{}),
	}
	m.containers = append(m.containers, c)
	bundle := filepath.Join(m.dir, bundleOf(c.id))
	m.must(os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o700))
	m.must(os.MkdirAll(filepath.Join(m.dir, upperOf(c.id)), 0o700))
	m.must(os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"mounts":[]}`), 0o600))
	mounts, err := os.OpenFile(filepath.Join(m.dir, "mountinfo"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	m.must(err)
	defer mounts.Close()
	_, err = fmt.Fprintf(mounts, "1 1 0:1 / %s/rootfs rw - overlay overlay rw,upperdir=%s\n", bundleOf(c.id), upperOf(c.id))
	m.must(err)
	m.writeProc(c)
	return c
}

// drop forgets a container that was never run.
func (k *kubelet) drop(c *container) {
	_ = k.w.locked(func() error {
		k.m.containers = slices.DeleteFunc(k.m.containers, func(other *container) bool { return other == c })
		_ = os.Remove(k.m.procFile(c))
		return nil
	})
}
