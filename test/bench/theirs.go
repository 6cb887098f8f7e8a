package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/test/bench/room"
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
	l.Add(name, time.Since(start).Seconds())
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

// saveWithKubelet has kubelet write a tar to the node's disk, and saves it in the bucket that Lifeboat uses, in two ways.
func (l *handoverLab) saveWithKubelet(ctx context.Context, pod *corev1.Pod) error {
	archive, err := l.dumpWithKubelet(ctx, pod)
	if err != nil {
		return err
	}
	defer os.Remove(archive)
	client, close, err := l.clientOnNode()
	if err != nil {
		return err
	}
	defer close()
	name, key := l.bed.Bucket().Name, pod.Name+".tar.zst"
	for _, save := range []func(context.Context, *minio.Client, string, string) error{l.saveInTurn, l.savePiped} {
		if err := save(ctx, client, archive, key); err != nil {
			return err
		}
		if err := client.RemoveObject(ctx, name, key, minio.RemoveObjectOptions{}); err != nil {
			return fmt.Errorf("remove %s: %w", key, err)
		}
	}
	return nil
}

// saveInTurn compresses the tar, and puts it then.
func (l *handoverLab) saveInTurn(ctx context.Context, client *minio.Client, archive, key string) error {
	var packed bytes.Buffer
	err := l.seconds(zstdTar, func() error { return compressFile(&packed, archive) })
	if err != nil {
		return err
	}
	l.Add(tarSize, float64(packed.Len())/mib)
	return l.seconds(putTar, func() error {
		_, err := client.PutObject(ctx, l.bed.Bucket().Name, key, &packed, int64(packed.Len()), minio.PutObjectOptions{})
		return err
	})
}

// savePiped puts while it compresses, four parts of 16 MiB at a time as Lifeboat does.
func (l *handoverLab) savePiped(ctx context.Context, client *minio.Client, archive, key string) error {
	return l.seconds(pipedTar, func() error {
		from, to := io.Pipe()
		defer from.Close()
		go func() { to.CloseWithError(compressFile(to, archive)) }()
		_, err := client.PutObject(ctx, l.bed.Bucket().Name, key, from, -1,
			minio.PutObjectOptions{PartSize: packSize, NumThreads: 4, ConcurrentStreamParts: true})
		return err
	})
}

func compressFile(to io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer f.Close()
	return compress(to, f)
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

// clientOnNode opens the bucket from within the node's network. close drops its connections.
func (l *handoverLab) clientOnNode() (_ *minio.Client, close func(), err error) {
	bucket := l.bed.Bucket()
	endpoint, err := url.Parse(bucket.Endpoint)
	if err != nil {
		return nil, nil, fmt.Errorf("read endpoint of the bucket: %w", err)
	}
	transport := &http.Transport{DialContext: l.dialFromNode}
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, ""),
		Region: bucket.Region, Transport: transport,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make S3 client: %w", err)
	}
	return client, transport.CloseIdleConnections, nil
}

// dialFromNode dials from within the node's network, so that theirs has the same way to the bucket as the agent.
func (l *handoverLab) dialFromNode(ctx context.Context, network, address string) (net.Conn, error) {
	pid, err := l.node.PID()
	if err != nil {
		return nil, err
	}
	return room.DialFrom(ctx, pid, network, address)
}
