package admission

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Path is where pods are reviewed.
const Path = "/pods"

// linger is how long a server goes on after it was told to end: until then no API server calls this replica any more.
const linger = 5 * time.Second

// Server serves a Handler to API servers.
type Server struct {
	Handler *Handler
	// Port is where it listens.
	Port int
	// Certificate is for tls.Config.GetCertificate.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Run serves until linger after ctx has ended.
func (s *Server) Run(ctx context.Context) error {
	server := webhook.NewServer(webhook.Options{Port: s.Port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.GetCertificate = s.Certificate
		// A connection of HTTP/2 to a node that has died is used for up to 45 s, call after call in vain.
		c.NextProtos = []string{"http/1.1"}
	}}})
	server.Register(Path, oneCallAConnection(&admission.Webhook{Handler: s.Handler}))
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(linger, stop) })()
	if err := server.Start(serving); err != nil {
		return fmt.Errorf("serve webhook: %w", err)
	}
	return nil
}

// oneCallAConnection spreads calls over the replicas, so that one which is gone costs few of them. Labelled pods are not
// created so often that handshakes would count.
func oneCallAConnection(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		next.ServeHTTP(w, r)
	})
}
