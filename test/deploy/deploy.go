// Package deploy puts Lifeboat onto a test cluster with the project's own manifests, takes it off again, and waits for
// what follows. The demo and the end-to-end tests share it.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Namespace is where the manifests put Lifeboat.
const Namespace = "lifeboat-system"

// Cluster is the cluster's name in the bucket.
const Cluster = "test"

// Hasty are settings of Lifeboat that suit short tests: rounds come soon and take what they want.
var Hasty = []string{"LIFEBOAT_INTERVAL=10s", "LIFEBOAT_CPU_SHARE=1", "LIFEBOAT_POD_CPU=1", "LIFEBOAT_NETWORK_SHARE=1"}

// Stores that Options may name.
const (
	StoreS3   = "s3"
	StoreFile = "file"
)

// Site is what an installation has to know of the cluster.
type Site struct {
	// Root is the checkout that holds manifests/.
	Root string
	// Work is where the generated overlay goes. Like Root it has no symbolic links: kustomize takes relative paths only.
	Work string
	// Image is the image reference that nodes pull.
	Image string
	// Bucket is LIFEBOAT_BUCKET, an s3:// or file:// URL.
	Bucket string
	// AccessKey and SecretKey open an s3 bucket.
	AccessKey, SecretKey string
	// MetadataEndpoint stands in place of the cloud's metadata address; empty for the real one.
	MetadataEndpoint string
	// Settings are more variables of the configuration, NAME=VALUE each.
	Settings []string
	// Nodes are the nodes that must be ready to restore when Apply returns.
	Nodes []string
}

// Apply applies the manifests and waits until the agent runs on every node, the controller is available, and every
// node of the site bears the label that its runtime has passed the self-test.
func (k *Kube) Apply(ctx context.Context, site Site) error {
	overlay, err := writeOverlay(site)
	if err != nil {
		return err
	}
	if _, err := k.Kubectl(ctx, nil, "apply", "-k", overlay); err != nil {
		return fmt.Errorf("apply manifests: %w", err)
	}
	if err := k.WaitWorkloads(ctx); err != nil {
		return err
	}
	return k.WaitRuntime(ctx, site.Nodes...)
}

// Remove takes off what Apply applied, as docs/operations.md has users do it: no agent that could label its node again,
// the labels, the runtime of every node, then the rest. The CRD, the namespace and the overlay with its key stay.
func (k *Kube) Remove(ctx context.Context, site Site) error {
	overlay, err := writeRemoval(site)
	if err != nil {
		return err
	}
	steps := []struct {
		what string
		args []string
	}{
		{"delete webhook", []string{"delete", "mutatingwebhookconfiguration", "lifeboat", "--ignore-not-found"}},
		{"delete agents", []string{"-n", Namespace, "delete", "daemonset", "lifeboat-agent", "--cascade=foreground", "--ignore-not-found"}},
		{"take labels off", []string{
			"label", "nodes", "--all", v1alpha1.LabelRuntimeReady + "-", v1alpha1.LabelCPULevel + "-", v1alpha1.LabelCPUFeatures + "-",
			v1alpha1.LabelKernel + "-", v1alpha1.LabelCRIU + "-",
		}},
		{"apply uninstaller", []string{"apply", "-k", overlay}},
		{"wait for uninstaller", []string{"-n", Namespace, "rollout", "status", "daemonset/lifeboat-agent"}},
		{"delete the rest", []string{"delete", "-k", overlay, "--ignore-not-found"}},
	}
	for _, step := range steps {
		if _, err := k.Kubectl(ctx, nil, step.args...); err != nil {
			return fmt.Errorf("%s: %w; %s", step.what, err, k.unready(ctx))
		}
	}
	return nil
}

// WaitWorkloads waits until the agent runs on every node and all replicas of the controller are available.
func (k *Kube) WaitWorkloads(ctx context.Context) error {
	return Until(ctx, "agents and controller in "+Namespace, func(ctx context.Context) (bool, string, error) {
		sets, err := k.AppsV1().DaemonSets(Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, "", passing(err)
		}
		deployments, err := k.AppsV1().Deployments(Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, "", passing(err)
		}
		for i := range sets.Items {
			if set := &sets.Items[i]; !daemonSetReady(set) {
				return false, fmt.Sprintf("%s on %d of %d nodes; %s", set.Name, set.Status.NumberAvailable, set.Status.DesiredNumberScheduled, k.unready(ctx)), nil
			}
		}
		for i := range deployments.Items {
			if d := &deployments.Items[i]; !deploymentReady(d) {
				return false, fmt.Sprintf("%s has %d of %d replicas; %s", d.Name, d.Status.AvailableReplicas, d.Status.Replicas, k.unready(ctx)), nil
			}
		}
		return len(sets.Items) > 0 && len(deployments.Items) > 0, "manifests applied", nil
	})
}

func daemonSetReady(d *appsv1.DaemonSet) bool {
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.DesiredNumberScheduled > 0 &&
		s.NumberAvailable == s.DesiredNumberScheduled && s.UpdatedNumberScheduled == s.DesiredNumberScheduled
}

func deploymentReady(d *appsv1.Deployment) bool {
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.Replicas > 0 && s.AvailableReplicas == s.Replicas && s.UpdatedReplicas == s.Replicas
}

// unready names the first pod of ours that is not ready, and why.
func (k *Kube) unready(ctx context.Context) string {
	pods, err := k.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !PodReady(pod) {
			return pod.Name + ": " + podState(pod)
		}
	}
	return "all pods ready"
}

// PodReady says whether the pod's Ready condition is true.
func PodReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// WaitRuntime waits until each node is ready and bears the label that lets pods of the RuntimeClass onto it.
func (k *Kube) WaitRuntime(ctx context.Context, nodes ...string) error {
	for _, name := range nodes {
		err := Until(ctx, "runtime on node "+name, func(ctx context.Context) (bool, string, error) {
			node, err := k.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, "", passing(err)
			}
			label := node.Labels[v1alpha1.LabelRuntimeReady]
			return label == "true" && nodeReady(node), fmt.Sprintf("ready=%v, label %s=%q; %s", nodeReady(node), v1alpha1.LabelRuntimeReady, label, k.unready(ctx)), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func nodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// CollectLogs writes logs of Lifeboat's pods, Checkpoints, Events, pods and nodes into the folder. It goes on past what
// cannot be had; the error joins all that was missing.
func (k *Kube) CollectLogs(ctx context.Context, folder string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", folder, err)
	}
	var faults []error
	save := func(name string, args ...string) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // logs of pods on a dead node do not come at all
		defer cancel()
		text, err := k.Kubectl(ctx, nil, args...)
		if err != nil {
			text += "\n" + err.Error() + "\n"
		}
		faults = append(faults, err, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644))
	}
	save("checkpoints.yaml", "get", "checkpoints."+v1alpha1.GroupName, "-A", "-o", "yaml")
	save("events.txt", "get", "events", "-A", "--sort-by=.metadata.creationTimestamp")
	save("pods.yaml", "get", "pods", "-A", "-o", "yaml")
	save("nodes.yaml", "get", "nodes", "-o", "yaml")
	pods, err := k.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list pods of %s: %w", Namespace, err)
	}
	for _, pod := range pods.Items {
		save(pod.Name+".log", "-n", Namespace, "logs", pod.Name, "--all-containers", "--prefix", "--timestamps")
	}
	return errors.Join(faults...)
}
