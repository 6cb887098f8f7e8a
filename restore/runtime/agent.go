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
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// errNoAgent says that nobody listens on the agent's socket.
var errNoAgent = errors.New("the lifeboat agent of this node is not running")

// maxReply bounds what is read of the agent's answer, in bytes.
const maxReply = 64 << 10

// agentClient speaks handover's protocol over a unix socket.
type agentClient struct{ http http.Client }

func newAgentClient(socket string) *agentClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &agentClient{http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// prepare asks what to do with a container. The error is errNoAgent where no agent can have heard the question.
func (a *agentClient) prepare(ctx context.Context, request handover.PrepareRequest) (handover.PrepareReply, error) {
	var reply handover.PrepareReply
	body, err := a.post(ctx, "/v1/prepare", request)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return reply, errNoAgent
	}
	if err != nil {
		return reply, fmt.Errorf("ask the lifeboat agent: %w", err)
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return reply, fmt.Errorf("read the lifeboat agent's answer: %w", err)
	}
	switch {
	case reply.Action == handover.ActionCreate:
	case reply.Action != handover.ActionRestore:
		return reply, fmt.Errorf("the lifeboat agent answered %q: agent and wrapper are of different versions", reply.Action)
	case reply.ImagePath == "" || reply.WorkPath == "":
		return reply, errors.New("the lifeboat agent's answer lacks imagePath or workPath")
	}
	return reply, nil
}

// result reports how a restore ended, with a few tries within a few seconds.
func (a *agentClient) result(ctx context.Context, request handover.ResultRequest) error {
	ctx, cancel := context.WithTimeout(ctx, resultTimeout)
	defer cancel()
	for {
		_, err := a.post(ctx, "/v1/result", request)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("report to the lifeboat agent: %w", err)
		case <-time.After(resultPause):
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
		return nil, fmt.Errorf("%s (status %d)", strings.TrimSpace(string(text)), reply.StatusCode)
	}
	return text, nil
}
