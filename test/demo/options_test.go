package demo

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestOptionsJoinAllFaults(t *testing.T) {
	good := Options{Window: 2 * time.Minute, Train: 10 * time.Second, Steps: 700}
	require.NoError(t, good.Validate())
	err := Options{Window: time.Second, Train: time.Second, Steps: 10, BallastMB: -1}.Validate()
	for _, want := range []string{"window", "steps 10: want 220", "ballast"} {
		require.ErrorContains(t, err, want)
	}
}

func TestJobPodIsHardenedAndNotPinned(t *testing.T) {
	pod := Job{Name: "digits", Image: "job", Node: "a", Protect: true, Steps: 5, Pace: 50 * time.Millisecond}.Pod()
	require.Equal(t, "true", pod.Labels["lifeboat.dev/protect"])
	require.Empty(t, pod.Spec.NodeName)
	require.Empty(t, pod.Spec.NodeSelector)
	require.Nil(t, pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	require.True(t, *pod.Spec.SecurityContext.RunAsNonRoot)
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.Spec.SecurityContext.SeccompProfile.Type)
	container := pod.Spec.Containers[0]
	require.True(t, *container.SecurityContext.ReadOnlyRootFilesystem)
	require.Equal(t, []corev1.Capability{"ALL"}, container.SecurityContext.Capabilities.Drop)
	require.Contains(t, container.Env, corev1.EnvVar{Name: "STEP_SECONDS", Value: "0.05"})
	require.NotContains(t, Job{Name: "digits"}.Pod().Labels, "lifeboat.dev/protect")
}

// brokenStage fails to come up, half way.
type brokenStage struct{ down, collected int }

var errStage = errors.New("no root")

func (s *brokenStage) Up(context.Context, func(string, ...any)) (Scene, error) {
	return Scene{}, errStage
}
func (s *brokenStage) Notice(context.Context, string, time.Time) error { return nil }
func (s *brokenStage) Kill(context.Context, string) error              { return nil }
func (s *brokenStage) Collect(context.Context, string) error           { s.collected++; return nil }
func (s *brokenStage) Down(ctx context.Context) error                  { s.down++; return ctx.Err() }

func TestRunLeavesNothingBehind(t *testing.T) {
	o := Options{Root: t.TempDir(), Window: 2 * time.Minute, Train: 10 * time.Second, Steps: 700}
	old := filepath.Join(o.Root, "build", "demo", "report.json")
	require.NoError(t, Report{Pass: true}.Write(old))
	stage := &brokenStage{}
	require.ErrorIs(t, Run(context.Background(), o, stage, io.Discard), errStage)
	require.Equal(t, brokenStage{down: 1, collected: 1}, *stage)
	require.NoFileExists(t, old, "an older run's report")

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	stage = &brokenStage{}
	require.ErrorIs(t, Run(ctx, o, stage, io.Discard), errStage)
	require.Equal(t, brokenStage{down: 1}, *stage, "after Ctrl-C: nothing to explain, all taken down")
}

func TestLineWriter(t *testing.T) {
	var lines []string
	w := &lineWriter{say: func(_ string, args ...any) { lines = append(lines, args[0].(string)) }}
	for _, part := range []string{"[   1.0s] node a", " is up\n[   2.0s] node b is up\nplain\n"} {
		n, err := w.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	require.Equal(t, []string{"node a is up", "node b is up", "plain"}, lines)
}

func TestSamplerTellsFrozenFromRunning(t *testing.T) {
	root, proc := t.TempDir(), t.TempDir()
	put := func(path, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	put(filepath.Join(proc, "7", "cmdline"), "/usr/bin/python3\x00-B\x00/job/train.py\x00")
	put(filepath.Join(proc, "7", "cgroup"), "4:freezer:/pod1/x\n0::/\n")
	put(filepath.Join(proc, "8", "cmdline"), "vi\x00train.py\x00")
	put(filepath.Join(proc, "8", "cgroup"), "0::/\n")
	found := jobProcesses(proc)
	require.Len(t, found, 1)

	state := filepath.Join(root, "freezer", "pod1", "x", "freezer.state")
	for text, frozen := range map[string]bool{"THAWED\n": false, "FROZEN\n": true, "FREEZING\n": true} {
		put(state, text)
		require.Equal(t, frozen, found[0].frozen(root), text)
	}
	unified := process{cgroups: "0::/pod2\n"}
	require.False(t, unified.frozen(root), "no such group")
	put(filepath.Join(root, "pod2", "cgroup.events"), "populated 1\nfrozen 1\n")
	require.True(t, unified.frozen(root))

	s := &sampler{}
	s.watch("ab-cd", "a")
	require.Equal(t, "a", s.node("4:freezer:/kubepods/podab-cd/x"))
	require.Equal(t, "a", s.node("0::/kubepods.slice/kubepods-podab_cd.slice"))
	require.Empty(t, s.node("0::/"))
}
