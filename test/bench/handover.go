package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// window is what a notice leaves the node.
const window = 2 * time.Minute

// Names of what is measured beyond the steps of ours.
const (
	runcDump    = "runc checkpoint --leave-running"
	kubeletDump = "kubelet checkpoint API"
	zstdTar     = "zstd of its tar"
	putTar      = "PUT of that"
	pipedTar    = "zstd of its tar, piped into the PUT"
	tarSize     = "compressed tar"
	storedSize  = "stored"
	seen        = "announced to noticed"
)

// stage is a stretch of a Checkpoint's timeline.
type stage struct {
	name     string
	from, to func(*v1alpha1.Timeline) *metav1.MicroTime
}

func notice(t *v1alpha1.Timeline) *metav1.MicroTime   { return t.Notice }
func frozen(t *v1alpha1.Timeline) *metav1.MicroTime   { return t.Frozen }
func dumped(t *v1alpha1.Timeline) *metav1.MicroTime   { return t.Dumped }
func durable(t *v1alpha1.Timeline) *metav1.MicroTime  { return t.Durable }
func released(t *v1alpha1.Timeline) *metav1.MicroTime { return t.Released }
func claimed(t *v1alpha1.Timeline) *metav1.MicroTime  { return t.Claimed }
func fetched(t *v1alpha1.Timeline) *metav1.MicroTime  { return t.Fetched }
func resumed(t *v1alpha1.Timeline) *metav1.MicroTime  { return t.Resumed }

// The stages of ours: those that have something to be compared with, the downtime, then each step by itself.
var (
	stopping = stage{"notice to dumped", notice, dumped}
	dumping  = stage{"frozen to dumped", frozen, dumped}
	saving   = stage{"notice to durable", notice, durable}
	downtime = stage{"frozen to resumed (downtime)", frozen, resumed}
	upload   = stage{"dumped to durable", dumped, durable}
	steps    = []stage{
		{"notice to frozen", notice, frozen}, {"durable to released", durable, released},
		{"released to claimed", released, claimed}, {"claimed to fetched", claimed, fetched},
		{"fetched to resumed", fetched, resumed},
	}
)

// handoverLab is a bed with Lifeboat and the image of the job.
type handoverLab struct {
	rows.Series
	*rig.Rig
	image string
}

// measureHandover has a job handed from node to node of a test bed of its own, and measures against what a script with
// kubelet's checkpoint API, zstd and an S3 client would do, and against runc alone, for a job of the same kind.
func measureHandover(ctx context.Context, o Options, folder string) (_ []rows.Row, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	l := &handoverLab{Series: rows.Series{}}
	if l.Rig, err = rig.Open(ctx, o.Root, o.Progress); err != nil {
		return nil, err
	}
	defer func() { err = l.Close(ctx, err) }()
	if err := l.Install(ctx); err != nil {
		return nil, err
	}
	if l.image, err = l.ProgramImage(ctx, "./test/e2e/counter", folder); err != nil {
		return nil, err
	}
	for round := range rounds {
		fmt.Fprintf(o.Progress, "handover: round %d of %d, a job of %d MiB\n", round+1, rounds, jobMiB)
		if err := l.round(ctx, round); err != nil {
			return nil, err
		}
	}
	return l.rows(), nil
}

func (l *handoverLab) round(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := l.theirs(ctx, fmt.Sprintf("theirs-%d", n)); err != nil {
		return err
	}
	return l.ours(ctx, fmt.Sprintf("ours-%d", n))
}

// ours measures one hand-over: the notice, and all that follows until the job goes on.
func (l *handoverLab) ours(ctx context.Context, name string) error {
	if _, err := l.startJob(ctx, name, true); err != nil {
		return err
	}
	announced := time.Now()
	if err := l.Node.Notice(ctx, "terminate", announced.Add(window).UTC().Truncate(time.Second)); err != nil {
		return err
	}
	c, err := l.Kube.WaitCheckpoint(ctx, metav1.NamespaceDefault, name, "restored", func(c *v1alpha1.Checkpoint) bool {
		return c.Status.IsTrue(v1alpha1.ConditionRestored)
	})
	if err != nil {
		return err
	}
	for _, s := range append([]stage{stopping, dumping, saving, downtime, upload}, steps...) {
		from, to := s.from(c.Status.Timeline), s.to(c.Status.Timeline)
		if from == nil || to == nil {
			return fmt.Errorf("timeline of %s lacks a moment of %q", name, s.name)
		}
		l.Add(s.name, to.Sub(from.Time).Seconds())
	}
	l.Add(seen, c.Status.Timeline.Notice.Sub(announced).Seconds())
	l.Add(storedSize, float64(c.Status.Generation.StoredBytes)/mib)
	return errors.Join(l.Calm(ctx), l.Remove(ctx, name))
}

func (l *handoverLab) rows() []rows.Row {
	// Theirs freezes within, and has CRIU lock the network; the kubelet's also writes the tar.
	seconds := func(s stage) rows.Row { return rows.Row{Name: s.name, Value: l.Median(s.name), Unit: "s"} }
	all := []rows.Row{
		seconds(stopping).Versus(runcDump, l.Median(runcDump)),
		seconds(dumping).Versus(runcDump, l.Median(runcDump)),
		seconds(dumping).Versus(kubeletDump, l.Median(kubeletDump)),
		seconds(upload).Versus("zstd, then PUT", l.Median(zstdTar)+l.Median(putTar)),
		seconds(upload).Versus("zstd | PUT", l.Median(pipedTar)),
		seconds(saving).Versus("kubelet, zstd, then PUT", l.Median(kubeletDump)+l.Median(zstdTar)+l.Median(putTar)),
		seconds(saving).Versus("kubelet, zstd | PUT", l.Median(kubeletDump)+l.Median(pipedTar)),
		seconds(downtime), // theirs has no restore
		// Both hold the same random memory; ours has the volumes besides, theirs the tar's padding.
		rows.Row{Name: storedSize, Value: l.Median(storedSize), Unit: "MiB"}.
			Versus(tarSize, l.Median(tarSize)).Wants(rows.Target{Bound: 1.05}),
		{Name: seen, Value: l.Median(seen), Unit: "s"},
	}
	for _, s := range steps {
		all = append(all, seconds(s))
	}
	return all
}
