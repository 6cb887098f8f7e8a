package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

const (
	maxRequestBytes = 64 << 10
	shutdownTimeout = 5 * time.Second
)

// Serve answers lifeboat-runtime on the unix socket at path (as this process sees it) until ctx ends.
func (p *Preparer) Serve(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make folder of socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for lifeboat-runtime: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("close socket to others: %w", err), listener.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("POST /v1/prepare", handle(p.Prepare))
	mux.Handle("POST /v1/await", handle(func(ctx context.Context, r handover.AwaitRequest) (struct{}, error) {
		return struct{}{}, p.Await(ctx, r)
	}))
	mux.Handle("POST /v1/result", handle(func(ctx context.Context, r handover.ResultRequest) (struct{}, error) {
		return struct{}{}, p.Result(ctx, r)
	}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: shutdownTimeout}
	stop := context.AfterFunc(ctx, func() {
		// Requests under way have their own context and are given a moment to end.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(ending) != nil {
			server.Close()
		}
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve lifeboat-runtime: %w", err)
	}
	return nil
}

// handle makes an HTTP handler of a JSON call. Its error becomes a text/plain answer with status 503.
func handle[Request, Reply any](call func(context.Context, Request) (Reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request Request
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes)).Decode(&request); err != nil {
			http.Error(w, fmt.Sprintf("decode request: %v", err), http.StatusBadRequest)
			return
		}
		reply, err := call(r.Context(), request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// The wrapper that is gone by now has failed its create; there is nobody to tell.
		_ = json.NewEncoder(w).Encode(reply)
	})
}
