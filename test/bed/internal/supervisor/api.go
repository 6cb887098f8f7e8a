package supervisor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// apiClient reads from the API server as cluster admin. client-go would make this program several times as large.
type apiClient struct{ http *http.Client }

func (s *supervisor) api() (*apiClient, error) {
	cert, err := tls.LoadX509KeyPair(s.pki("admin.crt"), s.pki("admin.key"))
	if err != nil {
		return nil, fmt.Errorf("load admin certificate: %w", err)
	}
	ca, err := os.ReadFile(s.pki("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("load CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &apiClient{http: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}}}}, nil
}

func (a *apiClient) get(ctx context.Context, path string, v any) error {
	return get(ctx, a.http, "https://"+hostPort(layout.HubAddress, layout.APIPort)+path, v)
}

// nodeReady is nil when the kubelet has reported the node ready since the boot of that id.
func (a *apiClient) nodeReady(ctx context.Context, name, bootID string) error {
	var node struct {
		Status struct {
			NodeInfo   struct{ BootID string }
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := a.get(ctx, "/api/v1/nodes/"+name, &node); err != nil {
		return err
	}
	if node.Status.NodeInfo.BootID != bootID {
		return fmt.Errorf("node %s has not reported yet", name)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return nil
		}
		if c.Type == "Ready" {
			return fmt.Errorf("node %s is not ready: %s", name, c.Message)
		}
	}
	return fmt.Errorf("node %s has no Ready condition yet", name)
}

// get fetches a URL; v may be nil.
func get(ctx context.Context, client *http.Client, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("get %s: %s: %s", url, res.Status, strings.TrimSpace(string(body)))
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode %s: %w", url, err)
	}
	return nil
}
