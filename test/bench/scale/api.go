package scale

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/room"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Users as whom requests are made.
const (
	controllerName = "lifeboat-controller"
	controllerUser = "system:serviceaccount:" + deploy.Namespace + ":" + controllerName
	agentUser      = "system:serviceaccount:" + deploy.Namespace + ":lifeboat-agent"
	// nodeOfToken is where the API server finds the node that a token is bound to.
	nodeOfToken = "authentication.kubernetes.io/node-name"
)

// api is the way to the API server, from within the bed's network: the relay that leads in would take processor time.
type api struct {
	kubernetes.Interface
	points *checkpoints.Client
	config *rest.Config
	// as is the administrator's transport, who may speak as anybody.
	as http.RoundTripper
	// asked counts what agents ask.
	asked *counter
}

func connect(c *bed.Cluster) (*api, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.InsideKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("load kubeconfig: %w", err)
	}
	config.QPS, config.WarningHandler = -1, rest.NoWarnings{}
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return room.DialFrom(ctx, c.HubPID(), network, address)
	}
	a := &api{config: config, asked: &counter{}}
	if a.Interface, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if a.points, err = checkpoints.New(config); err != nil {
		return nil, err
	}
	if a.as, err = rest.TransportFor(config); err != nil {
		return nil, fmt.Errorf("make transport: %w", err)
	}
	return a, nil
}

// agent is the configuration of a client of the agent on a node. Its requests are counted.
func (a *api) agent(node string) *rest.Config {
	as := transport.NewImpersonatingRoundTripper(transport.ImpersonationConfig{
		UserName: agentUser, Extra: map[string][]string{nodeOfToken: {node}},
	}, a.as)
	return &rest.Config{Host: a.config.Host, QPS: -1, WarningHandler: rest.NoWarnings{}, Transport: a.asked.around(as)}
}

// counter counts requests by what they ask.
type counter struct {
	mu    sync.Mutex
	count map[string]int
}

// take returns what was counted since it was called last.
func (c *counter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counted := maps.Clone(c.count)
	c.count = nil
	return counted
}

func (c *counter) around(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		c.mu.Lock()
		if c.count == nil {
			c.count = map[string]int{}
		}
		c.count[r.Method+" "+kindOf(r.URL.Path)]++
		c.mu.Unlock()
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// kindOf is the resource, and the subresource, that a path of the API is about.
func kindOf(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		parts = parts[3:]
	default:
		return path
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	if len(parts) > 2 {
		return parts[0] + "/" + parts[2]
	}
	return parts[0]
}

// applyObjects applies the manifests without what would run on nodes, and without the webhook, for there is nobody yet to
// answer.
func (l *lab) applyObjects(ctx context.Context) error {
	return l.apply(ctx, func(kind string) bool {
		switch kind {
		case "DaemonSet", "Deployment", "PodDisruptionBudget", "Service", webhookKind:
			return false
		}
		return true
	})
}

const webhookKind = "MutatingWebhookConfiguration"

// apply applies those objects of manifests/base whose kind is wanted.
func (l *lab) apply(ctx context.Context, wanted func(kind string) bool) error {
	all, err := l.kube.Kubectl(ctx, nil, "kustomize", l.Root+"/manifests/base")
	if err != nil {
		return err
	}
	var chosen strings.Builder
	for document := range strings.SplitSeq(all, "\n---\n") {
		var object struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			return fmt.Errorf("read manifests: %w", err)
		}
		if wanted(object.Kind) {
			chosen.WriteString("---\n" + document + "\n")
		}
	}
	_, err = l.kube.Kubectl(ctx, []byte(chosen.String()), "apply", "--server-side", "-f", "-")
	return err
}

// checkpoints counts the Checkpoints there are.
func (l *lab) checkpoints(ctx context.Context) (int, error) {
	list, err := l.kube.Dynamic().Resource(deploy.Checkpoints).List(ctx, one)
	if err != nil {
		return 0, fmt.Errorf("count checkpoints: %w", err)
	}
	count := len(list.Items)
	if rest := list.GetRemainingItemCount(); rest != nil {
		count += int(*rest)
	}
	return count, nil
}
