// Package checkpointstest serves Checkpoints as an API server does, as far as package checkpoints asks: get, list, and the
// update of a status on condition of its resourceVersion.
package checkpointstest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Server holds Checkpoints.
type Server struct {
	// Client asks this server.
	Client *checkpoints.Client

	mu      sync.Mutex
	objects map[string]*v1alpha1.Checkpoint
	lists   int
	// Before is called before each update; it may Edit what the update then conflicts with.
	Before func()
}

// New starts a Server that ends with the test.
func New(t testing.TB, objects ...*v1alpha1.Checkpoint) *Server {
	t.Helper()
	s := &Server{objects: map[string]*v1alpha1.Checkpoint{}}
	for _, o := range objects {
		o.ResourceVersion = "1"
		s.objects[o.Namespace+"/"+o.Name] = o.DeepCopy()
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	client, err := checkpoints.New(&rest.Config{Host: server.URL, QPS: -1})
	require.NoError(t, err)
	s.Client = client
	return s
}

// Get returns a copy of a Checkpoint, nil where there is none.
func (s *Server) Get(namespace, name string) *v1alpha1.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[namespace+"/"+name].DeepCopy()
}

// Lists is how often somebody has listed Checkpoints.
func (s *Server) Lists() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

// Edit changes a Checkpoint as somebody else would.
func (s *Server) Edit(namespace, name string, change func(*v1alpha1.Checkpoint)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[namespace+"/"+name]
	change(o)
	o.ResourceVersion = next(o.ResourceVersion)
}

// Delete removes a Checkpoint.
func (s *Server) Delete(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, namespace+"/"+name)
}

func next(version string) string {
	n, _ := strconv.Atoi(version)
	return strconv.Itoa(n + 1)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/apis/"+v1alpha1.GroupVersion.String())
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case r.Method == http.MethodGet && len(parts) == 3:
		s.list(w, parts[1], r.URL.Query())
	case r.Method == http.MethodGet && len(parts) == 4:
		s.get(w, parts[1]+"/"+parts[3])
	case r.Method == http.MethodPut && len(parts) == 5 && parts[4] == "status":
		s.put(w, r, parts[1]+"/"+parts[3])
	default:
		refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed)
	}
}

// list knows one label and one field, by which identity's lookup asks.
func (s *Server) list(w http.ResponseWriter, namespace string, query url.Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	list := v1alpha1.CheckpointList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "CheckpointList"}}
	label, labelled := strings.CutPrefix(query.Get("labelSelector"), v1alpha1.LabelIdentity+"=")
	field, fielded := strings.CutPrefix(query.Get("fieldSelector"), "status.pod.uid=")
	for _, o := range s.objects {
		if o.Namespace == namespace && (!labelled || o.Labels[v1alpha1.LabelIdentity] == label) &&
			(!fielded || o.Status.Pod != nil && string(o.Status.Pod.UID) == field) {
			list.Items = append(list.Items, *o.DeepCopy())
		}
	}
	answer(w, http.StatusOK, list)
}

func (s *Server) get(w http.ResponseWriter, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	answer(w, http.StatusOK, typed(o))
}

func (s *Server) put(w http.ResponseWriter, r *http.Request, key string) {
	if s.Before != nil {
		s.Before()
	}
	var sent v1alpha1.Checkpoint
	if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	case o.ResourceVersion != sent.ResourceVersion:
		refuse(w, http.StatusConflict, metav1.StatusReasonConflict)
	default:
		o.Status = sent.Status
		o.ResourceVersion = next(o.ResourceVersion)
		answer(w, http.StatusOK, typed(o))
	}
}

func typed(o *v1alpha1.Checkpoint) *v1alpha1.Checkpoint {
	out := o.DeepCopy()
	out.APIVersion, out.Kind = v1alpha1.GroupVersion.String(), "Checkpoint"
	return out
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}
