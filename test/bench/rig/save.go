package rig

import (
	"archive/tar"
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

	"github.com/klauspost/compress/zstd"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/test/bench/room"
)

// partSize and partsAtOnce are how streams are put: as Lifeboat puts packs.
const (
	partSize    = 16 << 20
	partsAtOnce = 4
)

// Runc dumps the job's container with the node's own runc and CRIU into images and work below a folder of the node. The
// job runs on.
func (r *Rig) Runc(ctx context.Context, pod *corev1.Pod, folder string) error {
	id, err := ContainerID(pod)
	if err != nil {
		return err
	}
	_, err = r.Node.Exec(ctx, "runc", "--root", "/run/containerd/runc/k8s.io", "checkpoint", "--leave-running",
		"--image-path", folder+"/images", "--work-path", folder+"/work", id)
	return err
}

// Kubelet has the kubelet write a checkpoint of the job's container to the node's disk, and returns the tar's path as this
// process sees it. The job runs on.
func (r *Rig) Kubelet(ctx context.Context, pod *corev1.Pod) (string, error) {
	var answer struct {
		Items []string `json:"items"`
	}
	body, err := r.Kube.CoreV1().RESTClient().Post().AbsPath("/api/v1/nodes", pod.Spec.NodeName, "proxy/checkpoint",
		metav1.NamespaceDefault, pod.Name, pod.Spec.Containers[0].Name).Do(ctx).Raw()
	if err != nil {
		return "", fmt.Errorf("ask kubelet for a checkpoint of %s: %w: %s", pod.Name, err, body)
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Items) != 1 {
		return "", fmt.Errorf("ask kubelet for a checkpoint of %s: want one archive: %w: %s", pod.Name, err, body)
	}
	return r.Seen(answer.Items[0])
}

// Seen is where this process sees a path of the node.
func (r *Rig) Seen(path string) (string, error) {
	root, err := r.Node.Root()
	return filepath.Join(root, path), err
}

// Client opens the bed's bucket from within the node's network, so that theirs has the same way to it as the agent. close
// drops its connections.
func (r *Rig) Client() (_ *minio.Client, close func(), err error) {
	bucket := r.Bed.Bucket()
	endpoint, err := url.Parse(bucket.Endpoint)
	if err != nil {
		return nil, nil, fmt.Errorf("read endpoint of the bucket: %w", err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		pid, err := r.Node.PID()
		if err != nil {
			return nil, err
		}
		return room.DialFrom(ctx, pid, network, address)
	}}
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, ""),
		Region: bucket.Region, Transport: transport,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make S3 client: %w", err)
	}
	return client, transport.CloseIdleConnections, nil
}

// Piped puts what write writes, compressed, while it is written; four parts of 16 MiB at a time as Lifeboat does. It
// returns the object's size and leaves no object behind.
func (r *Rig) Piped(ctx context.Context, client *minio.Client, key string, write func(io.Writer) error) (int64, error) {
	from, to := io.Pipe()
	defer from.Close()
	go func() {
		encoder, err := NewZstd(to)
		if err == nil {
			err = errors.Join(write(encoder), encoder.Close())
		}
		to.CloseWithError(err)
	}()
	name := r.Bed.Bucket().Name
	put, err := client.PutObject(ctx, name, key, from, -1,
		minio.PutObjectOptions{PartSize: partSize, NumThreads: partsAtOnce, ConcurrentStreamParts: true})
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	return put.Size, r.RemoveObject(ctx, client, key)
}

// RemoveObject removes one that was put.
func (r *Rig) RemoveObject(ctx context.Context, client *minio.Client, key string) error {
	if err := client.RemoveObject(ctx, r.Bed.Bucket().Name, key, minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// EmptyBucket removes what jobs have left: the disk is not large.
func (r *Rig) EmptyBucket(ctx context.Context) error {
	client, close, err := r.Client()
	if err != nil {
		return err
	}
	defer close()
	name := r.Bed.Bucket().Name
	all := client.ListObjects(ctx, name, minio.ListObjectsOptions{Recursive: true})
	for fault := range client.RemoveObjects(ctx, name, all, minio.RemoveObjectsOptions{}) {
		return fmt.Errorf("remove %s: %w", fault.ObjectName, fault.Err)
	}
	return ctx.Err()
}

// NewZstd begins one plain zstd stream at the fastest level.
func NewZstd(to io.Writer) (*zstd.Encoder, error) {
	encoder, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return encoder, nil
}

// Zstd writes one plain zstd stream at the fastest level.
func Zstd(to io.Writer, from io.Reader) error {
	encoder, err := NewZstd(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(encoder, from)
	return errors.Join(err, encoder.Close())
}

// CopyFile writes a file's content.
func CopyFile(to io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(to, f); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// Tar writes the files of a flat folder as a tar.
func Tar(to io.Writer, folder string) error {
	files, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list %s: %w", folder, err)
	}
	archive := tar.NewWriter(to)
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			return fmt.Errorf("look at %s: %w", file.Name(), err)
		}
		header, err := tar.FileInfoHeader(info, "")
		if err == nil {
			err = archive.WriteHeader(header)
		}
		if err == nil && info.Mode().IsRegular() {
			err = CopyFile(archive, filepath.Join(folder, file.Name()))
		}
		if err != nil {
			return fmt.Errorf("write tar of %s: %w", folder, err)
		}
	}
	return archive.Close()
}
