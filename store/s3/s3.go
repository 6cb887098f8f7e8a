// Package s3 is a bucket on an S3 server: AWS, or any with conditional puts (If-None-Match, If-Match) and strong
// read-after-write. It is the one place that knows minio-go.
package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/crc64nvme"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lifeboat-dev/lifeboat/store"
)

// Options say where a bucket is.
type Options struct {
	Bucket string
	// Prefix is put before every key, with a slash between; empty for none.
	Prefix string
	// Endpoint is host or host:port. Empty: AWS.
	Endpoint string
	// Insecure speaks HTTP instead of HTTPS.
	Insecure bool
	// Region; empty: AWS_REGION or AWS_DEFAULT_REGION, else us-east-1 at an Endpoint, else asked of AWS.
	Region string
	// PathStyle puts the bucket's name into the path instead of the host name.
	PathStyle bool
	// Transport replaces the HTTP transport, for tests and own certificate authorities.
	Transport http.RoundTripper
}

const (
	awsEndpoint   = "s3.amazonaws.com"
	checksumKey   = "x-amz-checksum-crc64nvme"
	defaultRegion = "us-east-1"
	// maxTries bounds minio-go's retries of what failed in transit or by a 5xx: about three seconds in all, and never
	// longer than the context.
	maxTries = 6
	// conflictTries bounds the retries of a conditional put that S3 asks to try again (409).
	conflictTries = 5
	conflictPause = 50 * time.Millisecond
)

// Bucket is one bucket of a server, or the part of it under a prefix.
type Bucket struct {
	core   minio.Core
	creds  *credentials.Credentials
	name   string
	prefix string
	where  string // for messages
}

var _ store.Bucket = (*Bucket)(nil)

// Open makes the client. It does not call the server: a server that is down, a missing bucket or missing rights show
// with the first request. Credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), the AWS
// credentials file, or the role of pod or machine, in this order.
func Open(opts Options) (*Bucket, error) {
	if opts.Bucket == "" {
		return nil, fmt.Errorf("open S3 bucket: no bucket name: %w", store.ErrInvalid)
	}
	prefix := strings.Trim(opts.Prefix, "/")
	if prefix != "" {
		if err := store.ValidateKey(prefix); err != nil {
			return nil, fmt.Errorf("open S3 bucket %s: prefix: %w", opts.Bucket, err)
		}
		prefix += "/"
	}
	creds := credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
	lookup := minio.BucketLookupAuto
	if opts.PathStyle {
		lookup = minio.BucketLookupPath
	}
	endpoint := opts.Endpoint
	if endpoint == "" {
		endpoint = awsEndpoint
	}
	core, err := minio.NewCore(endpoint, &minio.Options{
		Creds: creds, Secure: !opts.Insecure, Region: opts.region(), BucketLookup: lookup, Transport: opts.Transport,
		TrailingHeaders: true, // minio-go takes our own checksum only with it
		MaxRetries:      maxTries,
	})
	if err != nil {
		return nil, fmt.Errorf("open S3 bucket %s at %s: %w", opts.Bucket, endpoint, err)
	}
	where := fmt.Sprintf("bucket %s at %s", opts.Bucket, core.EndpointURL())
	return &Bucket{core: *core, creds: creds, name: opts.Bucket, prefix: prefix, where: where}, nil
}

func (o Options) region() string {
	for _, region := range []string{o.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")} {
		if region != "" {
			return region
		}
	}
	if o.Endpoint != "" {
		return defaultRegion
	}
	return ""
}

// Put implements store.Bucket by one PUT whose checksum the server compares before it stores anything.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if err := store.CheckRequest(ctx, "put", key); err != nil {
		return store.Info{}, err
	}
	sum := binary.BigEndian.AppendUint64(nil, crc64nvme.Checksum(body))
	opts := minio.PutObjectOptions{
		UserMetadata:         map[string]string{checksumKey: base64.StdEncoding.EncodeToString(sum)},
		DisableContentSha256: true,
		DisableMultipart:     true, // multipart would drop the condition
	}
	if cond.IfAbsent {
		opts.SetMatchETagExcept("*")
	}
	if cond.IfMatch != "" {
		opts.SetMatchETag(cond.IfMatch)
	}
	for try := 0; ; try++ {
		up, err := b.core.Client.PutObject(ctx, b.name, b.prefix+key, bytes.NewReader(body), int64(len(body)), opts)
		if err == nil {
			return store.Info{Key: key, Size: int64(len(body)), ETag: up.ETag, Modified: up.LastModified}, nil
		}
		if !isConflict(err) || try >= conflictTries {
			return store.Info{}, b.explainPut(key, cond, err)
		}
		select {
		case <-time.After(conflictPause << try):
		case <-ctx.Done():
			return store.Info{}, fmt.Errorf("put %s: %w", key, ctx.Err())
		}
	}
}

// Get implements store.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := store.CheckRequest(ctx, "get", key); err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, fmt.Errorf("get %s: negative offset: %w", key, store.ErrInvalid)
	}
	if length == 0 {
		if _, err := b.Stat(ctx, key); err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	var opts minio.GetObjectOptions
	if err := setRange(&opts, offset, length); err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	stream, _, _, err := b.core.GetObject(ctx, b.name, b.prefix+key, opts)
	if err != nil && minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return io.NopCloser(bytes.NewReader(nil)), nil // the object ends before the range
	}
	if err != nil {
		return nil, b.explain("get", key, err)
	}
	return stream, nil
}

func setRange(opts *minio.GetObjectOptions, offset, length int64) error {
	switch {
	case length > 0:
		return opts.SetRange(offset, offset+length-1)
	case offset > 0:
		return opts.SetRange(offset, 0)
	}
	return nil
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := store.CheckRequest(ctx, "stat", key); err != nil {
		return store.Info{}, err
	}
	obj, err := b.core.Client.StatObject(ctx, b.name, b.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return store.Info{}, b.explain("stat", key, err)
	}
	return store.Info{Key: key, Size: obj.Size, ETag: obj.ETag, Modified: obj.LastModified}, nil
}

// List implements store.Bucket.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		opts := minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}
		for obj := range b.core.Client.ListObjectsIter(ctx, b.name, opts) {
			if obj.Err != nil {
				yield(store.Info{}, b.explain("list", prefix, obj.Err))
				return
			}
			key := strings.TrimPrefix(obj.Key, b.prefix)
			if strings.HasSuffix(key, "/") {
				continue // a folder that some other tool has made
			}
			if !yield(store.Info{Key: key, Size: obj.Size, ETag: obj.ETag, Modified: obj.LastModified}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(store.Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

// Delete implements store.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := store.CheckRequest(ctx, "delete", key); err != nil {
		return err
	}
	err := b.core.Client.RemoveObject(ctx, b.name, b.prefix+key, minio.RemoveObjectOptions{})
	if err == nil {
		return nil
	}
	if err = b.explain("delete", key, err); errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
