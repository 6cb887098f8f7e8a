package open_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/meter"
	"github.com/lifeboat-dev/lifeboat/store/open"
)

// seen takes every put and hands the requests to the test.
func seen(requests chan<- *http.Request) http.HandlerFunc {
	return func(w http.ResponseWriter, request *http.Request) {
		requests <- request
		w.Header().Set("ETag", `"etag"`)
	}
}

// redirect sends every request to a test server and leaves it otherwise as it is.
type redirect struct{ to string }

// RoundTrip implements http.RoundTripper.
func (r redirect) RoundTrip(request *http.Request) (*http.Response, error) {
	copied := request.Clone(request.Context())
	copied.Host = request.URL.Host
	copied.URL.Scheme, copied.URL.Host = "http", r.to
	return http.DefaultTransport.RoundTrip(copied)
}

func setKeys(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	for _, variable := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"} {
		t.Setenv(variable, "")
	}
}

// What a URL's parameters make of a request.
func TestRequests(t *testing.T) {
	setKeys(t)
	checksum := map[string]string{ // no body is hashed but by this checksum, which the server compares
		"X-Amz-Checksum-Crc64nvme": "M3eFcAZSQlc=",
		"X-Amz-Content-Sha256":     "UNSIGNED-PAYLOAD",
	}
	cases := []struct {
		name, url  string
		cond       store.Condition
		host, path string
		region     string
		headers    map[string]string // "" for absent
	}{
		{"AWS", "s3://bucket?region=eu-central-1", store.Condition{},
			"bucket.s3.dualstack.eu-central-1.amazonaws.com", "/some/key", "eu-central-1", checksum},
		{"AWS, path style", "s3://bucket?region=eu-central-1&path-style=true", store.Condition{},
			"s3.dualstack.eu-central-1.amazonaws.com", "/bucket/some/key", "eu-central-1", checksum},
		{"AWS, prefix", "s3://bucket/a/b/?region=eu-central-1", store.Condition{},
			"bucket.s3.dualstack.eu-central-1.amazonaws.com", "/a/b/some/key", "eu-central-1", nil},
		{"other server", "s3://bucket/prefix?endpoint=http://s3.test:9000", store.Condition{},
			"s3.test:9000", "/bucket/prefix/some/key", "us-east-1", checksum},
		{"other server, region", "s3://bucket?endpoint=https://s3.test&region=here-1", store.Condition{},
			"s3.test", "/bucket/some/key", "here-1", nil},
		{"other server, virtual host", "s3://bucket?endpoint=http://s3.test:9000&path-style=false", store.Condition{},
			"bucket.s3.test:9000", "/some/key", "us-east-1", checksum},
		{"no encryption asked for", "s3://bucket?endpoint=http://s3.test", store.Condition{}, "s3.test", "/bucket/some/key", "us-east-1",
			map[string]string{"X-Amz-Server-Side-Encryption": "", "If-Match": "", "If-None-Match": ""}},
		{"SSE-S3", "s3://bucket?endpoint=http://s3.test&sse=AES256", store.Condition{}, "s3.test", "/bucket/some/key", "us-east-1",
			map[string]string{"X-Amz-Server-Side-Encryption": "AES256", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": ""}},
		{"SSE-KMS", "s3://bucket?endpoint=http://s3.test&sse=aws:kms", store.Condition{}, "s3.test", "/bucket/some/key", "us-east-1",
			map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": ""}},
		{"SSE-KMS with a key", "s3://bucket?endpoint=http://s3.test&sse=aws:kms&sse-kms-key-id=arn:aws:kms:x:1:key/2", store.Condition{},
			"s3.test", "/bucket/some/key", "us-east-1",
			map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "arn:aws:kms:x:1:key/2"}},
		{"if absent", "s3://bucket?endpoint=http://s3.test", store.Condition{IfAbsent: true}, "s3.test", "/bucket/some/key", "us-east-1",
			map[string]string{"If-None-Match": "*"}},
		{"if match", "s3://bucket?endpoint=http://s3.test", store.Condition{IfMatch: "abc"}, "s3.test", "/bucket/some/key", "us-east-1",
			map[string]string{"If-Match": `"abc"`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			requests := make(chan *http.Request, 1)
			server := httptest.NewServer(seen(requests))
			defer server.Close()
			bucket, err := open.Bucket(t.Context(), c.url, open.WithTransport(redirect{server.Listener.Addr().String()}))
			require.NoError(t, err)
			info, err := bucket.Put(t.Context(), "some/key", []byte("hello"), c.cond)
			require.NoError(t, err)
			require.Equal(t, "etag", info.ETag)
			request := <-requests
			require.Equal(t, http.MethodPut, request.Method)
			require.Equal(t, c.host, request.Host)
			require.Equal(t, c.path, request.URL.Path)
			require.Equal(t, int64(5), request.ContentLength)
			require.Contains(t, request.Header.Get("Authorization"), "/"+c.region+"/s3/aws4_request")
			for name, want := range c.headers {
				require.Equal(t, want, request.Header.Get(name), name)
			}
		})
	}
}

func TestOwnAuthority(t *testing.T) {
	setKeys(t)
	requests := make(chan *http.Request, 1)
	server := httptest.NewTLSServer(seen(requests))
	defer server.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	require.NoError(t, os.WriteFile(authority, pem.EncodeToMemory(&block), 0o600))
	cases := []struct {
		name, parameter, environment string
		trusted                      bool
	}{
		{"named in the URL", "&ca-file=" + authority, "", true},
		{"named in the environment", "", authority, true},
		{"not named", "", "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("SSL_CERT_FILE", c.environment)
			bucket, err := open.Bucket(t.Context(), "s3://bucket?endpoint="+server.URL+c.parameter)
			require.NoError(t, err)
			_, err = bucket.Put(t.Context(), "key", []byte("x"), store.Condition{})
			if c.trusted {
				require.NoError(t, err)
				require.NotNil(t, (<-requests).TLS)
				return
			}
			require.ErrorContains(t, err, "not trusted: name its authority by ca-file=")
			require.Empty(t, requests)
		})
	}
}

// A server that is busy once is asked again, and both requests are counted.
func TestBusyServerIsAskedAgain(t *testing.T) {
	setKeys(t)
	var puts atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if puts.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	m := meter.NewMeter()
	bucket, err := open.Bucket(t.Context(), "s3://bucket?endpoint="+server.URL, open.WithMeter(m))
	require.NoError(t, err)
	_, err = bucket.Put(t.Context(), "key", []byte(strings.Repeat("x", 100)), store.Condition{})
	require.NoError(t, err)
	require.Equal(t, int32(2), puts.Load())
	got := m.Snapshot().Put
	got.Seconds = 0
	require.Equal(t, meter.Count{Calls: 2, Errors: 1, Bytes: 200}, got)
}
