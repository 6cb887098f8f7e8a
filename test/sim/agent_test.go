package sim

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/restore/node"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/kube"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/retry"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

// cluster is the first part of all keys in the bucket; keys seal what is in there.
const cluster = "sim"

var keys = store.Keyring{{1}}

// margin is the agent's --margin.
const margin = 5 * time.Second

// sweepEvery is the agent's.
const sweepEvery = 5 * time.Second

// meter counts for all of them; nobody looks.
var meter = node.NewMeter()

// agent is one life of a node's agent.
type agent struct {
	*life
	m         *machine
	evacuator *snapshot.Evacuator
	preparer  *node.Preparer
	tainter   *kube.Tainter
}

// startAgent begins another life of the node's agent, in a root of its own: the former one's hands are in the old place.
func (m *machine) startAgent() {
	m.lives++
	root := filepath.Join(m.w.root, fmt.Sprintf("%s-%d", m.name, m.lives))
	if m.dir == "" {
		m.must(os.MkdirAll(root, 0o700))
	} else {
		m.must(os.Rename(m.dir, root))
	}
	m.dir = root
	a := &agent{life: m.w.newLife("agent " + m.name), m: m}
	a.onDeath = m.agentDied
	e := engine{m: m, l: a.life, root: root}
	client, err := points()
	m.must(err)
	log := m.w.logger(a.name)
	own := kube.Node{Name: m.name, Client: clientset{l: a.life}}
	a.tainter = kube.NewTainter(own, log)
	events := &record.FakeRecorder{}
	journal := &kube.Journal{Node: own, Tainter: a.tainter, Checkpoints: client, Runtime: e, Events: events}
	generations := store.New(retry.New(edgeBucket{a.life}, retry.Default), keys)
	options := snapshot.Options{
		Runtime: e, Files: e, Store: generations, Patient: store.New(retry.New(edgeBucket{a.life}, retry.Patient), keys), Journal: journal,
		Holds: snapshot.Holds{Dir: filepath.Join(root, handover.HoldDir)}, Cluster: cluster, NodeName: m.name,
		WorkDir: "/dump", HostRoot: root, Proc: filepath.Join(root, "proc"), Margin: margin, Log: log,
	}
	if m.w.plan.safety {
		options.Scanner, options.Policy, options.Board = e, snapshot.DefaultPolicy(), journal
		options.Window, options.Cores = 2*time.Minute, 2
	}
	a.evacuator = snapshot.New(options)
	a.preparer = node.New(node.Options{
		NodeName: m.name, Cluster: cluster, Store: generations, Client: own.Client, Checkpoints: client, Events: events,
		HostRoot: root, WorkDir: "/restore", MountInfo: filepath.Join(root, "mountinfo"), Meter: meter, Log: log,
		OnHost:    func(context.Context, ...string) error { return nil },
		Finishing: a.evacuator.Finishing,
		Running: func(ctx context.Context, id string) (bool, error) {
			status, err := e.Status(ctx, id)
			return status == snapshot.StatusRunning || status == snapshot.StatusPaused, err
		},
	})
	m.agent = a
	m.w.note(a.name, "starts, life %d", m.lives)
	m.w.spawn(a.run)
}

// run runs the agent's parts and has it hear of the notice.
func (a *agent) run() {
	ctx := a.context()
	a.w.spawn(func() { _ = a.evacuator.Run(ctx) })
	a.w.spawn(func() { _ = a.tainter.Run(ctx) })
	a.w.spawn(func() {
		for ok := true; ok; ok = pause(ctx, sweepEvery) == nil {
			_ = a.preparer.Sweep(ctx)
		}
	})
	if pause(ctx, time.Duration(a.lot("notice").Int64N(int64(2*time.Second)))) == nil && !a.gone.Load() {
		_ = a.w.locked(func() error {
			a.hear()
			return nil
		})
	}
}

// hear tells the agent what the cloud says now.
func (a *agent) hear() {
	n := a.m.notice
	if n == nil {
		a.evacuator.Quiet()
		a.tainter.Want(false)
		return
	}
	heard := *n
	heard.Heard = time.Now()
	a.evacuator.Heard(heard)
	a.tainter.Want(true)
}

// agentDied begins another life of the agent after a while.
func (m *machine) agentDied() {
	after := m.w.plan.restart
	_ = m.w.locked(func() error {
		m.w.agentDown(m)
		return nil
	})
	m.w.spawn(func() {
		if pause(m.w.ctx, after) != nil {
			return
		}
		_ = m.w.locked(func() error {
			if m.alive {
				m.startAgent()
			}
			return nil
		})
	})
}

// noticed tells a node that it goes at the deadline.
func (m *machine) noticed(deadline time.Time) {
	m.notice = &watcher.Notice{Source: "sim", Action: watcher.ActionTerminate, Deadline: deadline.Add(-m.skew), Heard: time.Now()}
	m.w.note(m.name, "notice: goes at %s", m.w.at(deadline))
	if m.agent != nil && !m.agent.gone.Load() {
		m.agent.hear()
	}
}

// die ends the node and all that is on it.
func (m *machine) die(why string) {
	if !m.alive {
		return
	}
	m.alive = false
	m.w.note(m.name, "the node is gone: %s", why)
	m.w.nodeDies(m)
	for _, c := range m.containers {
		c.exit(exitKilled)
	}
	m.kubelet.gone.Store(true)
	close(m.kubelet.dead)
	if a := m.agent; !a.gone.Swap(true) {
		close(a.dead)
	}
}

// edgeBucket is the bucket as a process reaches it.
type edgeBucket struct{ l *life }

// Put implements store.Bucket.
func (b edgeBucket) Put(ctx context.Context, name string, body []byte, cond store.Condition) (info store.Info, err error) {
	err = b.l.edge(ctx, toBucket, "put "+base(name), true, func() (err error) {
		if b.l.w.forgets(b.l, name) {
			info = store.Info{Key: name, Size: int64(len(body)), ETag: "forgotten"}
			return nil
		}
		info, err = b.l.w.bucket.Put(b.l.w.ctx, name, body, cond)
		return err
	})
	return info, err
}

// Get implements store.Bucket.
func (b edgeBucket) Get(ctx context.Context, name string, offset, length int64) (stream io.ReadCloser, err error) {
	err = b.l.edge(ctx, toBucket, "read "+base(name), false, func() (err error) {
		stream, err = b.l.w.bucket.Get(b.l.w.ctx, name, offset, length)
		return err
	})
	return stream, err
}

// Stat implements store.Bucket.
func (b edgeBucket) Stat(ctx context.Context, name string) (info store.Info, err error) {
	err = b.l.edge(ctx, toBucket, "stat "+base(name), false, func() (err error) {
		info, err = b.l.w.bucket.Stat(b.l.w.ctx, name)
		return err
	})
	return info, err
}

// List implements store.Bucket.
func (b edgeBucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		err := b.l.edge(ctx, toBucket, "list", false, func() error { return nil })
		if err != nil {
			yield(store.Info{}, err)
			return
		}
		b.l.w.bucket.List(b.l.w.ctx, prefix)(yield)
	}
}

// Delete implements store.Bucket.
func (b edgeBucket) Delete(ctx context.Context, name string) error {
	return b.l.edge(ctx, toBucket, "delete "+base(name), true, func() error { return b.l.w.bucket.Delete(b.l.w.ctx, name) })
}

// forgets tells whether the bucket says that it has taken this and has not. KEY, without which all is lost, is spared.
func (w *world) forgets(l *life, name string) bool {
	if w.plan.lies == 0 || w.since() < w.plan.interruptions[0].at || w.since() > w.plan.calm || base(name) == "KEY" {
		return false
	}
	w.asks++
	if !often(w.lot("forget", w.asks), 0.2) {
		return false
	}
	w.plan.lies--
	w.forgot = true // also a fence is trusted as it is told
	w.note(l.name, "put %s: the bucket says that it has it, and has not", base(name))
	return true
}

// base is the kind of an object in the bucket: names of packs are drawn by lot.
func base(name string) string {
	dir, file := filepath.Split(name)
	if filepath.Base(dir) == "packs" {
		return "pack"
	}
	return file
}

// logger takes what a process logs into the history, where that is asked for.
func (w *world) logger(name string) zerolog.Logger {
	if !w.verbose {
		return zerolog.Nop()
	}
	return zerolog.New(logLines{w, name})
}

type logLines struct {
	w    *world
	name string
}

// Write implements io.Writer.
func (l logLines) Write(line []byte) (int, error) {
	l.w.note(l.name, "logs %s", line[:len(line)-1])
	return len(line), nil
}
