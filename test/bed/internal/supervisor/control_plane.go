package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/pki"
)

const (
	etcdURL      = "http://127.0.0.1:2379"
	etcdPeerURL  = "http://127.0.0.1:2380"
	readyTimeout = 90 * time.Second
)

// keys makes all keys, certificates and kubeconfigs of the bed.
func (s *supervisor) keys(context.Context) error {
	ca, err := pki.New(s.Dir.PKI())
	if err != nil {
		return err
	}
	inside, outside := "https://"+hostPort(layout.HubAddress, layout.APIPort), "https://"+hostPort("127.0.0.1", s.HostAPIPort)
	users := map[string]pki.Identity{
		"apiserver": {Name: "kube-apiserver",
			DNS:       []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"},
			Addresses: []string{layout.HubAddress, "127.0.0.1", layout.ServiceAddress}},
		"admin":              {Name: "admin", Organizations: []string{"system:masters"}},
		"controller-manager": {Name: "system:kube-controller-manager"},
		"scheduler":          {Name: "system:kube-scheduler"},
	}
	for _, n := range layout.Nodes() {
		users["node-"+n.Name] = pki.Identity{Name: "system:node:" + n.Name, Organizations: []string{"system:nodes"},
			DNS: []string{n.Name}, Addresses: []string{n.Address}}
	}
	for file, id := range users {
		err := errors.Join(ca.Issue(file, id), ca.Kubeconfig(s.pki(file+".kubeconfig"), file, inside))
		if err != nil {
			return fmt.Errorf("make identity %s: %w", file, err)
		}
	}
	return errors.Join(ca.SigningKey("service-account"), ca.Kubeconfig(s.Dir.Kubeconfig(), "admin", outside))
}

func (s *supervisor) pki(file string) string { return filepath.Join(s.Dir.PKI(), file) }

// controlPlane starts etcd, the API server, the controllers and the scheduler, and waits until pods can be made.
func (s *supervisor) controlPlane(ctx context.Context) error {
	began := time.Now()
	// In memory: a disk that others keep busy must not hold the cluster up for half a minute.
	if err := errors.Join(os.MkdirAll(s.Dir.Path("etcd"), 0o700), unix.Mount("etcd", s.Dir.Path("etcd"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700")); err != nil {
		return fmt.Errorf("mount memory for etcd: %w", err)
	}
	s.service(ctx, "etcd", filepath.Join(s.Root, "usr/bin/etcd"), "--data-dir", s.Dir.Path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL, "--listen-peer-urls", etcdPeerURL)
	if err := await(ctx, "etcd", readyTimeout, func(ctx context.Context) error {
		return get(ctx, http.DefaultClient, etcdURL+"/health", nil)
	}); err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	s.apiserver = s.service(ctx, "apiserver", s.apiserverArgs()...)
	if err := s.awaitAPIServer(ctx); err != nil {
		return err
	}
	s.progress("API server ready after %.1f s", time.Since(began).Seconds())
	s.service(ctx, "controller-manager", s.controllerArgs()...)
	s.service(ctx, "scheduler", s.kubernetes("kube-scheduler"), "--kubeconfig="+s.pki("scheduler.kubeconfig"),
		"--leader-elect=false", "--bind-address=127.0.0.1")
	return await(ctx, "the controllers", readyTimeout, func(ctx context.Context) error {
		return api.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	})
}

func (s *supervisor) awaitAPIServer(ctx context.Context) error {
	api, err := s.api()
	if err != nil {
		return err
	}
	return await(ctx, "the API server", readyTimeout, func(ctx context.Context) error {
		return api.get(ctx, "/readyz", nil)
	})
}

func (s *supervisor) apiserverArgs() []string {
	args := []string{
		s.kubernetes("kube-apiserver"), "--etcd-servers=" + etcdURL,
		"--bind-address=" + layout.HubAddress, "--advertise-address=" + layout.HubAddress,
		"--secure-port=" + fmt.Sprint(layout.APIPort), "--service-cluster-ip-range=" + layout.ServiceRange,
		"--tls-cert-file=" + s.pki("apiserver.crt"), "--tls-private-key-file=" + s.pki("apiserver.key"),
		"--client-ca-file=" + s.pki("ca.crt"), "--kubelet-certificate-authority=" + s.pki("ca.crt"),
		"--kubelet-client-certificate=" + s.pki("admin.crt"), "--kubelet-client-key=" + s.pki("admin.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + s.pki("service-account.pub"),
		"--service-account-signing-key-file=" + s.pki("service-account.key"),
		"--authorization-mode=Node,RBAC", "--allow-privileged=true", "--enable-admission-plugins=NodeRestriction",
		"--kubelet-preferred-address-types=InternalIP",
		// There is no kube-proxy: webhooks and aggregated APIs are reached at their pods.
		"--enable-aggregator-routing=true",
	}
	if s.Audit {
		args = append(args, "--audit-policy-file="+s.Dir.AuditPolicy(), "--audit-log-path="+s.Dir.AuditLog(), "--audit-log-maxsize=4096")
	}
	return args
}

func (s *supervisor) controllerArgs() []string {
	args := []string{
		s.kubernetes("kube-controller-manager"), "--kubeconfig=" + s.pki("controller-manager.kubeconfig"),
		"--leader-elect=false", "--use-service-account-credentials", "--bind-address=127.0.0.1",
		"--service-account-private-key-file=" + s.pki("service-account.key"), "--root-ca-file=" + s.pki("ca.crt"),
		"--kube-api-qps=500", "--kube-api-burst=1000", // starting all controllers takes 5 s with the defaults
		"--cluster-signing-cert-file=" + s.pki("ca.crt"), "--cluster-signing-key-file=" + s.pki("ca.key"),
	}
	if s.MonitorGrace > 0 {
		args = append(args, "--node-monitor-grace-period="+s.MonitorGrace.String())
	}
	return args
}
