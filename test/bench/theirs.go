package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
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
	return l.Remove(ctx, name)
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

// dumpWithRunc dumps to the node's disk.
func (l *handoverLab) dumpWithRunc(ctx context.Context, pod *corev1.Pod) error {
	const folder = "/var/tmp/lifeboat-bench"
	err := l.seconds(runcDump, func() error { return l.Runc(ctx, pod, folder) })
	_, fault := l.Node.Exec(ctx, "rm", "-rf", folder)
	return errors.Join(err, fault)
}

// saveWithKubelet has kubelet write a tar to the node's disk, and saves it in the bucket that Lifeboat uses, in two ways.
func (l *handoverLab) saveWithKubelet(ctx context.Context, pod *corev1.Pod) error {
	var archive string
	err := l.seconds(kubeletDump, func() (err error) {
		archive, err = l.Kubelet(ctx, pod)
		return err
	})
	if err != nil {
		return err
	}
	defer os.Remove(archive)
	client, close, err := l.Client()
	if err != nil {
		return err
	}
	defer close()
	key := pod.Name + ".tar.zst"
	if err := l.saveInTurn(ctx, client, archive, key); err != nil {
		return err
	}
	return l.seconds(pipedTar, func() error {
		_, err := l.Piped(ctx, client, key, func(to io.Writer) error { return rig.CopyFile(to, archive) })
		return err
	})
}

// saveInTurn compresses the tar, and puts it then.
func (l *handoverLab) saveInTurn(ctx context.Context, client *minio.Client, archive, key string) error {
	var packed bytes.Buffer
	err := l.seconds(zstdTar, func() error {
		f, err := os.Open(archive)
		if err != nil {
			return fmt.Errorf("open archive: %w", err)
		}
		defer f.Close()
		return rig.Zstd(&packed, f)
	})
	if err != nil {
		return err
	}
	l.Add(tarSize, float64(packed.Len())/mib)
	err = l.seconds(putTar, func() error {
		_, err := client.PutObject(ctx, l.Bed.Bucket().Name, key, &packed, int64(packed.Len()), minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return l.RemoveObject(ctx, client, key)
}
