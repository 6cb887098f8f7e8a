// Package scale is the bench's part `scale`: what Lifeboat asks of a control plane of many nodes, and what that takes of its
// controller. etcd, API server, controllers, scheduler and lifeboat-controller are real; nodes are objects, and their kubelets
// and agents are played by this process, which makes the API requests that those make (of the agent's evacuation by the
// agent's own code) and nothing else.
package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Options say what to measure.
type Options struct {
	// Root is the checkout.
	Root string
	// Folder is an empty one.
	Folder string
	// Nodes is how many Nodes there are, podsPerNode pods on each; 0 means 1000.
	Nodes int
	// Only names steps to be taken, of StepLists and so on; none means all.
	Only []string
	// Progress takes a line for every step.
	Progress io.Writer
}

// The steps of Measure, after the cluster has been filled and the controller has found it so.
const (
	// StepLists is what an agent at rest asks.
	StepLists = "lists"
	// StepCalm reclaims one node in a hundred, one a second.
	StepCalm = "calm"
	// StepMinute reclaims 300 in a thousand, 300 a minute.
	StepMinute = "minute"
)

const (
	podsPerNode = 10
	// atMost bounds a run.
	atMost = 30 * time.Minute
	mib    = 1 << 20
)

// lab is a control plane full of objects.
type lab struct {
	rows.Series
	Options
	bed        *bed.Cluster
	kube       *deploy.Kube
	api        *api
	world      *world
	agents     agents
	controller *controller
	// reclaiming is what is under way.
	reclaiming atomic.Pointer[reclaimed]
	began      time.Time
}

// Measure fills a control plane of its own and takes the steps. The rows are those that were measured, also where there is
// an error.
func Measure(ctx context.Context, o Options) (all []rows.Row, err error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	if o.Nodes == 0 {
		o.Nodes = 1000
	}
	l := &lab{Series: rows.Series{}, Options: o, began: time.Now()}
	if err := l.open(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.bed.Down(context.WithoutCancel(ctx))) }()
	if err := l.fill(ctx); err != nil {
		return nil, l.keepLogs(ctx, err)
	}
	steps := []struct {
		name string
		take func(context.Context) ([]rows.Row, error)
	}{
		{"", l.enrol}, {StepLists, l.lists},
		{StepCalm, func(ctx context.Context) ([]rows.Row, error) { return l.reclaim(ctx, calm(o.Nodes)) }},
		{StepMinute, func(ctx context.Context) ([]rows.Row, error) { return l.reclaim(ctx, minute(o.Nodes)) }},
	}
	defer l.agents.end()
	defer func() { err = errors.Join(err, l.controller.end()) }()
	for _, s := range steps {
		if s.name != "" && len(o.Only) > 0 && !slices.Contains(o.Only, s.name) {
			continue
		}
		taken, err := s.take(ctx)
		all = append(all, taken...)
		if err != nil {
			return all, l.keepLogs(ctx, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return all, nil
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.Progress, "scale: %3.0f s: "+format+"\n", append([]any{time.Since(l.began).Seconds()}, args...)...)
}

// auditPolicy has the API server write down what the controller asks; watches are no requests that anybody counts.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: None
    verbs: [watch]
  - level: Metadata
    users: ["` + controllerUser + `"]
  - level: None
`

// open brings the control plane up, with Lifeboat's objects and without its programs.
func (l *lab) open(ctx context.Context) (err error) {
	// Nobody sends heartbeats.
	l.bed, err = bed.Up(ctx, bed.Options{
		Dir: filepath.Join(l.Root, "build", "bench-scale"), NoNodes: true, NodeMonitorGrace: 24 * time.Hour, AuditPolicy: auditPolicy,
		Progress: l.Progress,
	})
	if err != nil {
		return err
	}
	if l.kube, err = deploy.Connect(l.bed.Kubeconfig, l.bed.KubectlPath()); err == nil {
		err = l.applyObjects(ctx)
	}
	if err == nil {
		l.api, err = connect(l.bed)
	}
	if err != nil {
		return errors.Join(err, l.bed.Down(context.WithoutCancel(ctx)))
	}
	return nil
}

// keepLogs keeps the logs of what went wrong.
func (l *lab) keepLogs(ctx context.Context, fault error) error {
	logs := "/tmp/lifeboat-bench-logs"
	fmt.Fprintln(l.Progress, "bench: logs are in", logs)
	return errors.Join(fault, deploy.CopyBedLogs(l.bed, logs), l.controller.keepLog(logs))
}
