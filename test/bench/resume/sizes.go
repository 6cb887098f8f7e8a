package resume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Names of what is measured.
const (
	whole    = "released to resumed"
	fromDisk = "runc restore from disk"
	fromRAM  = "runc restore from page cache"
	creating = "released to resumed, of that until the pod is there"
	binding  = "released to resumed, of that until it has a node"
	sandbox  = "released to resumed, of that until its claim"
	fetching = "released to resumed, of that the fetch"
	resuming = "released to resumed, of that CRIU"
)

// stretches are what whole is made of, in their order.
var stretches = []string{creating, binding, sandbox, fetching, resuming}

// jobsOf is how many jobs of a size are measured; rows show medians.
func jobsOf(sizeMiB int) int {
	switch {
	case sizeMiB < 1<<10:
		return 3
	case sizeMiB < 4<<10:
		return 2
	}
	return 1
}

func sizeName(mib int) string {
	if mib >= 1<<10 {
		return fmt.Sprintf("%d GiB: ", mib>>10)
	}
	return fmt.Sprintf("%d MiB: ", mib)
}

// measureSizes goes on with the next size where one cannot be measured.
func (l *lab) measureSizes(ctx context.Context) ([]rows.Row, error) {
	var all []rows.Row
	var faults []error
	for _, size := range l.SizesMiB {
		in := sizeName(size)
		var err error
		for n := 0; n < jobsOf(size) && err == nil; n++ {
			l.say("%sjob %d of %d", in, n+1, jobsOf(size))
			err = l.measureJob(ctx, in, size)
		}
		if err == nil {
			all = append(all, l.sizeRows(in)...)
			continue
		}
		l.say("%sfailed: %s", in, err)
		faults = append(faults, fmt.Errorf("%s%w", in, err))
		if err := l.Clear(ctx); err != nil {
			return all, errors.Join(append(faults, err)...)
		}
	}
	return all, errors.Join(faults...)
}

// measureJob has a job go from node to node, and then its images restored by runc alone.
func (l *lab) measureJob(ctx context.Context, in string, sizeMiB int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	const name = "job"
	if err := l.start(ctx, name, sizeMiB); err != nil {
		return err
	}
	kept, err := l.keepImages(ctx)
	if err != nil {
		return err
	}
	c, err := l.goOver(ctx, name)
	if err := errors.Join(err, kept.end()); err != nil {
		return err
	}
	if err := l.addStretches(in, c); err != nil {
		return err
	}
	pod, err := l.Kube.WaitPod(ctx, metav1.NamespaceDefault, name, "ready again", func(p *corev1.Pod) (bool, error) {
		return deploy.PodReady(p) && p.Spec.NodeName == target, nil
	})
	if err != nil {
		return err
	}
	if err := l.plain(ctx, in, pod); err != nil {
		return err
	}
	return errors.Join(l.Remove(ctx, name), l.Calm(ctx), l.EmptyBucket(ctx))
}

// pod is a job that holds so many MiB, on the source node.
func (l *lab) pod(name string, sizeMiB int) *corev1.Pod {
	second, user := int64(1), int64(65534)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelProtect: "true"}},
		Spec: corev1.PodSpec{
			NodeName: rig.Source, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &second,
			AutomountServiceAccountToken: new(bool), EnableServiceLinks: new(bool),
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user},
			Containers:      []corev1.Container{{Name: "job", Image: l.holder, Args: []string{"-mib", strconv.Itoa(sizeMiB)}}},
		},
	}
}

// start starts a protected job and waits until it has filled its memory.
func (l *lab) start(ctx context.Context, name string, sizeMiB int) error {
	pods := l.Kube.CoreV1().Pods(metav1.NamespaceDefault)
	if _, err := pods.Create(ctx, l.pod(name, sizeMiB), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create job: %w", err)
	}
	return l.awaitFilled(ctx, name)
}

func (l *lab) awaitFilled(ctx context.Context, name string) error {
	pods := l.Kube.CoreV1().Pods(metav1.NamespaceDefault)
	if _, err := l.Kube.WaitPod(ctx, metav1.NamespaceDefault, name, "ready", func(p *corev1.Pod) (bool, error) {
		return deploy.PodReady(p), nil
	}); err != nil {
		return err
	}
	if err := deploy.Until(ctx, "memory of "+name, func(ctx context.Context) (bool, string, error) {
		said, err := pods.GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
		return err == nil && bytes.HasPrefix(said, []byte("filled")), "not filled", nil
	}); err != nil {
		return err
	}
	_, err := l.Kube.WaitCheckpoint(ctx, metav1.NamespaceDefault, name, "protectable", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.IsTrue(v1alpha1.ConditionProtectable)
	})
	return err
}

// goOver announces the source node's end and waits until the job goes on.
func (l *lab) goOver(ctx context.Context, name string) (*v1alpha1.Checkpoint, error) {
	if err := l.Node.Notice(ctx, "terminate", time.Now().Add(window).UTC().Truncate(time.Second)); err != nil {
		return nil, err
	}
	return l.Kube.WaitCheckpoint(ctx, metav1.NamespaceDefault, name, "restored", restored)
}

func restored(c *v1alpha1.Checkpoint) bool {
	return c.Status.IsTrue(v1alpha1.ConditionRestored) && c.Status.Timeline != nil && c.Status.Timeline.Resumed != nil
}

// addStretches notes how long it took, and where the time went.
func (l *lab) addStretches(in string, c *v1alpha1.Checkpoint) error {
	taken, err := stretchesOf(c, l.pods.of(c.Status.Claim.PodUID))
	if err != nil {
		return err
	}
	for name, seconds := range taken {
		l.Add(in+name, seconds)
	}
	return nil
}

// stretchesOf are whole and its parts in seconds. The pod was seen by the same clock that the timeline has.
func stretchesOf(c *v1alpha1.Checkpoint, pod moment) (map[string]float64, error) {
	t := c.Status.Timeline
	if t.Released == nil || t.Claimed == nil || t.Fetched == nil || t.Resumed == nil || pod.bound.IsZero() {
		return nil, fmt.Errorf("checkpoint of %s lacks what was measured: %+v, pod %+v", c.Name, t, pod)
	}
	between := func(from, to time.Time) float64 { return to.Sub(from).Seconds() }
	return map[string]float64{
		whole:    between(t.Released.Time, t.Resumed.Time),
		creating: between(t.Released.Time, pod.created), binding: between(pod.created, pod.bound), sandbox: between(pod.bound, t.Claimed.Time),
		fetching: between(t.Claimed.Time, t.Fetched.Time), resuming: between(t.Fetched.Time, t.Resumed.Time),
	}, nil
}

func (l *lab) sizeRows(in string) []rows.Row {
	seconds := func(name string) rows.Row { return rows.Row{Name: in + name, Value: l.Median(in + name), Unit: "s"} }
	all := []rows.Row{
		seconds(whole).Versus(fromDisk, l.Median(in+fromDisk)),
		seconds(whole).Versus(fromRAM, l.Median(in+fromRAM)),
	}
	for _, name := range stretches {
		row := seconds(name)
		if name == resuming {
			row = row.Versus(fromRAM, l.Median(in+fromRAM))
		}
		all = append(all, row)
	}
	return all
}
