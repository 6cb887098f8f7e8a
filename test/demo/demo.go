// Package demo shows the whole path on real parts: a training job on a two-node cluster gets a spot interruption
// notice on node a and goes on, as the same process, on node b. It is a demonstration and a test at once: what it
// shows it also checks, and `build/demo/report.json` passes only where everything held.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Nodes of the demo.
const (
	fromNode = "a"
	toNode   = "b"
)

// Names of the demo's pods.
const (
	jobName       = "digits"
	referenceName = "digits-uninterrupted"
)

// ErrFailed says that the demo ran and something did not hold.
var ErrFailed = errors.New("the demo did not pass")

// Options of a run.
type Options struct {
	// Root is the checkout; results go to Root/build/demo.
	Root string
	// Window is the time from the notice to the deadline: two minutes on AWS.
	Window time.Duration
	// Train is how long the job trains before the notice.
	Train time.Duration
	// Steps is the length of the job; BallastMB is memory it holds besides, in MiB.
	Steps, BallastMB int
	// Colour turns colours on, Live lines that are written over.
	Colour, Live bool
}

// Validate names everything that is wrong with the options.
func (o Options) Validate() error {
	var faults []error
	if o.Window < 10*time.Second {
		faults = append(faults, fmt.Errorf("window %s: want 10s or more", o.Window))
	}
	if o.Train < time.Second {
		faults = append(faults, fmt.Errorf("train %s: want 1s or more", o.Train))
	}
	if least := int(o.Train/pace) + 200; o.Steps < least {
		faults = append(faults, fmt.Errorf("steps %d: want %d or more, so that enough is left to go on with after the interruption", o.Steps, least))
	}
	if o.BallastMB < 0 {
		faults = append(faults, fmt.Errorf("ballast %d: want 0 or more", o.BallastMB))
	}
	return errors.Join(faults...)
}

// pace is the job's pause after each step, linger its stay after the last.
const (
	pace   = 50 * time.Millisecond
	linger = 5 * time.Second
)

// patience is how long a single stage may take, image pulls and a cold start included.
const patience = 3 * time.Minute

// Stage is where the demo plays. BedStage is the one that `make demo` uses.
type Stage interface {
	// Up brings up a cluster with nodes a and b, Lifeboat on it and the job's image at hand, and says what it does.
	Up(ctx context.Context, say func(format string, args ...any)) (Scene, error)
	// Notice lets the node's metadata service announce its end.
	Notice(ctx context.Context, node string, deadline time.Time) error
	// Kill ends every process of the node at once.
	Kill(ctx context.Context, node string) error
	// Collect writes all logs that may explain a failure into the folder.
	Collect(ctx context.Context, folder string) error
	// Down takes down what Up brought up, also after an Up that failed half way; a stage that is to be kept, it keeps.
	Down(ctx context.Context) error
}

// Scene is what Up has made.
type Scene struct {
	Kube *deploy.Kube
	// JobImage is the reference by which nodes pull the job's image.
	JobImage string
}

// demo is one run.
type demo struct {
	Options
	Scene
	tell    *teller
	stage   Stage
	sampler sampler
	// before and after follow the pods on the two nodes; followers waits for their readers.
	before, after follower
	followers     sync.WaitGroup

	evidence Evidence
}

// Run runs the demo and tells of it on out. The error is ErrFailed where something did not hold, and other where the
// demo could not be carried through or was stopped. Whatever happens, it takes down what it brought up, unless Keep is set.
func Run(ctx context.Context, o Options, stage Stage, out io.Writer) (err error) {
	if err := o.Validate(); err != nil {
		return err
	}
	d := &demo{Options: o, stage: stage, tell: &teller{Palette: Palette{Colour: o.Colour}, out: out, start: time.Now(), live: o.Live}}
	d.evidence = Evidence{FromNode: fromNode, ExitCode: -1}
	// Nobody shall take an older run's results for this one's.
	if err := os.RemoveAll(d.results()); err != nil {
		return fmt.Errorf("remove older results: %w", err)
	}
	d.tell.block("\n" + d.tell.Bold("Lifeboat") + ": a training job outlives its node\n")
	defer func() { err = errors.Join(err, d.leave(context.WithoutCancel(ctx), err != nil && ctx.Err() == nil)) }()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	showErr := d.show(ctx)
	if ctx.Err() != nil {
		d.tell.say("stopped by a signal: taking the stage down")
		return showErr
	}
	return errors.Join(showErr, d.conclude(ctx, showErr))
}

// prepare brings up the bed, Lifeboat on it, and the yardstick.
func (d *demo) prepare(ctx context.Context) error {
	d.tell.heading("Stage")
	scene, err := d.stage.Up(ctx, d.tell.say)
	if err != nil {
		return err
	}
	d.Scene = scene
	return d.reference(ctx)
}

// show is the demo proper.
func (d *demo) show(ctx context.Context) error {
	d.tell.heading("Training")
	ctx, cancel := context.WithCancel(ctx)
	defer d.followers.Wait()
	defer cancel()
	d.followers.Go(func() { d.sampler.run(ctx) })
	pod, err := d.train(ctx)
	if err != nil {
		return err
	}
	d.tell.heading("Interruption")
	if err := d.interrupt(ctx, pod); err != nil {
		return err
	}
	restored, err := d.resume(ctx, pod)
	if err != nil {
		return err
	}
	d.tell.heading("Going on")
	return d.finish(ctx, restored)
}

// reference runs the job once, unprotected and at full speed, on the node that will be left. Its losses and weights are
// what the interrupted run must show as well; and the node has the image, as a node of a running cluster would.
func (d *demo) reference(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	job := Job{Name: referenceName, Image: d.JobImage, Node: toNode, Steps: d.Steps, Linger: linger}
	pod, err := d.start(ctx, job)
	if err != nil {
		return err
	}
	var run follower
	d.followers.Go(func() { run.follow(ctx, d.Kube, pod, d.tell) })
	if err := run.end(ctx); err != nil {
		return err
	}
	d.evidence.Reference = run.output()
	done := d.evidence.Reference.Done
	d.tell.say("uninterrupted run, to compare with: %d steps at full speed, accuracy %.1f %%", done.Steps, 100*done.Accuracy)
	return d.remove(ctx, job.Name)
}

// start creates the job's pod and waits until it runs.
func (d *demo) start(ctx context.Context, job Job) (*corev1.Pod, error) {
	pod := job.Pod()
	if _, err := d.Kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	return d.Kube.WaitPod(ctx, pod.Namespace, pod.Name, "running", func(p *corev1.Pod) (bool, error) {
		if p.Status.Phase == corev1.PodFailed {
			return false, fmt.Errorf("pod %s failed at its start", p.Name)
		}
		return p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodSucceeded, nil
	})
}

func (d *demo) remove(ctx context.Context, pod string) error {
	if err := d.Kube.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, pod, *metav1.NewDeleteOptions(0)); err != nil {
		return fmt.Errorf("delete pod %s: %w", pod, err)
	}
	return nil
}

// conclude judges, draws, and writes the results, also after a run that broke off.
func (d *demo) conclude(ctx context.Context, broken error) error {
	d.evidence.Before, d.evidence.Samples = d.before.output(), d.sampler.taken()
	if len(d.evidence.After.Steps) == 0 {
		d.evidence.After = d.after.output()
	}
	if c, err := d.Kube.Checkpoint(ctx, metav1.NamespaceDefault, jobName); err == nil && c.Status.Timeline != nil {
		d.evidence.Timeline, d.evidence.Generation = *c.Status.Timeline, c.Status.Generation
	}
	report, checks := Judge(d.evidence)
	report.Pass = report.Pass && broken == nil
	curve := CurveOf(d.evidence)
	if d.evidence.Timeline.Notice != nil {
		d.tell.heading("What happened")
		d.tell.block(RenderTimeline(d.evidence, d.tell.Palette))
		d.tell.heading("The loss, over both nodes")
		d.tell.block(RenderPlot(curve, d.tell.Palette))
	}
	d.tell.heading("What held")
	d.tell.block(RenderChecks(checks, d.tell.Palette))
	folder := d.results()
	err := errors.Join(report.Write(filepath.Join(folder, "report.json")), writeFile(filepath.Join(folder, "loss.svg"), RenderSVG(curve)))
	d.tell.block(fmt.Sprintf("\n  report %s\n  curve  %s\n", filepath.Join(folder, "report.json"), filepath.Join(folder, "loss.svg")))
	if !report.Pass {
		err = errors.Join(ErrFailed, err)
	}
	return err
}

func (d *demo) results() string { return filepath.Join(d.Root, "build", "demo") }

// leave collects logs after a failure and takes the stage down.
func (d *demo) leave(ctx context.Context, failed bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if failed {
		folder := filepath.Join(d.results(), "logs")
		if err := d.stage.Collect(ctx, folder); err != nil {
			d.tell.say("some logs could not be had: %v", err)
		}
		d.tell.say("logs of agents, controller, nodes and CRIU are in %s", folder)
	}
	return d.stage.Down(ctx)
}

// moment tells of the moments of the timeline that are seen for the first time.
func (d *demo) moment(c *v1alpha1.Checkpoint, told map[string]bool) {
	if c.Status.Timeline == nil {
		return
	}
	d.evidence.Timeline, d.evidence.Generation = *c.Status.Timeline, c.Status.Generation
	d.evidence.Before, d.evidence.After = d.before.output(), d.after.output()
	for _, m := range moments(d.evidence) {
		if m.at != nil && !told[m.name] {
			told[m.name] = true
			d.tell.say("%s %s", d.tell.Bold(pad(m.name, 9)), describe(m.name, d.evidence))
		}
	}
}
