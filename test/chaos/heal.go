package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// heal puts everything right that a run may have left broken, and waits until the bed is as it was. Pods of Lifeboat whose containers
// have ended are made anew: the kubelet would wait longer and longer before it starts them again.
func (w *World) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	if err := errors.Join(w.Bed.ResumeBucket(ctx), w.Bed.StartBucket(ctx), w.Bed.StartAPI(ctx)); err != nil {
		return fmt.Errorf("heal the bed: %w", err)
	}
	for _, name := range []string{"a", "b"} {
		n, err := w.Bed.Node(name)
		if err != nil {
			return err
		}
		if _, err := n.PID(); err != nil {
			if err := n.Start(ctx); err != nil {
				return fmt.Errorf("heal the bed: %w", err)
			}
		}
		if err := errors.Join(n.ClearNotice(ctx), w.Kube.WaitRuntime(ctx, name)); err != nil {
			return fmt.Errorf("heal the bed: %w", err)
		}
		if err := w.outOfService(ctx, name, false); err != nil {
			return fmt.Errorf("heal the bed: %w", err)
		}
	}
	if err := w.renew(ctx); err != nil {
		return fmt.Errorf("heal the bed: %w", err)
	}
	return deploy.Until(ctx, "nodes without taints", func(ctx context.Context) (bool, string, error) {
		nodes, err := w.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		state := ""
		for i := range nodes.Items {
			for _, taint := range nodes.Items[i].Spec.Taints {
				state += nodes.Items[i].Name + ": " + taint.Key + " "
			}
		}
		return state == "" && len(nodes.Items) == 2, state, nil
	})
}

// renew deletes Lifeboat's pods whose containers have ended and waits for others.
func (w *World) renew(ctx context.Context) error {
	begun := time.Now()
	pods := w.Kube.CoreV1().Pods(deploy.Namespace)
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.DeletionTimestamp != nil || !ended(pod) {
			continue
		}
		if err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete pod %s: %w", pod.Name, err)
		}
	}
	if err := w.Kube.WaitWorkloads(ctx); err != nil {
		return err
	}
	// A DaemonSet's figures may still be those of before.
	return deploy.Until(ctx, "agents", func(ctx context.Context) (bool, string, error) {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		for i := range list.Items {
			if pod := &list.Items[i]; pod.DeletionTimestamp != nil || !deploy.PodReady(pod) {
				return false, pod.Name + " is not ready after " + time.Since(begun).Round(time.Second).String(), nil
			}
		}
		return len(list.Items) >= 4, fmt.Sprintf("%d pods of Lifeboat", len(list.Items)), nil
	})
}

// ended says whether a container of the pod has ended, and was perhaps started again.
func ended(pod *corev1.Pod) bool {
	for _, s := range pod.Status.ContainerStatuses {
		if s.RestartCount > 0 || s.State.Terminated != nil {
			return true
		}
	}
	return pod.Labels[v1alpha1.LabelProtect] == "" && pod.Status.Phase == corev1.PodFailed
}

// healedLogs is where the logs of Lifeboat's pods are put that healing makes anew.
func (r *run) healedLogs() string { return filepath.Join(r.logs, "before-healing") }

// keepLogs copies the logs of all of Lifeboat's pods.
func (r *run) keepLogs() error {
	for _, node := range []string{"a", "b"} {
		found, err := filepath.Glob(filepath.Join(r.Bed.Dir(), "nodes", node, "log", "pods", deploy.Namespace+"_*"))
		if err != nil {
			return err
		}
		for _, from := range found {
			to := filepath.Join(r.healedLogs(), node, filepath.Base(from))
			if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755)); err != nil {
				return fmt.Errorf("keep logs: %w", err)
			}
			_ = os.CopyFS(to, os.DirFS(from)) // a log that goes meanwhile is no fault
		}
	}
	return nil
}
