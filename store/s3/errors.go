package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/store"
)

// isConflict says that S3 asks to try a conditional put again: another one was under way.
func isConflict(err error) bool {
	response := minio.ToErrorResponse(err)
	return response.StatusCode == http.StatusConflict || response.Code == "ConditionalRequestConflict"
}

// explainPut adds what only a put knows: If-Match on an object that is not there answers 404.
func (b *Bucket) explainPut(key string, cond store.Condition, err error) error {
	response := minio.ToErrorResponse(err)
	missing := response.Code == "NoSuchKey" && cond.IfMatch != ""
	if missing || response.StatusCode == http.StatusPreconditionFailed || response.Code == "PreconditionFailed" {
		return fmt.Errorf("put %s: %w", key, store.ErrPrecondition)
	}
	return b.explain("put", key, err)
}

// explain turns an answer of the server, or its silence, into a sentinel or into cause and mend.
func (b *Bucket) explain(verb, key string, err error) error {
	if mend := b.mend(err); mend != "" {
		return fmt.Errorf("%s %s: %s: %w", verb, key, mend, err)
	}
	response := minio.ToErrorResponse(err)
	if response.Code == "NoSuchKey" || response.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%s %s: %w", verb, key, store.ErrNotFound)
	}
	return fmt.Errorf("%s %s in %s: %w", verb, key, b.where, err)
}

func (b *Bucket) mend(err error) string {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	response := minio.ToErrorResponse(err)
	switch response.Code {
	case "NoSuchBucket":
		return b.where + " does not exist: create it, or correct the bucket URL"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken":
		return b.where + " does not take these credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, " +
			"the credentials file or the role"
	case "AccessDenied":
		if value, _ := b.creds.GetWithContext(b.core.CredContext()); value.AccessKeyID == "" {
			return b.where + " refuses anonymous access, and there are no credentials: set AWS_ACCESS_KEY_ID and " +
				"AWS_SECRET_ACCESS_KEY, or give the pod or machine a role"
		}
		return b.where + " denies access: grant these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
	case "AuthorizationHeaderMalformed", "PermanentRedirect":
		return b.where + " is in another region: set region= in the bucket URL"
	}
	if network := net.Error(nil); errors.As(err, &network) {
		return b.where + " cannot be reached: check endpoint= in the bucket URL, name resolution, network policy and " +
			"that the server runs"
	}
	return ""
}
