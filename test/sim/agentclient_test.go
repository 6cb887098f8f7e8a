package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// clientset is what an agent has of Kubernetes' own kinds.
type clientset struct {
	kubernetes.Interface
	l *life
}

func (c clientset) CoreV1() typedcorev1.CoreV1Interface { return core{l: c.l} }

type core struct {
	typedcorev1.CoreV1Interface
	l *life
}

func (c core) Pods(string) typedcorev1.PodInterface { return podClient{l: c.l} }
func (c core) Nodes() typedcorev1.NodeInterface     { return nodeClient{l: c.l} }

type podClient struct {
	typedcorev1.PodInterface
	l *life
}

// Get implements PodInterface.
func (c podClient) Get(ctx context.Context, name string, _ metav1.GetOptions) (*corev1.Pod, error) {
	var out *corev1.Pod
	err := c.l.edge(ctx, toAPI, "get pod "+name, false, func() error {
		pod := c.l.w.api.pod(name)
		if pod == nil {
			return apierrors.NewNotFound(corev1.Resource("pods"), name)
		}
		out = pod.DeepCopy()
		return nil
	})
	return out, err
}

// List implements PodInterface.
func (c podClient) List(ctx context.Context, options metav1.ListOptions) (*corev1.PodList, error) {
	byLabel, err := labels.Parse(options.LabelSelector)
	if err != nil {
		return nil, err
	}
	byField, err := fields.ParseSelector(options.FieldSelector)
	if err != nil {
		return nil, err
	}
	out := &corev1.PodList{}
	err = c.l.edge(ctx, toAPI, "list pods", false, func() error {
		for _, pod := range c.l.w.api.pods() {
			if byLabel.Matches(labels.Set(pod.Labels)) && byField.Matches(fields.Set{"spec.nodeName": pod.Spec.NodeName}) {
				out.Items = append(out.Items, *pod.DeepCopy())
			}
		}
		return nil
	})
	return out, err
}

type nodeClient struct {
	typedcorev1.NodeInterface
	l *life
}

// Get implements NodeInterface.
func (c nodeClient) Get(ctx context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
	var out *corev1.Node
	err := c.l.edge(ctx, toAPI, "get node "+name, false, func() error {
		node := c.l.w.api.node(name)
		if node == nil {
			return apierrors.NewNotFound(corev1.Resource("nodes"), name)
		}
		out = node.DeepCopy()
		return nil
	})
	return out, err
}

// Update implements NodeInterface.
func (c nodeClient) Update(ctx context.Context, node *corev1.Node, _ metav1.UpdateOptions) (*corev1.Node, error) {
	node = node.DeepCopy()
	err := c.l.edge(ctx, toAPI, "write node "+node.Name, true, func() error { return c.l.w.api.update(node, false) })
	return node, err
}

// lifeKey is where a context has the process that it is of.
type lifeKey struct{}

func (l *life) context() context.Context { return context.WithValue(l.ctx, lifeKey{}, l) }

// points is the client of Checkpoints of all agents: who asks is told by the context.
var points = sync.OnceValues(func() (*checkpoints.Client, error) {
	return checkpoints.New(&rest.Config{Host: "http://sim", QPS: -1, Transport: checkpointServer{}})
})

// checkpointServer serves Checkpoints to agents.
type checkpointServer struct{}

// RoundTrip implements http.RoundTripper.
func (checkpointServer) RoundTrip(r *http.Request) (*http.Response, error) {
	l, _ := r.Context().Value(lifeKey{}).(*life)
	if l == nil {
		return nil, errors.New("a request of no process")
	}
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/apis/"+v1alpha1.GroupVersion.String()), "/"), "/")
	name := ""
	if len(parts) > 3 {
		name = parts[3]
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	var out any
	err := l.edge(r.Context(), toAPI, what(r, name), r.Method == http.MethodPut, func() (err error) {
		out, err = l.w.api.serveCheckpoint(r.Method, name, r.URL.Query(), body)
		return err
	})
	status := apierrors.APIStatus(nil)
	switch {
	case errors.As(err, &status):
		s := status.Status()
		s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		return answer(r, int(s.Code), s)
	case err != nil:
		return nil, err
	}
	return answer(r, http.StatusOK, out)
}

func what(r *http.Request, name string) string {
	switch {
	case r.Method == http.MethodPut:
		return "write checkpoint " + name
	case name == "":
		return "list checkpoints"
	}
	return "get checkpoint " + name
}

func answer(r *http.Request, code int, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(text)), ContentLength: int64(len(text)),
	}, nil
}

// serveCheckpoint does what package checkpoints asks for.
func (a *api) serveCheckpoint(method, name string, query url.Values, body []byte) (any, error) {
	kind := metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Checkpoint"}
	if method == http.MethodPut {
		sent := &v1alpha1.Checkpoint{}
		if err := json.Unmarshal(body, sent); err != nil {
			return nil, err
		}
		if err := a.update(sent, true); err != nil {
			return nil, err
		}
	}
	if name != "" {
		point, _ := a.now(key{"checkpoints", name}).(*v1alpha1.Checkpoint)
		if point == nil {
			return nil, apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("checkpoints").GroupResource(), name)
		}
		point = point.DeepCopy()
		point.TypeMeta = kind
		return point, nil
	}
	byLabel, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		return nil, err
	}
	byField, err := fields.ParseSelector(query.Get("fieldSelector"))
	if err != nil {
		return nil, err
	}
	list := &v1alpha1.CheckpointList{TypeMeta: metav1.TypeMeta{APIVersion: kind.APIVersion, Kind: "CheckpointList"}}
	for _, o := range a.list("checkpoints", time.Now()) {
		point := o.(*v1alpha1.Checkpoint)
		set := fields.Set{}
		if point.Status.Pod != nil {
			set["status.pod.uid"] = string(point.Status.Pod.UID)
		}
		if byLabel.Matches(labels.Set(point.Labels)) && byField.Matches(set) {
			list.Items = append(list.Items, *point.DeepCopy())
		}
	}
	return list, nil
}

func (k key) String() string { return fmt.Sprintf("%s %s", k.kind, k.name) }
