// Package imds is a scripted EC2 instance metadata service. It answers as AWS does with IMDSv2 required: a session token
// by PUT, 401 without a live one, and 404 for everything that does not exist, spot/instance-action before a notice
// included. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html
package imds

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Headers of IMDSv2.
const (
	TokenHeader = "X-Aws-Ec2-Metadata-Token"
	TTLHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
)

// maxTTLSeconds is six hours, the longest life of a token.
const maxTTLSeconds = 21600

// timeLayout is how AWS writes a notice's time: UTC, whole seconds.
const timeLayout = "2006-01-02T15:04:05Z"

// Instance is what the service tells of its machine.
type Instance struct {
	ID, Type, Zone, Region, PrivateIP, Hostname string
	// Started is the instance's pendingTime.
	Started time.Time
}

// Notices is what has been announced. The zero value announces nothing.
type Notices struct {
	// Action is terminate, stop or hibernate; empty means that there is no interruption notice. At is its time.
	Action string    `json:"action,omitempty"`
	At     time.Time `json:"at,omitzero"`
	// Rebalance is the noticeTime of a rebalance recommendation; zero means that there is none.
	Rebalance time.Time `json:"rebalance,omitzero"`
}

// Board holds notices in memory, for tests. It is safe for concurrent use.
type Board struct {
	mu      sync.Mutex
	notices Notices
}

// Set replaces what is announced.
func (b *Board) Set(n Notices) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notices = n
}

// Notices returns what is announced. It is a source for New.
func (b *Board) Notices() (Notices, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.notices, nil
}

// Service is the metadata service, an http.Handler.
type Service struct {
	instance Instance
	notices  func() (Notices, error)
	now      func() time.Time

	mu     sync.Mutex
	tokens map[string]time.Time // token to its end
}

// New makes a service that asks notices at every request.
func New(instance Instance, notices func() (Notices, error)) *Service {
	return &Service{instance: instance, notices: notices, now: time.Now, tokens: map[string]time.Time{}}
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "EC2ws")
	switch {
	case r.URL.Path == "/latest/api/token":
		s.token(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		fail(w, http.StatusMethodNotAllowed)
	default:
		s.data(w, r)
	}
}

func (s *Service) token(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", "OPTIONS, PUT")
		fail(w, http.StatusMethodNotAllowed)
		return
	}
	if r.Header.Get("X-Forwarded-For") != "" { // AWS refuses what came through a proxy
		fail(w, http.StatusForbidden)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(TTLHeader))
	if err != nil || ttl < 1 || ttl > maxTTLSeconds {
		fail(w, http.StatusBadRequest)
		return
	}
	token := rand.Text() + rand.Text()
	s.mu.Lock()
	now := s.now()
	for t, end := range s.tokens {
		if !now.Before(end) {
			delete(s.tokens, t)
		}
	}
	s.tokens[token] = now.Add(time.Duration(ttl) * time.Second)
	s.mu.Unlock()
	w.Header().Set(TTLHeader, strconv.Itoa(ttl))
	write(w, "text/plain", token)
}

func (s *Service) data(w http.ResponseWriter, r *http.Request) {
	left, ok := s.tokenLeft(r.Header.Get(TokenHeader))
	if !ok {
		fail(w, http.StatusUnauthorized)
		return
	}
	w.Header().Set(TTLHeader, strconv.Itoa(left))
	n, err := s.notices()
	if err != nil {
		fail(w, http.StatusInternalServerError)
		return
	}
	tree := s.tree(n)
	path := strings.Trim(r.URL.Path, "/")
	if body, ok := tree[path]; ok {
		contentType := "text/plain"
		if strings.HasPrefix(body, "{") {
			contentType = "application/json"
		}
		write(w, contentType, body)
		return
	}
	if list := listing(tree, path); list != "" {
		write(w, "text/plain", list)
		return
	}
	fail(w, http.StatusNotFound)
}

// tokenLeft is the whole seconds that a token has left.
func (s *Service) tokenLeft(token string) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, ok := s.tokens[token]
	left := end.Sub(s.now())
	return int(left / time.Second), ok && left > 0
}

// tree is every document that exists now.
func (s *Service) tree(n Notices) map[string]string {
	i := s.instance
	const meta = "latest/meta-data/"
	tree := map[string]string{
		meta + "ami-id":                      "ami-0bed0bed0bed0bed0",
		meta + "hostname":                    i.Hostname,
		meta + "instance-id":                 i.ID,
		meta + "instance-life-cycle":         "spot",
		meta + "instance-type":               i.Type,
		meta + "local-hostname":              i.Hostname,
		meta + "local-ipv4":                  i.PrivateIP,
		meta + "placement/availability-zone": i.Zone,
		meta + "placement/region":            i.Region,
		"latest/dynamic/instance-identity/document": document(map[string]any{
			"accountId": "000000000000", "architecture": "x86_64", "availabilityZone": i.Zone,
			"imageId": "ami-0bed0bed0bed0bed0", "instanceId": i.ID, "instanceType": i.Type,
			"pendingTime": i.Started.UTC().Format(timeLayout), "privateIp": i.PrivateIP, "region": i.Region,
			"version": "2017-09-30"}),
	}
	if n.Action != "" {
		at := n.At.UTC().Format(timeLayout)
		tree[meta+"spot/instance-action"] = document(map[string]any{"action": n.Action, "time": at})
		if n.Action == "terminate" {
			tree[meta+"spot/termination-time"] = at
		}
	}
	if !n.Rebalance.IsZero() {
		tree[meta+"events/recommendations/rebalance"] =
			document(map[string]any{"noticeTime": n.Rebalance.UTC().Format(timeLayout)})
	}
	return tree
}

func document(m map[string]any) string {
	b, _ := json.Marshal(m) // strings alone: cannot fail
	return string(b)
}

// listing names what lies beneath a folder, one a line, folders with a slash.
func listing(tree map[string]string, folder string) string {
	seen := map[string]bool{}
	for path := range tree {
		rest, ok := strings.CutPrefix(path, folder+"/")
		if !ok {
			continue
		}
		if first, _, deeper := strings.Cut(rest, "/"); deeper {
			rest = first + "/"
		}
		seen[rest] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), "\n")
}

func write(w http.ResponseWriter, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write([]byte(body))
}

func fail(w http.ResponseWriter, status int) {
	http.Error(w, strconv.Itoa(status)+" - "+http.StatusText(status), status)
}
