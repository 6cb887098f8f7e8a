package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/store"
)

// explainPut adds what only a put knows: If-Match on an object that is not there answers 404.
func (b *Bucket) explainPut(ctx context.Context, key string, cond store.Condition, err error) error {
	response := minio.ToErrorResponse(err)
	missing := response.Code == minio.NoSuchKey && cond.IfMatch != ""
	if missing || response.StatusCode == http.StatusPreconditionFailed || response.Code == minio.PreconditionFailed {
		return fmt.Errorf("put %s: %w", key, store.ErrPrecondition)
	}
	return b.explain(ctx, "put", key, err)
}

// explain turns an answer of the server, or its silence, into a sentinel or into cause and mend, and says whether to try
// again is of use.
func (b *Bucket) explain(ctx context.Context, verb, key string, err error) error {
	if ended := ctx.Err(); ended != nil {
		if !errors.Is(err, ended) {
			err = fmt.Errorf("%w: %w", ended, err)
		}
		return fmt.Errorf("%s %s in %s: %w", verb, key, b.where, err)
	}
	response := minio.ToErrorResponse(err)
	mend := b.mend(err, response)
	again, after := b.isTemporary(ctx, err, response), retryAfter(ctx)
	switch {
	case mend != "":
		err = fmt.Errorf("%s %s: %s: %w", verb, key, mend, err)
	case response.Code == minio.NoSuchKey || response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", verb, key, store.ErrNotFound)
	default:
		err = fmt.Errorf("%s %s in %s: %w", verb, key, b.where, err)
	}
	if again {
		return &store.TemporaryError{After: after, Err: err}
	}
	return err
}

// isTemporary says that the same request may succeed later.
func (b *Bucket) isTemporary(ctx context.Context, err error, response minio.ErrorResponse) bool {
	if temporary := (*store.TemporaryError)(nil); errors.As(err, &temporary) {
		return true
	}
	if errors.Is(err, errNoCredentials) {
		return false
	}
	switch response.Code {
	case "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded", "SlowDown":
		return true
	case "BadDigest", "XAmzContentChecksumMismatch": // damaged on its way
		return true
	case "ExpiredToken", "ExpiredTokenException", "InvalidToken":
		return b.renewed(ctx)
	}
	switch response.StatusCode {
	case 0: // no answer at all
		return !isCertificate(err) && !errors.Is(err, http.ErrSchemeMismatch) && isNetwork(err)
	case http.StatusNotImplemented, http.StatusInsufficientStorage:
		return false
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusConflict:
		return true // 409: another conditional put is under way
	}
	return response.StatusCode >= http.StatusInternalServerError
}

// renewed asks the source of the credentials again and says whether it has others by now.
func (b *Bucket) renewed(ctx context.Context) bool {
	cc := b.core.CredContext()
	cc.Context = ctx
	before, err := b.creds.GetWithContext(cc)
	if err != nil {
		return false
	}
	b.creds.Expire()
	after, err := b.creds.GetWithContext(cc)
	return err == nil && (after.AccessKeyID != before.AccessKeyID || after.SessionToken != before.SessionToken)
}

func (b *Bucket) mend(err error, response minio.ErrorResponse) string {
	switch response.Code {
	case minio.NoSuchBucket:
		return b.where + " does not exist: create it, or correct the bucket URL"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "ExpiredTokenException":
		return b.where + " does not take these credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, " +
			"the credentials file or the role"
	case minio.AccessDenied:
		return b.where + " denies access: grant these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and " +
			"s3:ListBucket, and the use of the KMS key if there is one"
	case "AuthorizationHeaderMalformed", "PermanentRedirect", minio.InvalidRegion:
		return b.where + " is in another region: set region= in the bucket URL"
	case "RequestTimeTooSkewed":
		return b.where + " sees another time than this machine: set the clock"
	}
	switch {
	case errors.Is(err, errNoCredentials):
		return b.where
	case isCertificate(err):
		return b.where + " shows a certificate that is not trusted: name its authority by ca-file= in the bucket URL or " +
			"by SSL_CERT_FILE, and the host as the certificate does"
	case errors.Is(err, http.ErrSchemeMismatch):
		return b.where + " does not speak TLS: write http:// in endpoint="
	case response.StatusCode == http.StatusInsufficientStorage:
		return b.where + " is full: free space on the server"
	case isNetwork(err):
		return b.where + " cannot be reached: check endpoint= in the bucket URL, name resolution, network policy and " +
			"that the server runs"
	}
	return ""
}

func isNetwork(err error) bool {
	network := net.Error(nil)
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

func isCertificate(err error) bool {
	certificate := (*tls.CertificateVerificationError)(nil)
	return errors.As(err, &certificate)
}

// pauses is a transport that keeps the Retry-After of an answer for explain, for minio-go drops it.
type pauses struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p pauses) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := p.RoundTripper.RoundTrip(request)
	if asked, ok := request.Context().Value(pauseKey{}).(*atomic.Int64); ok && err == nil {
		asked.Store(int64(parseRetryAfter(response.Header.Get("Retry-After"))))
	}
	return response, err
}

type pauseKey struct{}

// listening makes a context in which the Retry-After of answers is kept.
func listening(ctx context.Context) context.Context {
	return context.WithValue(ctx, pauseKey{}, new(atomic.Int64))
}

func retryAfter(ctx context.Context) time.Duration {
	asked, ok := ctx.Value(pauseKey{}).(*atomic.Int64)
	if !ok {
		return 0
	}
	return time.Duration(asked.Load())
}

// parseRetryAfter reads both forms of RFC 9110, section 10.2.3: seconds, or a date.
func parseRetryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(header); err == nil {
		return max(0, time.Until(date))
	}
	return 0
}
