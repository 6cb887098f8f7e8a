// Package rig is what parts of the bench measure on: a test bed with Lifeboat, jobs on its node a, and what one would save
// them with without Lifeboat: runc, the kubelet's checkpoint API, zstd, an S3 client.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/process"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Source is the node that jobs start on.
const Source = "a"

// Eager has rounds follow each other as soon as is useful for a bench: by default they may take 1.5 % of the node, and a
// first round of 8 GiB takes a quarter of an hour. What is measured after the last round does not depend on it.
var Eager = []string{"LIFEBOAT_CPU_SHARE=1", "LIFEBOAT_POD_CPU=2", "LIFEBOAT_NETWORK_SHARE=1", "LIFEBOAT_INTERVAL=15s"}

// Rig is a bed that is up until Close.
type Rig struct {
	Bed  *bed.Cluster
	Node *bed.Node // Source
	// Kube is nil before Install.
	Kube *deploy.Kube

	root, image string
	progress    io.Writer
}

// Open brings a bed of its own up below the checkout's build folder.
func Open(ctx context.Context, checkout string, progress io.Writer) (*Rig, error) {
	cluster, err := bed.Up(ctx, bed.Options{Dir: filepath.Join(checkout, "build", "bench-bed"), Progress: progress})
	if err != nil {
		return nil, err
	}
	r := &Rig{Bed: cluster, root: checkout, progress: progress}
	if r.Node, err = cluster.Node(Source); err != nil {
		return nil, errors.Join(err, cluster.Down(context.WithoutCancel(ctx)))
	}
	return r, nil
}

// Close takes the bed down. Where there was a fault, logs are kept, and the error says so.
func (r *Rig) Close(ctx context.Context, fault error) error {
	ctx = context.WithoutCancel(ctx)
	if fault != nil {
		logs := filepath.Join(os.TempDir(), "lifeboat-bench-logs")
		fmt.Fprintln(r.progress, "bench: logs are in", logs, deploy.CollectLogs(ctx, r.Bed, logs))
	}
	return errors.Join(fault, r.Bed.Down(ctx))
}

// Install puts Lifeboat onto the bed, with settings other than the defaults as variables (LIFEBOAT_INTERVAL). A second
// call changes what differs.
func (r *Rig) Install(ctx context.Context, settings ...string) (err error) {
	if r.image == "" {
		if r.image, err = deploy.BuildImage(ctx, r.Bed, r.progress); err != nil {
			return err
		}
	}
	if r.Kube, err = deploy.Install(ctx, r.Bed, deploy.Options{Image: r.image, Settings: settings}); err != nil {
		return fmt.Errorf("install Lifeboat: %w", err)
	}
	return nil
}

// ProgramImage makes an image of one static program of the checkout, a package path as go build takes it.
func (r *Rig) ProgramImage(ctx context.Context, program, folder string) (string, error) {
	name := filepath.Base(program)
	binary := filepath.Join(folder, name)
	if err := bed.BuildBinary(ctx, program, binary); err != nil {
		return "", err
	}
	return r.Bed.BinaryImage(ctx, name, map[string]string{"/" + name: binary}, v1.Config{Entrypoint: []string{"/" + name}})
}

// Remove deletes a job and its Checkpoint until both are gone.
func (r *Rig) Remove(ctx context.Context, name string) error {
	return deploy.Until(ctx, "end of "+name, func(ctx context.Context) (bool, string, error) {
		out, err := r.Kube.Kubectl(ctx, nil, "-n", metav1.NamespaceDefault, "delete", "checkpoint/"+name, "pod/"+name,
			"--ignore-not-found", "--force", "--grace-period=0", "--wait=false")
		return err == nil && out == "", out, err
	})
}

// Clear removes all jobs and what is stored of them, and the notice.
func (r *Rig) Clear(ctx context.Context) error {
	pods, err := r.Kube.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for i := range pods.Items {
		if err := r.Remove(ctx, pods.Items[i].Name); err != nil {
			return err
		}
	}
	return errors.Join(r.Calm(ctx), r.EmptyBucket(ctx))
}

// Calm takes the notice back and waits until the source node takes pods again.
func (r *Rig) Calm(ctx context.Context) error {
	if err := r.Node.ClearNotice(ctx); err != nil {
		return err
	}
	return deploy.Until(ctx, "node "+Source+" without taint", func(ctx context.Context) (bool, string, error) {
		node, err := r.Kube.CoreV1().Nodes().Get(ctx, Source, metav1.GetOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		for _, taint := range node.Spec.Taints {
			if taint.Key == v1alpha1.TaintEvacuating {
				return false, "tainted", nil
			}
		}
		return true, "", nil
	})
}

// AgentPod is Lifeboat's agent on a node.
func (r *Rig) AgentPod(ctx context.Context, node string) (*corev1.Pod, error) {
	pods, err := r.Kube.CoreV1().Pods(deploy.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=lifeboat-agent", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil {
		return nil, fmt.Errorf("find the agent: %w", err)
	}
	running := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(running) != 1 {
		return nil, fmt.Errorf("find the agent: %d pods on node %s, want 1", len(running), node)
	}
	return &running[0], nil
}

// AgentPID is the process of that agent on this machine.
func (r *Rig) AgentPID(ctx context.Context, node string) (int, error) {
	pod, err := r.AgentPod(ctx, node)
	if err != nil {
		return 0, err
	}
	id, err := ContainerID(pod)
	if err != nil {
		return 0, err
	}
	return process.First(id)
}

// ContainerID is that of the job's only container, as the OCI runtime knows it.
func ContainerID(pod *corev1.Pod) (string, error) {
	const scheme = "containerd://"
	if s := pod.Status.ContainerStatuses; len(s) == 1 && len(s[0].ContainerID) > len(scheme) {
		return s[0].ContainerID[len(scheme):], nil
	}
	return "", fmt.Errorf("pod %s has no running container", pod.Name)
}
