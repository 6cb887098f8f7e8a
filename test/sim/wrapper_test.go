package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

// The part of lifeboat-runtime, as package restore/runtime has it.

const (
	createTime, askTime, resultTime = 115 * time.Second, 100 * time.Second, 3 * time.Second
	askPause                        = 200 * time.Millisecond
	maxRounds                       = 5
)

var (
	errNoAgent  = errors.New("no agent")
	errNoAnswer = errors.New("the agent gave no answer")
)

// create makes the container of a pod: anew, or as the agent says. Neither container nor error: the node is gone.
func (k *kubelet) create(pod *corev1.Pod) (*container, error) {
	if k.wait(k.ctx, 20*time.Millisecond+time.Duration(k.lot("create").Int64N(int64(200*time.Millisecond)))) != nil {
		return nil, nil
	}
	var c *container
	_ = k.w.locked(func() error {
		c = k.make(pod)
		return nil
	})
	err := k.start(pod, c)
	if k.gone.Load() {
		return nil, nil
	}
	if err != nil {
		k.drop(c)
		return nil, err
	}
	return c, nil
}

func (k *kubelet) start(pod *corev1.Pod, c *container) error {
	if ptr.Deref(pod.Spec.RuntimeClassName, "") != v1alpha1.RuntimeClassName {
		return k.startClean(c)
	}
	ctx, cancel := context.WithTimeout(k.ctx, createTime)
	defer cancel()
	asking, stop := context.WithTimeout(ctx, askTime)
	defer stop()
	request := handover.PrepareRequest{
		ContainerID: c.id, Bundle: bundleOf(c.id), Namespace: namespace, Pod: pod.Name, PodUID: string(pod.UID), Container: c.name,
		SandboxID: "s-" + c.id, RestoreFrom: pod.Annotations[v1alpha1.AnnotationRestoreFrom],
	}
	insist, failure := request.RestoreFrom != "", error(nil)
	for range maxRounds {
		reply, err := k.ask(asking, request, &insist)
		if err != nil {
			return errors.Join(err, failure)
		}
		if reply.Action == handover.ActionCreate {
			return k.startClean(c)
		}
		failure = k.restore(ctx, c, reply)
		text := ""
		if failure != nil {
			text = failure.Error()
		}
		told := k.post(handover.ResultRequest{ContainerID: c.id, Error: text})
		if failure == nil || !told || k.gone.Load() {
			return failure
		}
		insist = true
	}
	return failure
}

func (k *kubelet) startClean(c *container) error {
	return k.w.locked(func() error {
		if k.gone.Load() {
			return errOver
		}
		c.lineage = k.w.newLineage(c)
		c.run("started clean")
		return nil
	})
}

// ask asks the agent what becomes of the container.
func (k *kubelet) ask(ctx context.Context, request handover.PrepareRequest, insist *bool) (handover.PrepareReply, error) {
	for {
		var reply handover.PrepareReply
		err := k.call(ctx, func(ctx context.Context, a *agent) (err error) {
			reply, err = a.preparer.Prepare(ctx, request)
			return err
		})
		switch {
		case errors.Is(err, errNoAnswer):
			*insist = true
		case errors.Is(err, errNoAgent) && *insist:
		case errors.Is(err, errNoAgent):
			return handover.PrepareReply{Action: handover.ActionCreate}, nil
		default:
			return reply, err
		}
		if k.wait(ctx, askPause) != nil {
			return reply, fmt.Errorf("the agent was waited for in vain: %w", err)
		}
	}
}

// post tells the agent how a restore ended, and says whether it has heard.
func (k *kubelet) post(result handover.ResultRequest) bool {
	ctx, cancel := context.WithTimeout(k.ctx, resultTime)
	defer cancel()
	for {
		if k.call(ctx, func(ctx context.Context, a *agent) error { return a.preparer.Result(ctx, result) }) == nil {
			return true
		}
		if k.wait(ctx, askPause) != nil {
			return false
		}
	}
}

// call makes a call to the agent. Answers of one that dies meanwhile never come.
func (k *kubelet) call(ctx context.Context, do func(context.Context, *agent) error) error {
	var a *agent
	_ = k.w.locked(func() error {
		a = k.m.agent
		return nil
	})
	if a.gone.Load() {
		return errNoAgent
	}
	k.w.asked(a)
	answer := make(chan error, 1)
	k.w.spawn(func() { answer <- do(context.WithValue(ctx, lifeKey{}, a.life), a) })
	select {
	case err := <-answer:
		return err
	case <-a.dead:
		return errNoAnswer
	case <-ctx.Done():
		return ctx.Err()
	case <-k.dead:
		return errOver
	}
}

// restore is `runc restore`: CRIU reads the images, and the process goes on.
func (k *kubelet) restore(ctx context.Context, c *container, reply handover.PrepareReply) error {
	if err := k.wait(ctx, 50*time.Millisecond+time.Duration(k.lot("criu").Int64N(int64(400*time.Millisecond)))); err != nil {
		return err
	}
	return k.w.locked(func() error {
		if k.gone.Load() {
			return errOver
		}
		if k.w.plan.restoreFails > 0 {
			k.w.plan.restoreFails--
			k.w.restoreFailed(c)
			return errors.New("criu: restore failed")
		}
		memory, err := os.ReadFile(filepath.Join(k.m.dir, reply.ImagePath, "pages-1.img"))
		if err != nil {
			return err
		}
		core, err := os.ReadFile(filepath.Join(k.m.dir, reply.ImagePath, "core-1.img"))
		if err != nil {
			return err
		}
		if err := k.wake(c, memory, core); err != nil {
			return err
		}
		file, err := os.ReadFile(filepath.Join(k.m.dir, bundleOf(c.id), "rootfs", stateFile))
		if err != nil || string(file) != string(c.content()) {
			k.w.broken("torn: %s has the file %q (%v), and memory at %s of lineage %d", c, file, err, c.work, c.lineage.id)
		}
		k.w.checkRestore(c)
		c.run("restored")
		return nil
	})
}

// wake reads memory into a container. CRIU takes what it gets for good.
func (k *kubelet) wake(c *container, memory, core []byte) error {
	if len(memory) != memoryPages*store.BlockSize || string(core) != string(memory[:len(core)]) {
		k.w.broken("torn: memory of %d bytes and core of %d bytes reach CRIU for %s", len(memory), len(core), c)
		return errors.New("criu: bad images")
	}
	for p := range memoryPages {
		page := memory[p*store.BlockSize:]
		if string(page[:16]) != string(memory[:16]) || binary.LittleEndian.Uint64(page[16:]) != uint64(p) {
			k.w.broken("torn: page %d of the memory that reaches CRIU for %s is of another moment", p, c)
			return errors.New("criu: bad images")
		}
	}
	c.lineage = k.w.lineages[binary.LittleEndian.Uint64(memory)]
	c.work = time.Duration(binary.LittleEndian.Uint64(memory[8:]))
	if binary.LittleEndian.Uint64(memory[24:]) > 0 {
		k.w.broken("a signal was dumped with the memory of %s", c)
	}
	return nil
}
