package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/oci"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/pidone"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/relay"
)

// A bridge that is given no address takes the lowest of its ports', and another one when that port goes: after the death of one
// node the other would not reach the API server until its ARP entry expires, half a minute later, in every second bed.
const bridge, bridgeAddress = "br0", "02:00:00:00:00:01"

// hub brings up the network in which this process lives: a bridge for the nodes and the API's service address.
func (s *supervisor) hub(context.Context) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	for _, c := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "addr", "add", layout.ServiceAddress + "/32", "dev", "lo"},
		{"ip", "link", "add", bridge, "address", bridgeAddress, "type", "bridge"},
		{"ip", "addr", "add", layout.HubAddress + "/24", "dev", bridge},
		{"ip", "link", "set", bridge, "up"},
	} {
		if err := s.reaper.Command(c...); err != nil {
			return err
		}
	}
	return nil
}

// services starts the registry, the S3 server and the relays.
func (s *supervisor) services(ctx context.Context) error {
	apiAddress := hostPort(layout.HubAddress, layout.APIPort)
	bucketAddress := hostPort(layout.HubAddress, layout.BucketPort)
	in, err := net.Listen("tcp", hostPort(layout.ServiceAddress, 443))
	if err != nil {
		return fmt.Errorf("listen on the API's service address: %w", err)
	}
	api, err := inherited(FdAPI)
	if err != nil {
		return err
	}
	bucket, err := inherited(FdBucket)
	if err != nil {
		return err
	}
	s.group.Go(func() error { return relay.Serve(ctx, in, apiAddress) })
	s.group.Go(func() error { return relay.Serve(ctx, api, apiAddress) })
	s.group.Go(func() error { return relay.Serve(ctx, bucket, bucketAddress) })
	if err := s.serveRegistry(ctx); err != nil {
		return err
	}
	if s.BucketTarget != "" {
		return s.outward(bucketAddress, s.BucketTarget)
	}
	s.bucket = s.service(ctx, "s3", filepath.Join(s.Tools, "versitygw"), "--port", bucketAddress, "--quiet",
		"posix", s.Dir.Path("s3"))
	return s.awaitBucket(ctx)
}

// awaitBucket waits for the S3 server and makes the bucket where there is none.
func (s *supervisor) awaitBucket(ctx context.Context) error {
	client, err := minio.New(hostPort(layout.HubAddress, layout.BucketPort), &minio.Options{
		Creds: credentials.NewStaticV4(layout.AccessKey, layout.SecretKey, ""), Region: layout.Region, MaxRetries: 1})
	if err != nil {
		return fmt.Errorf("make bucket: %w", err)
	}
	return await(ctx, "the S3 server", readyTimeout, func(ctx context.Context) error {
		exists, err := client.BucketExists(ctx, layout.Bucket)
		if err != nil || exists {
			return err
		}
		return client.MakeBucket(ctx, layout.Bucket, minio.MakeBucketOptions{Region: layout.Region})
	})
}

// serveRegistry serves images to the nodes and to this machine, and puts the pause image there.
func (s *supervisor) serveRegistry(ctx context.Context) error {
	handler := registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(s.Dir.Path("registry"))),
		registry.Logger(log.New(io.Discard, "", 0)))
	in, err := net.Listen("tcp", hostPort(layout.HubAddress, layout.RegistryPort))
	if err != nil {
		return fmt.Errorf("serve the registry: %w", err)
	}
	out, err := inherited(FdRegistry)
	if err != nil {
		return err
	}
	for _, l := range []net.Listener{in, out} {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		context.AfterFunc(ctx, func() { server.Close() })
		s.group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the registry: %w", err)
			}
			return nil
		})
	}
	_, err = oci.PushFiles(ctx, in.Addr().String(), "pause:1", s.Dir.Path("tmp"), "", map[string]string{"/pause": s.Pause},
		v1.Config{Entrypoint: []string{"/pause"}})
	return err
}

// outward lets the nodes reach a service of the machine: a listener opened here is served by a process in the machine's
// root network namespace.
func (s *supervisor) outward(listen, target string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("relay %s: %w", target, err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return fmt.Errorf("relay %s: %w", target, err)
	}
	defer f.Close()
	_, err = s.reaper.Start(pidone.Spec{
		Args:  []string{"nsenter", "--net=/proc/self/fd/4", s.BedBinary, "relay", "--listener-fd", "3", target},
		Env:   s.environment(),
		Files: []*os.File{f, s.hostNet}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return fmt.Errorf("relay %s: %w", target, err)
	}
	return nil
}
