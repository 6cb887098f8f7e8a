package s3_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store/s3"
)

const (
	accessKey   = "lifeboat-test"
	secretKey   = "only-for-this-test"
	minioKMSKey = "lifeboat-key"
)

// servers are the S3 servers that the bucket is tried against.
var servers = []struct {
	name  string
	start func(*testing.T) *server
}{{"versitygw", startVersitygw}, {"minio", startMinio}}

// server is an S3 server of its own for one test, on a free port of the loopback.
type server struct {
	address string
	buckets atomic.Int32
}

func setKeys(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
}

func startVersitygw(t *testing.T) *server {
	t.Helper()
	binary := program(t, "LIFEBOAT_VERSITYGW", "versitygw")
	s := &server{address: freeAddress(t)}
	cmd := exec.Command(binary, "--quiet", "--port", s.address, "--health", "/health", "posix", t.TempDir())
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	s.run(t, cmd, "/health")
	return s
}

func startMinio(t *testing.T) *server {
	t.Helper()
	binary := program(t, "LIFEBOAT_MINIO", "MinIO")
	s := &server{address: freeAddress(t)}
	dir := t.TempDir()
	cmd := exec.Command(binary, "server", "--quiet", "--address", s.address, "--certs-dir", filepath.Join(dir, "certs"),
		filepath.Join(dir, "data"))
	cmd.Env = []string{
		"HOME=" + dir, "MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + secretKey,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off",
		"MINIO_CI_CD=on", // takes a folder of the root file system for a disk
		"MINIO_KMS_SECRET_KEY=" + minioKMSKey + ":" + base64.StdEncoding.EncodeToString(make([]byte, 32)),
	}
	s.run(t, cmd, "/minio/health/ready")
	return s
}

// program returns the path that test/run hands over; CI fails by the skip.
func program(t *testing.T, variable, name string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("needs %s as S3 server: `build/bin/bed prepare` builds it and prints %s for the environment (make test does both)",
			name, variable)
	}
	return path
}

// run starts the program, waits until it is ready, and has it ended with the test.
func (s *server) run(t *testing.T, cmd *exec.Cmd, readyPath string) {
	t.Helper()
	setKeys(t)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The kernel sends Pdeathsig when the thread ends that started the process.
	runtime.LockOSThread()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		defer runtime.UnlockOSThread()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !answers(ctx, "http://"+s.address+readyPath) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.Fail(t, "the server is not ready after 30 s", "%s", cmd)
		}
	}
}

func answers(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// newBucket makes an empty bucket and says where it is.
func (s *server) newBucket(t *testing.T) s3.Options {
	t.Helper()
	client, err := minio.New(s.address, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
	require.NoError(t, err)
	name := fmt.Sprintf("bucket-%d", s.buckets.Add(1))
	require.NoError(t, client.MakeBucket(t.Context(), name, minio.MakeBucketOptions{}))
	return s3.Options{Bucket: name, Endpoint: s.address, Insecure: true, Style: s3.PathStyle}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}
