// Package open makes a bucket from its URL.
package open

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/file"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/s3"
)

// Option changes how a bucket is opened.
type Option func(*options)

type options struct {
	transport http.RoundTripper
}

// WithTransport replaces the HTTP transport of s3 buckets.
func WithTransport(transport http.RoundTripper) Option {
	return func(o *options) { o.transport = transport }
}

const forms = "want s3://BUCKET[/PREFIX][?region=REGION&endpoint=http(s)://HOST[:PORT]&path-style=true], " +
	"file:///FOLDER or mem://"

// Bucket opens the bucket that rawURL names:
//
//	s3://BUCKET[/PREFIX][?region=REGION&endpoint=http(s)://HOST[:PORT]&path-style=true]
//	file:///FOLDER   made where it is missing
//	mem://           a new, empty one, gone with the process
//
// It does not call an S3 server. ErrInvalid (of store) for a URL of another form.
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
		return nil, fmt.Errorf("bucket URL %q: %w: %s: %w", rawURL, err, forms, store.ErrInvalid)
	}
	switch u.Scheme {
	case "s3":
		return openS3(u, o)
	case "file":
		return openFile(u)
	case "mem":
		if u.Host+u.Path+u.RawQuery != "" {
			return nil, badURL(u, "mem:// takes nothing after it")
		}
		return mem.New(), nil
	}
	return nil, badURL(u, fmt.Sprintf("unknown scheme %q", u.Scheme))
}

func badURL(u *url.URL, cause string) error {
	return fmt.Errorf("bucket URL %q: %s: %s: %w", u.Redacted(), cause, forms, store.ErrInvalid)
}

func openFile(u *url.URL) (store.Bucket, error) {
	switch {
	case u.Host != "" && u.Host != "localhost":
		return nil, badURL(u, fmt.Sprintf("the folder must be absolute, three slashes: file:///%s%s", u.Host, u.Path))
	case !filepath.IsAbs(u.Path):
		return nil, badURL(u, "the folder must be absolute")
	case u.RawQuery != "":
		return nil, badURL(u, "file:// takes no parameters")
	}
	return file.Open(filepath.Clean(u.Path))
}

func openS3(u *url.URL, o options) (store.Bucket, error) {
	if u.User != nil {
		return nil, badURL(u, "credentials do not belong in the URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	if u.Host == "" {
		return nil, badURL(u, "no bucket name")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, badURL(u, err.Error())
	}
	for name, values := range query {
		if !slices.Contains([]string{"region", "endpoint", "path-style"}, name) {
			return nil, badURL(u, fmt.Sprintf("unknown parameter %q", name))
		}
		if len(values) != 1 || values[0] == "" {
			return nil, badURL(u, fmt.Sprintf("parameter %q must have one value", name))
		}
	}
	target := s3.Options{
		Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: query.Get("region"), Transport: o.transport,
	}
	if query.Has("path-style") {
		if target.PathStyle, err = strconv.ParseBool(query.Get("path-style")); err != nil {
			return nil, badURL(u, "path-style must be true or false")
		}
	}
	if endpoint := query.Get("endpoint"); endpoint != "" {
		e, err := url.Parse(endpoint)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || strings.Trim(e.Path, "/") != "" {
			return nil, badURL(u, fmt.Sprintf("endpoint %q must be http(s)://HOST[:PORT]", endpoint))
		}
		target.Endpoint, target.Insecure = e.Host, e.Scheme == "http"
	}
	return s3.Open(target)
}
