package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// createSandbox has the runtime beneath create the sandbox of a pod, unless the agent says that it is too early for one. An
// agent that is away, knows of no such question or does not answer holds no sandbox up.
func (o Options) createSandbox(ctx context.Context, config bundleConfig) error {
	ctx, cancel := context.WithTimeout(ctx, o.Times.Await)
	defer cancel()
	_, err := newAgentClient(o.Socket, o.Times.Pause).post(ctx, "/v1/await", handover.AwaitRequest{
		Namespace: config.Annotations[annotationNamespace],
		Pod:       config.Annotations[annotationPod],
		PodUID:    config.Annotations[annotationPodUID],
	})
	var refusal *statusError
	if errors.As(err, &refusal) && refusal.status == http.StatusServiceUnavailable {
		return fmt.Errorf("too early for the sandbox: %w", err)
	}
	return errPassThrough
}

// statusError is an answer other than 200.
type statusError struct {
	status int
	text   string
}

// Error implements error.
func (e *statusError) Error() string { return fmt.Sprintf("%s (status %d)", e.text, e.status) }
