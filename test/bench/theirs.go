package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// theirs measures, for a job that Lifeboat does not protect, what is there without it.
func (l *handoverLab) theirs(ctx context.Context, name string) error {
	pod, err := l.startJob(ctx, name, false)
	if err != nil {
		return err
	}
	if err := l.dumpWithRunc(ctx, pod); err != nil {
		return err
	}
	if err := l.saveWithKubelet(ctx, pod); err != nil {
		return err
	}
	return l.removeJob(ctx, name)
}

// seconds adds how long fn took. For what is done by other processes, of which CPU time would say nothing.
func (l *handoverLab) seconds(name string, fn func() error) error {
	start := time.Now()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	l.add(name, time.Since(start).Seconds())
	return nil
}

// dumpWithRunc dumps to the node's disk with the node's own runc and CRIU.
func (l *handoverLab) dumpWithRunc(ctx context.Context, pod *corev1.Pod) error {
	const folder = "/var/tmp/lifeboat-bench"
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	err := l.seconds(runcDump, func() error {
		_, err := l.node.Exec(ctx, "runc", "--root", "/run/containerd/runc/k8s.io", "checkpoint", "--leave-running",
			"--image-path", folder+"/images", "--work-path", folder+"/work", id)
		return err
	})
	_, fault := l.node.Exec(ctx, "rm", "-rf", folder)
	return errors.Join(err, fault)
}

// saveWithKubelet has kubelet write a tar to the node's disk, compresses it, and puts it into the bucket that Lifeboat
// uses: one step after the other, as a script does.
func (l *handoverLab) saveWithKubelet(ctx context.Context, pod *corev1.Pod) error {
	archive, err := l.dumpWithKubelet(ctx, pod)
	if err != nil {
		return err
	}
	defer os.Remove(archive)
	var packed bytes.Buffer
	err = l.seconds(zstdTar, func() error {
		f, err := os.Open(archive)
		if err != nil {
			return err
		}
		defer f.Close()
		return compress(&packed, f)
	})
	if err != nil {
		return err
	}
	l.add(tarSize, float64(packed.Len())/mib)
	return l.putTar(ctx, pod.Name+".tar.zst", &packed)
}

// dumpWithKubelet returns the tar's path as this process sees it.
func (l *handoverLab) dumpWithKubelet(ctx context.Context, pod *corev1.Pod) (string, error) {
	var answer struct {
		Items []string `json:"items"`
	}
	err := l.seconds(kubeletDump, func() error {
		body, err := l.kube.CoreV1().RESTClient().Post().AbsPath("/api/v1/nodes", pod.Spec.NodeName, "proxy/checkpoint",
			metav1.NamespaceDefault, pod.Name, pod.Spec.Containers[0].Name).Do(ctx).Raw()
		if err != nil {
			return fmt.Errorf("%w: %s", err, body)
		}
		return json.Unmarshal(body, &answer)
	})
	if err != nil {
		return "", err
	}
	if len(answer.Items) != 1 {
		return "", fmt.Errorf("%s: want one archive, got %d", kubeletDump, len(answer.Items))
	}
	root, err := l.node.Root()
	return filepath.Join(root, answer.Items[0]), err
}

func (l *handoverLab) putTar(ctx context.Context, key string, body *bytes.Buffer) error {
	bucket := l.bed.Bucket()
	endpoint, err := url.Parse(bucket.LocalEndpoint)
	if err != nil {
		return fmt.Errorf("read endpoint of the bucket: %w", err)
	}
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds: credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, ""), Region: bucket.Region,
	})
	if err != nil {
		return fmt.Errorf("make S3 client: %w", err)
	}
	err = l.seconds(putTar, func() error {
		_, err := client.PutObject(ctx, bucket.Name, key, body, int64(body.Len()), minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		return err
	}
	if err := client.RemoveObject(ctx, bucket.Name, key, minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}
