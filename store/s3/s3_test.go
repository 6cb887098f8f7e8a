package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/s3"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

const (
	accessKey = "lifeboat-test"
	secretKey = "only-for-this-test"
)

// startServer runs a versitygw on a free port of the loopback and returns its address and its folder, in which every
// folder is a bucket.
func startServer(t *testing.T) (address, dir string) {
	t.Helper()
	binary := os.Getenv("LIFEBOAT_VERSITYGW")
	if binary == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("LIFEBOAT_VERSITYGW is not set: CI must test the s3 bucket against a real server")
		}
		t.Skip("needs an S3 server: build github.com/versity/versitygw/cmd/versitygw in test/bed/tools and name the " +
			"binary in LIFEBOAT_VERSITYGW (make test does)")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	dir = t.TempDir()
	address = freeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, binary, "--quiet", "--port", address, "posix", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "versitygw does not listen")
	return address, dir
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func TestContract(t *testing.T) {
	address, dir := startServer(t)
	var buckets atomic.Int32
	for _, prefix := range []string{"", "some/prefix"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Bucket {
				name := fmt.Sprintf("bucket-%d", buckets.Add(1))
				require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
				bucket, err := s3.Open(s3.Options{Bucket: name, Prefix: prefix, Endpoint: address, Insecure: true, PathStyle: true})
				require.NoError(t, err)
				return bucket
			})
		})
	}
}

// damage replaces every body on its way.
type damage struct{}

// RoundTrip implements http.RoundTripper.
func (damage) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPut {
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(strings.NewReader("hellO"))
	}
	return http.DefaultTransport.RoundTrip(req)
}

func TestServerRefusesDamagedBody(t *testing.T) {
	address, dir := startServer(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bucket"), 0o755))
	bucket, err := s3.Open(s3.Options{Bucket: "bucket", Endpoint: address, Insecure: true, PathStyle: true, Transport: damage{}})
	require.NoError(t, err)
	_, err = bucket.Put(t.Context(), "key", []byte("hello"), store.Condition{})
	require.Error(t, err)
	_, err = bucket.Stat(t.Context(), "key")
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestErrorsNameCauseAndMend(t *testing.T) {
	address, dir := startServer(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bucket"), 0o755))
	cases := []struct {
		name   string
		bucket string
		secret string
		down   bool
		want   []string
	}{
		{"no such bucket", "missing", secretKey, false, []string{"bucket missing at http://", "does not exist: create it"}},
		{"wrong secret", "bucket", "wrong", false, []string{"does not take these credentials", "AWS_SECRET_ACCESS_KEY"}},
		{"server down", "bucket", secretKey, true, []string{"cannot be reached", "endpoint="}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("AWS_SECRET_ACCESS_KEY", c.secret)
			at := address
			if c.down {
				at = freeAddress(t)
			}
			bucket, err := s3.Open(s3.Options{Bucket: c.bucket, Endpoint: at, Insecure: true, PathStyle: true})
			require.NoError(t, err)
			_, err = bucket.Put(t.Context(), "some/key", []byte("x"), store.Condition{})
			require.Error(t, err)
			for _, want := range append(c.want, "put some/key") {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

func TestContextEndsRetries(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	bucket, err := s3.Open(s3.Options{Bucket: "bucket", Endpoint: freeAddress(t), Insecure: true, PathStyle: true})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = bucket.Put(ctx, "key", []byte("x"), store.Condition{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(began), 2*time.Second)
}
