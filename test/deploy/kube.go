package deploy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// pollEvery is how often a wait looks again.
const pollEvery = 100 * time.Millisecond

// Kube is a connection to a cluster's API server as its administrator.
type Kube struct {
	kubernetes.Interface
	dynamic             dynamic.Interface
	kubeconfig, kubectl string
}

// Connect opens the cluster that the kubeconfig file names. kubectl is the program for Kubectl.
func Connect(kubeconfig, kubectl string) (*Kube, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", kubeconfig, err)
	}
	config.QPS, config.Burst = 100, 200
	config.WarningHandler = rest.NoWarnings{}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", kubeconfig, err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make dynamic client of %s: %w", kubeconfig, err)
	}
	return &Kube{Interface: clients, dynamic: dyn, kubeconfig: kubeconfig, kubectl: kubectl}, nil
}

// Dynamic is the same connection for kinds that Go has no types for.
func (k *Kube) Dynamic() dynamic.Interface { return k.dynamic }

// Kubectl runs kubectl with stdin and returns its standard output. The error holds what it wrote to standard error.
func (k *Kube) Kubectl(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, k.kubectl, append([]string{"--kubeconfig", k.kubeconfig}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Until calls done every 100 ms until it says true or fails, or ctx ends; then the error names what was waited for and
// the state that done told last.
func Until(ctx context.Context, what string, done func(ctx context.Context) (ok bool, state string, err error)) error {
	state := "nothing seen"
	err := wait.PollUntilContextCancel(ctx, pollEvery, true, func(ctx context.Context) (bool, error) {
		ok, now, err := done(ctx)
		if now != "" {
			state = now
		}
		return ok, err
	})
	if err != nil {
		return fmt.Errorf("wait for %s (last seen: %s): %w", what, state, err)
	}
	return nil
}

// WaitPod waits until the pod exists and satisfies ok, and returns it as it then was. An error of ok ends the wait.
func (k *Kube) WaitPod(ctx context.Context, namespace, name, what string, ok func(*corev1.Pod) (bool, error)) (*corev1.Pod, error) {
	var pod *corev1.Pod
	err := Until(ctx, "pod "+namespace+"/"+name+" "+what, func(ctx context.Context) (bool, string, error) {
		now, err := k.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, "", passing(err)
		}
		pod = now
		done, err := ok(now)
		return done, podState(now), err
	})
	return pod, err
}

// podState is one line for error messages.
func podState(pod *corev1.Pod) string {
	state := fmt.Sprintf("%s on node %q", pod.Status.Phase, pod.Spec.NodeName)
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			state += fmt.Sprintf(", %s: %s %s", c.Name, w.Reason, w.Message)
		}
		if t := c.State.Terminated; t != nil {
			state += fmt.Sprintf(", %s ended with exit code %d: %s", c.Name, t.ExitCode, t.Message)
		}
	}
	return state
}

// Checkpoints names the kind to a dynamic client.
var Checkpoints = schema.GroupVersionResource{Group: v1alpha1.GroupName, Version: "v1alpha1", Resource: "checkpoints"}

// Checkpoint reads the Checkpoint of a pod identity.
func (k *Kube) Checkpoint(ctx context.Context, namespace, name string) (*v1alpha1.Checkpoint, error) {
	object, err := k.dynamic.Resource(Checkpoints).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get checkpoint %s/%s: %w", namespace, name, err)
	}
	var c v1alpha1.Checkpoint
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &c); err != nil {
		return nil, fmt.Errorf("read checkpoint %s/%s: %w", namespace, name, err)
	}
	return &c, nil
}

// ListCheckpoints lists the Checkpoints of a namespace, of all where it is empty.
func (k *Kube) ListCheckpoints(ctx context.Context, namespace string) ([]v1alpha1.Checkpoint, error) {
	objects, err := k.dynamic.Resource(Checkpoints).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list checkpoints of %s: %w", namespace, err)
	}
	out := make([]v1alpha1.Checkpoint, len(objects.Items))
	for i := range objects.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(objects.Items[i].Object, &out[i]); err != nil {
			return nil, fmt.Errorf("read checkpoint %s/%s: %w", namespace, objects.Items[i].GetName(), err)
		}
	}
	return out, nil
}

// CheckpointsOf lists the Checkpoints of pods whose owner has that name, or is a ReplicaSet of the Deployment of that name, and
// that of the bare pod of that name.
func (k *Kube) CheckpointsOf(ctx context.Context, namespace, owner string) ([]v1alpha1.Checkpoint, error) {
	all, err := k.ListCheckpoints(ctx, namespace)
	return slices.DeleteFunc(all, func(c v1alpha1.Checkpoint) bool {
		o := c.Spec.Identity.Owner
		if o == nil {
			return c.Spec.Identity.Name != owner
		}
		return o.Name != owner && (o.Kind != "ReplicaSet" || !strings.HasPrefix(o.Name, owner+"-"))
	}), err
}

// WaitCheckpoint waits until the Checkpoint exists and satisfies ok, and returns it as it then was.
func (k *Kube) WaitCheckpoint(ctx context.Context, namespace, name, what string, ok func(*v1alpha1.Checkpoint) bool) (*v1alpha1.Checkpoint, error) {
	var found *v1alpha1.Checkpoint
	err := Until(ctx, "checkpoint "+namespace+"/"+name+" "+what, func(ctx context.Context) (bool, string, error) {
		now, err := k.Checkpoint(ctx, namespace, name)
		if err != nil {
			return false, "", passing(err)
		}
		found = now
		return ok(now), checkpointState(now), nil
	})
	return found, err
}

func checkpointState(c *v1alpha1.Checkpoint) string {
	parts := make([]string, 0, len(c.Status.Conditions))
	for _, condition := range c.Status.Conditions {
		parts = append(parts, fmt.Sprintf("%s=%s (%s) %s", condition.Type, condition.Status, condition.Reason, condition.Message))
	}
	if len(parts) == 0 {
		return "no conditions"
	}
	return strings.Join(parts, "; ")
}

// Runs says, half a second from now, whether this very pod still has a running container.
func (k *Kube) Runs(ctx context.Context, pod *corev1.Pod) (bool, error) {
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-timer.C:
	}
	now, err := k.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return now.UID == pod.UID && now.Status.Phase == corev1.PodRunning, nil
}

// FollowLogs hands every line of the pod's only container, with a time stamp before it, to line until the container
// ends, its node vanishes, or ctx ends. Only the last and an error of line's are errors.
func (k *Kube) FollowLogs(ctx context.Context, namespace, pod string, line func(string) error) error {
	stream, err := k.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Follow: true, Timestamps: true}).Stream(ctx)
	if err != nil {
		return fmt.Errorf("follow logs of %s/%s: %w", namespace, pod, err)
	}
	defer stream.Close()
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		if err := line(lines.Text()); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// passing returns nil for errors that a wait outlives: not there yet, or the API server did not answer this time.
func passing(err error) error {
	var status apierrors.APIStatus
	if apierrors.IsNotFound(err) || !errors.As(err, &status) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) {
		return nil
	}
	return err
}
