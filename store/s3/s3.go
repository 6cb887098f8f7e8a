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
	"strings"

	"github.com/minio/crc64nvme"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/lifeboat-dev/lifeboat/store"
)

const checksumKey = "x-amz-checksum-crc64nvme"

// Bucket is one bucket of a server, or the part of it under a prefix.
type Bucket struct {
	core   minio.Core
	creds  *credentials.Credentials
	sse    encrypt.ServerSide // nil: as the bucket is set up
	name   string
	prefix string
	where  string // for messages
}

var _ store.Bucket = (*Bucket)(nil)

// Open makes the client. It does not call the server: a server that is down, a missing bucket or missing rights show
// with the first request. Options with a fault are ErrInvalid (of store).
//
// Credentials are the first that there are of: the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
// AWS_SESSION_TOKEN), the AWS credentials file (AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE), the pod's role (IRSA:
// AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN; EKS pod identity and ECS: AWS_CONTAINER_CREDENTIALS_FULL_URI), the machine's.
// Those of a role are renewed before they expire.
//
// No request is tried twice: what may succeed later is a store.TemporaryError, for store/retry.
func Open(opts Options) (*Bucket, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("open S3 bucket %s: %w", opts.Bucket, err)
	}
	transport, err := opts.transport()
	if err != nil {
		return nil, fmt.Errorf("open S3 bucket %s: %w", opts.Bucket, err)
	}
	sse, err := opts.encryption()
	if err != nil {
		return nil, fmt.Errorf("open S3 bucket %s: KMS key: %w", opts.Bucket, err)
	}
	creds := credentials.New(newChain(opts.region()))
	core, err := minio.NewCore(opts.endpoint(), &minio.Options{
		Creds: creds, Secure: !opts.Insecure, Region: opts.region(), BucketLookup: opts.lookup(), Transport: pauses{transport},
		TrailingHeaders: true, // minio-go takes our own checksum only with it
		MaxRetries:      1,    // it still pauses for up to 200 ms after what it would try again
	})
	if err != nil {
		return nil, fmt.Errorf("open S3 bucket %s at %s: %w", opts.Bucket, opts.endpoint(), err)
	}
	where := fmt.Sprintf("bucket %s at %s", opts.Bucket, core.EndpointURL())
	return &Bucket{core: *core, creds: creds, sse: sse, name: opts.Bucket, prefix: opts.prefix(), where: where}, nil
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
		ServerSideEncryption: b.sse,
	}
	if cond.IfAbsent {
		opts.SetMatchETagExcept("*")
	}
	if cond.IfMatch != "" {
		opts.SetMatchETag(cond.IfMatch)
	}
	ctx = listening(ctx)
	up, err := b.core.Client.PutObject(ctx, b.name, b.prefix+key, bytes.NewReader(body), int64(len(body)), opts)
	if err != nil {
		return store.Info{}, b.explainPut(ctx, key, cond, err)
	}
	return store.Info{Key: key, Size: int64(len(body)), ETag: up.ETag, Modified: up.LastModified}, nil
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
	ctx = listening(ctx)
	stream, _, _, err := b.core.GetObject(ctx, b.name, b.prefix+key, opts)
	if err != nil && minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return io.NopCloser(bytes.NewReader(nil)), nil // the object ends before the range
	}
	if err != nil {
		return nil, b.explain(ctx, "get", key, err)
	}
	return &body{stream, func(err error) error { return b.explain(ctx, "read", key, err) }}, nil
}

// body explains what breaks a download off.
type body struct {
	io.ReadCloser
	explain func(error) error
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.explain(err)
	}
	return n, err
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
	ctx = listening(ctx)
	obj, err := b.core.Client.StatObject(ctx, b.name, b.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return store.Info{}, b.explain(ctx, "stat", key, err)
	}
	return store.Info{Key: key, Size: obj.Size, ETag: obj.ETag, Modified: obj.LastModified}, nil
}

// List implements store.Bucket.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		ctx := listening(ctx)
		opts := minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}
		for obj := range b.core.Client.ListObjectsIter(ctx, b.name, opts) {
			if obj.Err != nil {
				yield(store.Info{}, b.explain(ctx, "list", prefix, obj.Err))
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
	ctx = listening(ctx)
	err := b.core.Client.RemoveObject(ctx, b.name, b.prefix+key, minio.RemoveObjectOptions{})
	if err == nil {
		return nil
	}
	if err = b.explain(ctx, "delete", key, err); errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
