package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"
)

// serveControl takes orders on the unix socket in the state folder; its owner alone can reach it.
//
//	POST /nodes/{name}/kill    ends the node's pid 1
//	POST /nodes/{name}/start   starts it again and waits until it is ready
//	POST /bucket/stop, /bucket/start     kills the S3 server, starts it again
//	POST /bucket/pause, /bucket/resume   has it take connections and answer none, for as long as it is paused
//	POST /apiserver/stop, /apiserver/start
//
// An answer other than 204 is text: what went wrong.
func (s *supervisor) serveControl(ctx context.Context) error {
	l, err := net.Listen("unix", s.Dir.Control())
	if err != nil {
		return fmt.Errorf("take orders: %w", err)
	}
	mux := http.NewServeMux()
	handle := func(pattern string, do func(context.Context, string) error) {
		mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := do(r.Context(), r.PathValue("name")); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	handle("/nodes/{name}/kill", s.killNode)
	handle("/nodes/{name}/start", func(_ context.Context, name string) error {
		if err := s.startNode(ctx, name); err != nil {
			return err
		}
		return s.awaitNode(ctx, name)
	})
	handle("/bucket/stop", func(context.Context, string) error {
		return s.withBucket(func() { s.bucket.Stop(syscall.SIGKILL) })
	})
	handle("/bucket/start", func(ctx context.Context, _ string) error {
		if err := s.withBucket(func() { s.bucket.Start() }); err != nil {
			return err
		}
		return s.awaitBucket(ctx)
	})
	handle("/bucket/pause", func(context.Context, string) error {
		return s.withBucket(func() { s.bucket.Signal(syscall.SIGSTOP) })
	})
	handle("/bucket/resume", func(context.Context, string) error {
		return s.withBucket(func() { s.bucket.Signal(syscall.SIGCONT) })
	})
	handle("/apiserver/stop", func(context.Context, string) error {
		s.apiserver.Stop(syscall.SIGKILL)
		return nil
	})
	handle("/apiserver/start", func(ctx context.Context, _ string) error {
		s.apiserver.Start()
		return s.awaitAPIServer(ctx)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	s.group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("take orders: %w", err)
		}
		return nil
	})
	return nil
}

func (s *supervisor) withBucket(do func()) error {
	if s.bucket == nil {
		return errors.New("the bucket is not this bed's own")
	}
	do()
	return nil
}
