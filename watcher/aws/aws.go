// Package aws hears EC2 spot interruption notices from the instance metadata service, version 2.
//
// Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html. The item
// spot/instance-action answers 404 while there is no notice, then {"action": "terminate", "time": "…Z"}.
package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/lifeboat-dev/lifeboat/watcher"
)

const (
	name           = "aws"
	actionPath     = "spot/instance-action"
	maxAnswerBytes = 4 << 10
	requestTimeout = 3 * time.Second
)

// Source polls the metadata service.
type Source struct {
	client   *imds.Client
	interval time.Duration
	now      func() time.Time
}

// New returns a Source that asks endpoint (empty: the SDK's default, http://169.254.169.254) every interval. AWS asks
// for at most 5 s; 2 s is a good value.
func New(endpoint string, interval time.Duration) *Source {
	options := imds.Options{
		Endpoint:       endpoint,
		EnableFallback: aws.FalseTernary,
		HTTPClient:     &http.Client{Timeout: requestTimeout},
		Retryer:        retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 1 }),
	}
	return &Source{client: imds.New(options), interval: interval, now: time.Now}
}

// Name implements watcher.Source.
func (s *Source) Name() string { return name }

// Run implements watcher.Source.
func (s *Source) Run(ctx context.Context, sink watcher.Sink) error {
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	for {
		notice, err := s.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			sink.Blind(name, err)
		case notice == nil:
			sink.Quiet(name)
		default:
			sink.Heard(*notice)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// ask returns the present notice, or nil where there is none.
func (s *Source) ask(ctx context.Context) (*watcher.Notice, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	out, err := s.client.GetMetadata(ctx, &imds.GetMetadataInput{Path: actionPath})
	if err != nil {
		if answered := (*smithyhttp.ResponseError)(nil); errors.As(err, &answered) && answered.HTTPStatusCode() == http.StatusNotFound {
			return nil, nil
		}
		return nil, fmt.Errorf("get %s: %w", actionPath, err)
	}
	defer out.Content.Close()
	body, err := io.ReadAll(io.LimitReader(out.Content, maxAnswerBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", actionPath, err)
	}
	return parse(body, s.now())
}

// parse decodes an instance-action answer. Whatever is not exactly that is an error, never a notice.
func parse(body []byte, heard time.Time) (*watcher.Notice, error) {
	var answer struct {
		Action string `json:"action"`
		Time   string `json:"time"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("decode %s: %w", actionPath, err)
	}
	action := watcher.Action(answer.Action)
	switch action {
	case watcher.ActionTerminate, watcher.ActionStop, watcher.ActionHibernate:
	default:
		return nil, fmt.Errorf("decode %s: unknown action %q", actionPath, answer.Action)
	}
	deadline, err := time.Parse(time.RFC3339, answer.Time)
	if err != nil {
		return nil, fmt.Errorf("decode %s: time %q is not RFC 3339", actionPath, answer.Time)
	}
	return &watcher.Notice{Source: name, Action: action, Deadline: deadline.UTC(), Heard: heard}, nil
}
