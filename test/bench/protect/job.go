package protect

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/process"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// job is a running pod of one container.
type job struct {
	name, id string
	pod      *corev1.Pod
	pid      int // of its first process, on this machine
	changes  int // that it was told of so far
}

// start starts a job that is not protected yet, and waits until it has said what it says once it is ready.
func (l *lab) start(ctx context.Context, name, image string, command []string, ready string, args ...string) (*job, error) {
	second, user := int64(1), int64(65534)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelProtect: "false"}},
		Spec: corev1.PodSpec{
			NodeName: rig.Source, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &second,
			AutomountServiceAccountToken: new(bool), EnableServiceLinks: new(bool),
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user},
			Containers:      []corev1.Container{{Name: "job", Image: image, Command: command, Args: args}},
		},
	}
	if _, err := l.Kube.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create job: %w", err)
	}
	j := &job{name: name}
	var err error
	if j.pod, err = l.Kube.WaitPod(ctx, metav1.NamespaceDefault, name, "ready", func(p *corev1.Pod) (bool, error) {
		return deploy.PodReady(p), nil
	}); err != nil {
		return nil, err
	}
	if j.id, err = rig.ContainerID(j.pod); err != nil {
		return nil, err
	}
	if err := l.awaitLines(ctx, j, ready, 1); err != nil {
		return nil, err
	}
	j.pid, err = process.First(j.id)
	return j, err
}

// startHolder starts a job that holds so many MiB.
func (l *lab) startHolder(ctx context.Context, name string, sizeMiB int, huge bool) (*job, error) {
	return l.start(ctx, name, l.holder, nil, "filled", "-mib", strconv.Itoa(sizeMiB), "-huge="+strconv.FormatBool(huge))
}

// awaitLines waits until the job has written n lines that begin so.
func (l *lab) awaitLines(ctx context.Context, j *job, prefix string, n int) error {
	return deploy.Until(ctx, fmt.Sprintf("line %q of %s", prefix, j.name), func(ctx context.Context) (bool, string, error) {
		said, err := l.Kube.CoreV1().Pods(metav1.NamespaceDefault).GetLogs(j.name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		return bytes.Count(append([]byte("\n"), said...), []byte("\n"+prefix)) >= n, "not yet", nil
	})
}

// change has the job change its memory and waits until it has.
func (l *lab) change(ctx context.Context, j *job, c change.Change) error {
	if err := syscall.Kill(j.pid, c.Signal); err != nil {
		return fmt.Errorf("tell %s to change: %w", j.name, err)
	}
	j.changes++
	return l.awaitLines(ctx, j, "changed", j.changes)
}

// protect labels the job's pod, and takes the label off again.
func (l *lab) protect(ctx context.Context, j *job, on bool) error {
	_, err := l.Kube.Kubectl(ctx, nil, "-n", metav1.NamespaceDefault, "label", "--overwrite", "pod", j.name,
		v1alpha1.LabelProtect+"="+strconv.FormatBool(on))
	return err
}

// stamped is a line of a job's log.
type stamped struct {
	at   time.Time
	text string
}

// lines are those of the job's log that begin so.
func (l *lab) lines(ctx context.Context, j *job, prefix string) ([]stamped, error) {
	said, err := l.Kube.CoreV1().Pods(metav1.NamespaceDefault).GetLogs(j.name, &corev1.PodLogOptions{Timestamps: true}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read log of %s: %w", j.name, err)
	}
	var all []stamped
	for line := range strings.Lines(string(said)) {
		when, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if at, err := time.Parse(time.RFC3339Nano, when); err == nil && strings.HasPrefix(text, prefix) {
			all = append(all, stamped{at, text})
		}
	}
	return all, nil
}
