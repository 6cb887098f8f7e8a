package s3_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/s3"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestContract(t *testing.T) {
	for _, kind := range servers {
		t.Run(kind.name, func(t *testing.T) {
			server := kind.start(t)
			for _, prefix := range []string{"", "some/prefix"} {
				t.Run("prefix "+prefix, func(t *testing.T) {
					storetest.Run(t, func(t *testing.T) store.Bucket {
						opts := server.newBucket(t)
						opts.Prefix = prefix
						return open(t, opts)
					})
				})
			}
		})
	}
}

func open(t *testing.T, opts s3.Options) *s3.Bucket {
	t.Helper()
	bucket, err := s3.Open(opts)
	require.NoError(t, err)
	return bucket
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
	for _, kind := range servers {
		t.Run(kind.name, func(t *testing.T) {
			opts := kind.start(t).newBucket(t)
			sound := open(t, opts)
			opts.Transport = damage{}
			damaging := open(t, opts)
			_, err := damaging.Put(t.Context(), "key", []byte("hello"), store.Condition{})
			temporary := (*store.TemporaryError)(nil)
			require.ErrorAs(t, err, &temporary, "another try may arrive whole")
			_, err = sound.Stat(t.Context(), "key")
			require.ErrorIs(t, err, store.ErrNotFound)
			_, err = sound.Put(t.Context(), "key", []byte("whole"), store.Condition{})
			require.NoError(t, err)
			_, err = damaging.Put(t.Context(), "key", []byte("hello"), store.Condition{})
			require.Error(t, err)
			stream, err := sound.Get(t.Context(), "key", 0, -1)
			require.NoError(t, err)
			defer stream.Close()
			got, err := io.ReadAll(stream)
			require.NoError(t, err)
			require.Equal(t, "whole", string(got))
		})
	}
}

func TestErrorsNameCauseAndMend(t *testing.T) {
	cases := []struct {
		name      string
		change    func(*testing.T, *s3.Options)
		temporary bool
		want      []string
	}{
		{"no such bucket", func(_ *testing.T, o *s3.Options) { o.Bucket = "missing" }, false,
			[]string{"bucket missing at http://", "does not exist: create it"}},
		{"wrong secret", func(t *testing.T, _ *s3.Options) { t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong") }, false,
			[]string{"does not take these credentials", "AWS_SECRET_ACCESS_KEY"}},
		{"server down", func(t *testing.T, o *s3.Options) { o.Endpoint = freeAddress(t) }, true,
			[]string{"cannot be reached", "endpoint="}},
		{"not TLS", func(_ *testing.T, o *s3.Options) { o.Insecure = false }, false,
			[]string{"does not speak TLS", "http://"}},
	}
	for _, kind := range servers {
		t.Run(kind.name, func(t *testing.T) {
			server := kind.start(t)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					opts := server.newBucket(t)
					c.change(t, &opts)
					_, err := open(t, opts).Put(t.Context(), "some/key", []byte("x"), store.Condition{})
					for _, want := range append(c.want, "put some/key") {
						require.ErrorContains(t, err, want)
					}
					temporary := (*store.TemporaryError)(nil)
					require.Equal(t, c.temporary, errors.As(err, &temporary), err)
				})
			}
		})
	}
}

// What the server encrypts keeps the contract where it could break: ETags of encrypted objects are no MD5.
func TestServerSideEncryption(t *testing.T) {
	server := startMinio(t)
	cases := []struct {
		name string
		opts s3.Options
	}{{"SSE-S3", s3.Options{SSE: s3.SSES3}}, {"SSE-KMS", s3.Options{SSE: s3.SSEKMS, SSEKMSKeyID: minioKMSKey}}}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			opts := server.newBucket(t)
			opts.SSE, opts.SSEKMSKeyID = c.opts.SSE, c.opts.SSEKMSKeyID
			bucket := open(t, opts)
			info, err := bucket.Put(t.Context(), "key", []byte("first"), store.Condition{IfAbsent: true})
			require.NoError(t, err)
			stat, err := bucket.Stat(t.Context(), "key")
			require.NoError(t, err)
			require.Equal(t, info.ETag, stat.ETag)
			_, err = bucket.Put(t.Context(), "key", []byte("other"), store.Condition{IfMatch: info.ETag})
			require.NoError(t, err)
			_, err = bucket.Put(t.Context(), "key", []byte("third"), store.Condition{IfMatch: info.ETag})
			require.ErrorIs(t, err, store.ErrPrecondition)
		})
	}
}

func TestContextEndsARequest(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	setKeys(t)
	bucket := open(t, s3.Options{Bucket: "bucket", Endpoint: server.Listener.Addr().String(), Insecure: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := bucket.Put(ctx, "key", []byte("x"), store.Condition{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(began), 2*time.Second)
}
