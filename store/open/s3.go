package open

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dev/lifeboat/store/s3"
)

const parameters = "region, endpoint, path-style, ca-file, sse, sse-kms-key-id"

func openS3(u *url.URL, transport http.RoundTripper) (*s3.Bucket, error) {
	target, err := parseS3(u)
	target.Transport = transport
	if err := errors.Join(err, target.Validate()); err != nil {
		return nil, err
	}
	return s3.Open(target)
}

// parseS3 returns what it could read and all that it could not.
func parseS3(u *url.URL) (s3.Options, error) {
	target := s3.Options{Bucket: u.Host, Prefix: u.Path}
	var faults []error
	if u.User != nil {
		faults = append(faults, errors.New("credentials do not belong in the URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"))
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		faults = append(faults, err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		err := fmt.Errorf("parameter %q must have one value", name)
		if len(values) == 1 && values[0] != "" {
			err = set(&target, name, values[0])
		}
		faults = append(faults, err)
	}
	return target, errors.Join(faults...)
}

func set(target *s3.Options, name, value string) error {
	switch name {
	case "region":
		target.Region = value
	case "ca-file":
		target.CAFile = value
	case "sse":
		target.SSE = value
	case "sse-kms-key-id":
		target.SSEKMSKeyID = value
	case "endpoint":
		e, err := url.Parse(value)
		if err != nil || (e.Scheme != "http" && e.Scheme != "https") || strings.TrimSuffix(value, "/") != e.Scheme+"://"+e.Host || e.Host == "" {
			return errors.New("endpoint must be http(s)://HOST[:PORT] and nothing more")
		}
		target.Endpoint, target.Insecure = e.Host, e.Scheme == "http"
	case "path-style":
		path, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("path-style must be true or false, not %q", value)
		}
		target.Style = s3.VirtualHostStyle
		if path {
			target.Style = s3.PathStyle
		}
	default:
		return fmt.Errorf("unknown parameter %q", name)
	}
	return nil
}
