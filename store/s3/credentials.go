package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lifeboat-dev/lifeboat/store"
)

// errNoCredentials: no source has any. Requests are never sent unsigned.
var errNoCredentials = errors.New("there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or " +
	"AWS_PROFILE and a credentials file, or give the pod or machine a role")

const (
	// roleTimeout bounds one question to STS or a metadata service.
	roleTimeout = 5 * time.Second
	// renewPause is kept after a renewal that failed while the keys held are still good.
	renewPause = 10 * time.Second
)

// chain asks the sources in the order of AWS' own tools. Other than minio-go's, it says why a source failed, and goes on
// with the keys it has while they are good. Its caller, credentials.Credentials, lets in one goroutine at a time.
type chain struct {
	environment credentials.EnvAWS
	file        credentials.FileAWSCredentials
	role        credentials.IAM

	current credentials.Provider
	held    credentials.Value
	again   time.Time // not before this is a failed renewal tried again
}

var _ credentials.Provider = (*chain)(nil)

func newChain(region string) *chain {
	c := &chain{}
	c.role.Region = region
	switch {
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		c.role.Endpoint = os.Getenv("AWS_ENDPOINT_URL_STS")
	case !roleGiven():
		c.role.Endpoint = os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	}
	return c
}

// roleGiven says that the environment names a role: IRSA, EKS pod identity or ECS. Otherwise only the machine's is left.
func roleGiven() bool {
	return cmp.Or(os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"), os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
		os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")) != ""
}

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool {
	if c.current == nil {
		return true
	}
	return c.current.IsExpired() && !time.Now().Before(c.again)
}

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	value, err := c.ask(cc)
	if err == nil {
		c.held = value
		return value, nil
	}
	if now := time.Now(); c.held.Expiration.After(now) {
		c.again = now.Add(renewPause)
		return c.held, nil
	}
	err = fmt.Errorf("%w: %w", errNoCredentials, err)
	if c.current != nil || roleGiven() {
		return credentials.Value{}, &store.TemporaryError{Err: err}
	}
	return credentials.Value{}, err
}

func (c *chain) ask(cc *credentials.CredContext) (credentials.Value, error) {
	value, err := c.environment.RetrieveWithCredContext(cc)
	switch {
	case err != nil:
		return value, err
	case value.AccessKeyID != "" && value.SecretAccessKey != "":
		c.current = &c.environment
		return value, nil
	case value.AccessKeyID+value.SecretAccessKey != "":
		return value, errors.New("of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set")
	}
	value, fileErr := c.file.RetrieveWithCredContext(cc)
	if fileErr == nil && value.AccessKeyID != "" {
		c.current = &c.file
		return value, nil
	}
	profile := os.Getenv("AWS_PROFILE")
	if fileErr != nil && profile != "" {
		return value, fmt.Errorf("profile %s of the credentials file: %w", profile, fileErr)
	}
	if errors.Is(fileErr, fs.ErrNotExist) {
		fileErr = nil
	}
	value, err = c.askRole(cc)
	if err != nil {
		return value, errors.Join(fileErr, fmt.Errorf("role: %w", err))
	}
	c.current = &c.role
	return value, nil
}

// askRole bounds the question in time, for minio-go asks without the deadline of the request that needs the answer.
func (c *chain) askRole(cc *credentials.CredContext) (credentials.Value, error) {
	bounded := credentials.CredContext{}
	if cc != nil {
		bounded = *cc
	}
	ctx, cancel := context.WithTimeout(cmp.Or(bounded.Context, context.Background()), roleTimeout)
	defer cancel()
	bounded.Context = ctx
	return c.role.RetrieveWithCredContext(&bounded)
}
