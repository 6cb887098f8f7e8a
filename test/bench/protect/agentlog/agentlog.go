// Package agentlog reads what lifeboat-agent writes to its log.
package agentlog

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// Messages of the agent's log.
const (
	Round     = "round"
	Safety    = "safety dump"
	Dumped    = "dumped"
	Evacuated = "evacuated"
)

// Event is a line of the agent's log.
type Event struct {
	Time    time.Time `json:"time"`
	Message string    `json:"message"`
	Pod     string    `json:"pod"`

	Seconds       float64 `json:"seconds"`
	CPUSeconds    float64 `json:"cpu_seconds"`
	EncodeSeconds float64 `json:"encode_seconds"`
	ReadBytes     float64 `json:"read_bytes"`
	ChangedBytes  float64 `json:"changed_bytes"`
	UploadedBytes float64 `json:"uploaded_bytes"`
	StillSeconds  float64 `json:"still_seconds"`
	RSSBytes      float64 `json:"rss_bytes"`
	Lazy          bool    `json:"lazy"`
	NotLazy       string  `json:"not_lazy"`

	// Fields are all that are numbers, by their names.
	Fields map[string]float64
}

// Log is the agent's log, as it is written. It may be read while it is.
type Log struct {
	mu     sync.Mutex
	events []Event
	more   chan struct{} // closed when there is more
}

// New returns an empty one.
func New() *Log { return &Log{more: make(chan struct{})} }

// Write takes one line. One that is none of the agent's is of no interest.
func (a *Log) Write(line []byte) (int, error) {
	var e Event
	if json.Unmarshal(line, &e) != nil {
		return len(line), nil
	}
	var fields map[string]any
	if json.Unmarshal(line, &fields) == nil {
		e.Fields = numbers(fields)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
	close(a.more)
	a.more = make(chan struct{})
	return len(line), nil
}

// numbers are those of a line.
func numbers(fields map[string]any) map[string]float64 {
	all := map[string]float64{}
	for name, value := range fields {
		if number, ok := value.(float64); ok {
			all[name] = number
		}
	}
	return all
}

// Of returns what the agent has said of a pod since a time.
func (a *Log) Of(pod, message string, since time.Time) []Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []Event
	for _, e := range a.events {
		if e.Pod == pod && e.Message == message && e.Time.After(since) {
			found = append(found, e)
		}
	}
	return found
}

// Await waits until the agent has said something of a pod n times since a time, and returns the last one.
func (a *Log) Await(ctx context.Context, pod, message string, since time.Time, n int) (Event, error) {
	for {
		a.mu.Lock()
		more := a.more
		a.mu.Unlock()
		if found := a.Of(pod, message, since); len(found) >= n {
			return found[n-1], nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("wait for the agent's %q of pod %s: %w", message, pod, ctx.Err())
		}
	}
}
