// Package open makes a bucket from its URL.
package open

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/file"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/meter"
	"github.com/lifeboat-dev/lifeboat/store/retry"
)

// Option changes how a bucket is opened.
type Option func(*options)

type options struct {
	transport http.RoundTripper
	meter     *meter.Meter
	retry     retry.Policy
}

// WithTransport replaces the HTTP transport of s3 buckets.
func WithTransport(transport http.RoundTripper) Option {
	return func(o *options) { o.transport = transport }
}

// WithMeter counts the bucket's requests, each try of its own.
func WithMeter(m *meter.Meter) Option {
	return func(o *options) { o.meter = m }
}

// WithRetry says how often what fails for the moment is tried again, where it is tried at all (s3); retry.Default if absent.
func WithRetry(policy retry.Policy) Option {
	return func(o *options) { o.retry = policy }
}

const forms = "want s3://BUCKET[/PREFIX][?PARAMETER=VALUE&...] with parameters of " + parameters +
	"; file:///FOLDER; or mem://"

// Bucket opens the bucket that rawURL names:
//
//	s3://BUCKET[/PREFIX][?PARAMETER=VALUE&...]
//	file:///FOLDER   made where it is missing
//	mem://           a new, empty one, gone with the process
//
// Parameters of s3, each at most once:
//
//	region=REGION
//	endpoint=http(s)://HOST[:PORT]   a server other than AWS
//	path-style=true|false            where requests bear the bucket's name; absent: false at AWS, true elsewhere
//	ca-file=FILE                     certificate authorities to trust besides the system's
//	sse=AES256|aws:kms               encryption by the server
//	sse-kms-key-id=ID                the key for aws:kms
//
// It does not call an S3 server, and what fails there for the moment is tried again. ErrInvalid (of store) for a URL of
// another form; the error names all its faults.
func Bucket(ctx context.Context, rawURL string, opts ...Option) (store.Bucket, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		if whole := (*url.Error)(nil); errors.As(err, &whole) {
			err = whole.Err // without the URL, which may hold credentials
		}
		return nil, fmt.Errorf("bucket URL: %w: %s: %w", err, forms, store.ErrInvalid)
	}
	switch u.Scheme {
	case "s3":
		bucket, err := openS3(u, o.transport)
		if err != nil {
			return nil, badURL(u, err)
		}
		return retry.New(o.metered(bucket), o.retry), nil
	case "file":
		bucket, err := openFile(u)
		if err != nil {
			return nil, err
		}
		return o.metered(bucket), nil
	case "mem":
		if u.Host+u.Path+u.RawQuery != "" {
			return nil, badURL(u, errors.New("mem:// takes nothing after it"))
		}
		return o.metered(mem.New()), nil
	}
	return nil, badURL(u, fmt.Errorf("unknown scheme %q", u.Scheme))
}

func (o options) metered(bucket store.Bucket) store.Bucket {
	if o.meter == nil {
		return bucket
	}
	return meter.New(bucket, o.meter)
}

// badURL leaves out where credentials may have been put by mistake.
func badURL(u *url.URL, cause error) error {
	shown := *u
	shown.RawQuery = ""
	return fmt.Errorf("bucket URL %q: %w: %s: %w", shown.Redacted(), cause, forms, store.ErrInvalid)
}

func openFile(u *url.URL) (store.Bucket, error) {
	switch {
	case u.Host != "" && u.Host != "localhost":
		return nil, badURL(u, fmt.Errorf("the folder must be absolute, three slashes: file:///%s%s", u.Host, u.Path))
	case !filepath.IsAbs(u.Path):
		return nil, badURL(u, errors.New("the folder must be absolute"))
	case u.RawQuery != "":
		return nil, badURL(u, errors.New("file:// takes no parameters"))
	}
	return file.Open(filepath.Clean(u.Path))
}
