package runtime

import (
	"encoding/json"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

func TestSandboxes(t *testing.T) {
	sandbox := map[string]string{annotationContainerType: "sandbox", annotationNamespace: "ns", annotationPod: "pod", annotationPodUID: "uid"}
	for name, c := range map[string]struct {
		away   bool
		answer http.HandlerFunc
		fault  string
	}{
		"the agent is away":      {away: true},
		"nothing to wait for":    {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }},
		"an agent of before":     {answer: http.NotFound},
		"an agent that is broke": {answer: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "what", http.StatusInternalServerError) }},
		"an agent that ends":     {answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"an agent that is slow":  {answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"too early": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "1 of 4 GiB are here", http.StatusServiceUnavailable)
			},
			fault: "too early for the sandbox: 1 of 4 GiB are here",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, sandbox)
			var asked handover.AwaitRequest
			if !c.away {
				listener, err := net.Listen("unix", b.options.Socket)
				require.NoError(t, err)
				server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_ = json.NewDecoder(r.Body).Decode(&asked)
					c.answer(w, r)
				})}
				go func() { _ = server.Serve(listener) }()
				t.Cleanup(func() { _ = server.Close() })
			}
			status := b.create(t)
			if c.fault != "" {
				require.Equal(t, 1, status)
				require.Nil(t, b.passed)
				require.Contains(t, b.stderr.String(), c.fault)
			} else {
				require.Equal(t, 0, status)
				require.NotNil(t, b.passed, "the runtime beneath creates it")
			}
			if !c.away {
				require.Equal(t, handover.AwaitRequest{Namespace: "ns", Pod: "pod", PodUID: "uid"}, asked)
			}
		})
	}
}
