package open_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/file"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/meter"
	"github.com/lifeboat-dev/lifeboat/store/open"
	"github.com/lifeboat-dev/lifeboat/store/retry"
)

func TestBucket(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	dir := filepath.Join(t.TempDir(), "new", "folder")
	cases := []struct {
		url  string
		want store.Bucket
	}{
		{"mem://", &mem.Bucket{}},
		{"file://" + dir, &file.Bucket{}},
		{"file://localhost" + dir, &file.Bucket{}},
		{"s3://bucket", &retry.Bucket{}},
		{"s3://bucket/some/prefix/?region=eu-central-1", &retry.Bucket{}},
		{"s3://bucket/prefix?endpoint=http://127.0.0.1:7070&path-style=true&region=us-east-1", &retry.Bucket{}},
		{"s3://bucket?endpoint=http://[::1]:7070&sse=aws:kms&sse-kms-key-id=arn:aws:kms:eu-central-1:1:key/2", &retry.Bucket{}},
	}
	for _, c := range cases {
		t.Run(c.url, func(t *testing.T) {
			bucket, err := open.Bucket(t.Context(), c.url)
			require.NoError(t, err)
			require.IsType(t, c.want, bucket)
			bucket, err = open.Bucket(t.Context(), c.url, open.WithMeter(meter.NewMeter()))
			require.NoError(t, err)
			require.NotNil(t, bucket)
		})
	}
	stat, err := os.Stat(dir)
	require.NoError(t, err)
	require.True(t, stat.IsDir())
}

func TestBadURLs(t *testing.T) {
	noCertificate := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(noCertificate, nil, 0o600))
	cases := []struct{ name, url, want string }{
		{"empty", "", "unknown scheme"},
		{"no scheme", "bucket/prefix", "unknown scheme"},
		{"other scheme", "gs://bucket", `unknown scheme "gs"`},
		{"malformed", "s3://%zz", "want s3://"},
		{"malformed, with credentials", "s3://id:secret@%zz", "want s3://"},
		{"no bucket", "s3:///prefix", "no bucket name"},
		{"credentials inside", "s3://id:secret@bucket", "credentials do not belong in the URL"},
		{"unknown parameter", "s3://bucket?regoin=x", `unknown parameter "regoin"`},
		{"parameter twice", "s3://bucket?region=x&region=y", "must have one value"},
		{"endpoint without scheme", "s3://bucket?endpoint=127.0.0.1:7070", "must be http(s)://"},
		{"endpoint with path", "s3://bucket?endpoint=http://host/path", "must be http(s)://"},
		{"path style", "s3://bucket?path-style=yes", "path-style must be true or false"},
		{"virtual host at an address", "s3://bucket?endpoint=http://127.0.0.1:7070&path-style=false", "use path-style=true"},
		{"virtual host at an address, IPv6", "s3://bucket?endpoint=http://[::1]&path-style=false", "use path-style=true"},
		{"no S3 bucket name", "s3://x", "bucket name"},
		{"credentials in the endpoint", "s3://bucket?endpoint=http://id:secret@host", "must be http(s)://"},
		{"authorities for http", "s3://bucket?endpoint=http://host&ca-file=/ca.pem", "ca-file is for https"},
		{"authorities without a certificate", "s3://bucket?ca-file=" + noCertificate, "holds no certificate"},
		{"certificates unchecked", "s3://bucket?insecure-skip-verify=true", "unknown parameter"},
		{"encryption", "s3://bucket?sse=yes", "sse must be AES256 or aws:kms"},
		{"key without KMS", "s3://bucket?sse=AES256&sse-kms-key-id=x", "needs sse=aws:kms"},
		{"the second of two faults", "s3://bucket?path-style=yes&sse=yes", "sse must be"},
		{"prefix that climbs", "s3://bucket/../x", "prefix"},
		{"two slashes", "file://tmp/x", "three slashes: file:///tmp/x"},
		{"no folder", "file://", "absolute"},
		{"parameters", "file:///tmp?x=y", "no parameters"},
		{"named memory", "mem://name", "takes nothing"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := open.Bucket(t.Context(), c.url)
			require.ErrorIs(t, err, store.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "id:secret")
		})
	}
}

func TestMissingAuthorities(t *testing.T) {
	_, err := open.Bucket(t.Context(), "s3://bucket?ca-file="+filepath.Join(t.TempDir(), "missing.pem"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "read ca-file")
}
