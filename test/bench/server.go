package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lifeboat-dev/lifeboat/test/bench/room"
)

const (
	serverAddress = "127.0.0.1:7070"
	serverBucket  = "bench"
	serverKey     = "lifeboat-bench"
	serverSecret  = "only-for-this-bench"
	serverRegion  = "us-east-1"
	serverStart   = 30 * time.Second

	// narrowRate is the network of the smallest spot machine, as tc writes it.
	narrowRate = "750mbit"
)

// s3Server is versitygw in a network of its own, in which there is nothing but the loopback.
type s3Server struct {
	room      *room.Room
	process   *exec.Cmd
	transport *http.Transport
	client    *minio.Client
}

// startServer starts the program; it keeps its objects in folder.
func startServer(ctx context.Context, program, folder string) (_ *s3Server, err error) {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the S3 server's folder: %w", err)
	}
	r, err := room.Open(ctx, room.Network, "ip link set lo mtu 1500 up")
	if err != nil {
		return nil, err
	}
	s := &s3Server{room: r, transport: &http.Transport{DialContext: r.Dial, MaxIdleConnsPerHost: 16}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.process = r.Command(ctx, program, "--quiet", "--port", serverAddress, "posix", folder)
	s.process.Env = append(s.process.Env, "ROOT_ACCESS_KEY="+serverKey, "ROOT_SECRET_KEY="+serverSecret)
	if err := s.process.Start(); err != nil {
		return nil, fmt.Errorf("start the S3 server: %w", err)
	}
	s.client, err = minio.New(serverAddress, &minio.Options{
		Creds: credentials.NewStaticV4(serverKey, serverSecret, ""), Region: serverRegion, Transport: s.transport,
	})
	if err != nil {
		return nil, fmt.Errorf("make S3 client: %w", err)
	}
	return s, s.makeBucket(ctx)
}

// makeBucket waits for the server.
func (s *s3Server) makeBucket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.client.MakeBucket(ctx, serverBucket, minio.MakeBucketOptions{Region: serverRegion})
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("make bucket: %w", err)
		}
	}
}

// narrow limits what goes over the loopback, both directions together, to narrowRate.
func (s *s3Server) narrow(ctx context.Context) error {
	_, err := s.room.Run(ctx, "tc", "qdisc", "replace", "dev", "lo", "root", "tbf", "rate", narrowRate,
		"burst", "256k", "latency", "50ms")
	return err
}

// url is how store/open opens the bucket, with s.transport and the credentials that setCredentials leaves.
func (s *s3Server) url() string {
	return "s3://" + serverBucket + "/ours?path-style=true&region=" + serverRegion + "&endpoint=http://" + serverAddress
}

// setCredentials puts the server's into this process's environment, where package store/s3 looks.
func setCredentials() error {
	return errors.Join(os.Setenv("AWS_ACCESS_KEY_ID", serverKey), os.Setenv("AWS_SECRET_ACCESS_KEY", serverSecret))
}

// Close ends the server and its network.
func (s *s3Server) Close() error {
	s.transport.CloseIdleConnections()
	err := s.room.Close()
	if s.process.Process != nil {
		_ = s.process.Wait() // it was killed
	}
	return err
}
