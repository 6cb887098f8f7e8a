package s3

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/lifeboat-dev/lifeboat/store"
)

// Options say where a bucket is and how it is spoken to.
type Options struct {
	Bucket string
	// Prefix is put before every key, with a slash between; empty for none.
	Prefix string
	// Endpoint is host or host:port. Empty: AWS.
	Endpoint string
	// Insecure speaks HTTP instead of HTTPS. There is no way to leave a certificate unchecked.
	Insecure bool
	// Region; empty: AWS_REGION or AWS_DEFAULT_REGION, else us-east-1 at an Endpoint, else asked of AWS.
	Region string
	Style  Style
	// CAFile holds certificates (PEM) of authorities that are trusted besides the system's and those of SSL_CERT_FILE.
	CAFile string
	// SSE asks the server to encrypt what it stores: SSES3 or SSEKMS. Empty: as the bucket is set up.
	SSE string
	// SSEKMSKeyID is the id or ARN of the KMS key; empty: the account's own one for S3. Only with SSEKMS.
	SSEKMSKeyID string
	// Transport replaces the HTTP transport; then CAFile must be empty.
	Transport http.RoundTripper
}

// Style is where a request bears the bucket's name.
type Style int

const (
	// AutoStyle is VirtualHostStyle at AWS, PathStyle at other endpoints.
	AutoStyle Style = iota
	// PathStyle is https://ENDPOINT/BUCKET/KEY.
	PathStyle
	// VirtualHostStyle is https://BUCKET.ENDPOINT/KEY.
	VirtualHostStyle
)

// Values of Options.SSE, which are those of the header x-amz-server-side-encryption.
const (
	SSES3  = "AES256"
	SSEKMS = "aws:kms"
)

const (
	awsEndpoint   = "s3.amazonaws.com"
	defaultRegion = "us-east-1"
	// Silence beyond these means that another try is better than more patience: a notice leaves a minute or two.
	dialTimeout   = 5 * time.Second
	answerTimeout = 20 * time.Second
)

// Validate returns all faults of the options at once, each with its mend, as one ErrInvalid (of store).
func (o Options) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if o.Bucket == "" {
		fault("no bucket name: write s3://BUCKET")
	} else if err := s3utils.CheckValidBucketName(o.Bucket); err != nil {
		fault("bucket name %q: %w", o.Bucket, err)
	}
	if prefix := strings.Trim(o.Prefix, "/"); prefix != "" {
		if err := store.ValidateKey(prefix); err != nil {
			fault("prefix: %w", err)
		}
	}
	host := o.Endpoint
	if h, _, err := net.SplitHostPort(o.Endpoint); err == nil {
		host = h
	}
	if o.Style == VirtualHostStyle && net.ParseIP(strings.Trim(host, "[]")) != nil {
		fault("an address cannot bear the bucket in its name: use path-style=true, or a host name as endpoint")
	}
	if o.CAFile != "" && o.Insecure {
		fault("ca-file is for https, the endpoint is http: correct the endpoint or leave ca-file out")
	}
	if o.CAFile != "" && o.Transport != nil {
		fault("ca-file does not go with a transport of its own: put the authorities into that one")
	}
	if o.SSE != "" && o.SSE != SSES3 && o.SSE != SSEKMS {
		fault("sse must be %s or %s, not %q", SSES3, SSEKMS, o.SSE)
	}
	if o.SSEKMSKeyID != "" && o.SSE != SSEKMS {
		fault("sse-kms-key-id needs sse=%s", SSEKMS)
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", store.ErrInvalid, errors.Join(faults...))
}

func (o Options) endpoint() string { return cmp.Or(o.Endpoint, awsEndpoint) }

func (o Options) prefix() string {
	if prefix := strings.Trim(o.Prefix, "/"); prefix != "" {
		return prefix + "/"
	}
	return ""
}

func (o Options) region() string {
	region := cmp.Or(o.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if region == "" && o.Endpoint != "" {
		return defaultRegion
	}
	return region
}

func (o Options) lookup() minio.BucketLookupType {
	switch o.Style {
	case PathStyle:
		return minio.BucketLookupPath
	case VirtualHostStyle:
		return minio.BucketLookupDNS
	}
	return minio.BucketLookupAuto
}

func (o Options) encryption() (encrypt.ServerSide, error) {
	switch o.SSE {
	case SSES3:
		return encrypt.NewSSE(), nil
	case SSEKMS:
		return encrypt.NewSSEKMS(o.SSEKMSKeyID, nil)
	}
	return nil, nil
}

func (o Options) transport() (http.RoundTripper, error) {
	if o.Transport != nil {
		return o.Transport, nil
	}
	transport, err := minio.DefaultTransport(!o.Insecure) // adds SSL_CERT_FILE to the system's authorities
	if err != nil {
		return nil, err
	}
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	transport.TLSHandshakeTimeout = dialTimeout
	transport.ResponseHeaderTimeout = answerTimeout
	if o.CAFile != "" {
		err = trust(transport.TLSClientConfig, o.CAFile)
	}
	return transport, err
}

// trust adds authorities to those of the system: STS and the like are reached through the same transport.
func trust(config *tls.Config, file string) error {
	certificates, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read ca-file: %w", err)
	}
	if config.RootCAs == nil {
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			return fmt.Errorf("read the system's certificate authorities: %w", err)
		}
	}
	if !config.RootCAs.AppendCertsFromPEM(certificates) {
		return fmt.Errorf("ca-file %s holds no certificate in PEM: %w", file, store.ErrInvalid)
	}
	return nil
}
