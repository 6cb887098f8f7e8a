package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

var (
	// errNoAgent says that nobody listens on the agent's socket.
	errNoAgent = errors.New("the lifeboat agent of this node is not running")
	// errNoAnswer says that the connection to the agent broke: it may have heard the question.
	errNoAnswer = errors.New("the lifeboat agent of this node gave no answer")
)

// maxReply bounds what is read of the agent's answer, in bytes.
const maxReply = 64 << 10

// agentClient speaks handover's protocol over a unix socket.
type agentClient struct {
	http  http.Client
	pause time.Duration
}

// newAgentClient returns a client that lets pause pass between two tries.
func newAgentClient(socket string, pause time.Duration) *agentClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &agentClient{http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, pause}
}

// question is what create asks the agent, as often as it takes.
type question struct {
	agent   *agentClient
	request handover.PrepareRequest
	// insist waits for an agent that is not there, until the context ends. Otherwise its answer is a plain create, when it is
	// still not there at until.
	insist bool
	until  time.Time
}

// ask puts the question once, unless the agent is away: then as insist says. An agent that has begun to work on it is
// always waited for.
func (q question) ask(ctx context.Context) (handover.PrepareReply, error) {
	var away error
	for {
		reply, err := q.agent.prepare(ctx, q.request)
		switch {
		case errors.Is(err, errNoAnswer):
			q.insist, away = true, err
		case errors.Is(err, errNoAgent) && (q.insist || time.Now().Before(q.until)):
			away = err
		case errors.Is(err, errNoAgent):
			return handover.PrepareReply{Action: handover.ActionCreate}, nil
		case err != nil && away != nil && ctx.Err() != nil:
			return reply, q.unanswered(fmt.Errorf("%w; %w", away, err))
		default:
			return reply, err
		}
		if !q.agent.wait(ctx) {
			return reply, q.unanswered(away)
		}
	}
}

// unanswered explains why the container is not created without an answer.
func (q question) unanswered(err error) error {
	if q.request.RestoreFrom == "" {
		return fmt.Errorf("%w, it was waited for in vain, and without it a restore that has begun is not given up", err)
	}
	return fmt.Errorf("%w, it was waited for in vain, and this pod continues checkpoint %s, so it is not started clean; "+
		"remove the annotation %s from a new pod to start it clean", err, q.request.RestoreFrom, annotationRestoreFrom)
}

// wait lets the pause between two tries pass, and says false where the context ends before.
func (a *agentClient) wait(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(a.pause):
		return true
	}
}

// prepare asks what to do with a container. The error is errNoAgent where no agent can have heard the question, and
// errNoAnswer where one may have acted on it.
func (a *agentClient) prepare(ctx context.Context, request handover.PrepareRequest) (handover.PrepareReply, error) {
	var reply handover.PrepareReply
	body, err := a.post(ctx, "/v1/prepare", request)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return reply, errNoAgent
	}
	var broken *url.Error
	if ctx.Err() == nil && (errors.As(err, &broken) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return reply, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if err != nil {
		return reply, fmt.Errorf("ask the lifeboat agent: %w", err)
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return reply, fmt.Errorf("read the lifeboat agent's answer: %w", err)
	}
	switch {
	case reply.Action == handover.ActionCreate:
	case reply.Action != handover.ActionRestore && reply.Action != handover.ActionRestoreHeld:
		return reply, fmt.Errorf("the lifeboat agent answered %q: agent and wrapper are of different versions", reply.Action)
	case reply.ImagePath == "" || reply.WorkPath == "":
		return reply, errors.New("the lifeboat agent's answer lacks imagePath or workPath")
	}
	return reply, nil
}

// result reports how a restore ended, and tries until the context ends.
func (a *agentClient) result(ctx context.Context, request handover.ResultRequest) error {
	for {
		_, err := a.post(ctx, "/v1/result", request)
		if err == nil {
			return nil
		}
		if !a.wait(ctx) {
			return fmt.Errorf("report to the lifeboat agent: %w", err)
		}
	}
}

// post sends one request and returns the body of a 200. Any other status is an error with the body as its text.
func (a *agentClient) post(ctx context.Context, path string, request any) ([]byte, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	call, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	call.Header.Set("Content-Type", "application/json")
	reply, err := a.http.Do(call)
	if err != nil {
		return nil, err
	}
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if reply.StatusCode/100 != 2 {
		return nil, &statusError{status: reply.StatusCode, text: strings.TrimSpace(string(text))}
	}
	return text, nil
}
