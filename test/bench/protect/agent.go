package protect

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// Messages of the agent's log.
const (
	saidRound     = "round"
	saidSafety    = "safety dump"
	saidDumped    = "dumped"
	saidEvacuated = "evacuated"
)

// event is a line of the agent's log.
type event struct {
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

	parts map[string]float64
}

// agentLog is the log of the agent on the source node, as it is written.
type agentLog struct {
	id string // of its container

	mu     sync.Mutex
	events []event
	more   chan struct{} // closed when there is more
}

// followAgent reads the agent's log until ctx ends.
func (l *lab) followAgent(ctx context.Context) (*agentLog, error) {
	pods, err := l.Kube.CoreV1().Pods(deploy.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=lifeboat-agent", FieldSelector: "spec.nodeName=" + rig.Source,
	})
	if err != nil {
		return nil, fmt.Errorf("find the agent: %w", err)
	}
	running := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(running) != 1 {
		return nil, fmt.Errorf("find the agent: %d pods on node %s, want 1", len(running), rig.Source)
	}
	a := &agentLog{more: make(chan struct{})}
	if a.id, err = rig.ContainerID(&running[0]); err != nil {
		return nil, err
	}
	stream, err := l.Kube.CoreV1().Pods(deploy.Namespace).GetLogs(running[0].Name, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("follow the agent's log: %w", err)
	}
	go func() {
		defer stream.Close()
		lines := bufio.NewScanner(stream)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			a.add(lines.Bytes())
		}
	}()
	return a, nil
}

// add notes a line. One that is none of ours is of no interest.
func (a *agentLog) add(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		return
	}
	var fields map[string]any
	if json.Unmarshal(line, &fields) == nil {
		e.parts = partsOf(fields)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
	close(a.more)
	a.more = make(chan struct{})
}

// partsOf are the durations of a line.
func partsOf(fields map[string]any) map[string]float64 {
	parts := map[string]float64{}
	for name, value := range fields {
		if seconds, ok := value.(float64); ok {
			parts[name] = seconds
		}
	}
	return parts
}

// of returns what the agent has said of a pod since a time.
func (a *agentLog) of(pod, message string, since time.Time) []event {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []event
	for _, e := range a.events {
		if e.Pod == pod && e.Message == message && e.Time.After(since) {
			found = append(found, e)
		}
	}
	return found
}

// await waits until the agent has said something of a pod n times since a time, and returns the last one.
func (a *agentLog) await(ctx context.Context, pod, message string, since time.Time, n int) (event, error) {
	for {
		a.mu.Lock()
		more := a.more
		a.mu.Unlock()
		if found := a.of(pod, message, since); len(found) >= n {
			return found[n-1], nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return event{}, fmt.Errorf("wait for the agent's %q of pod %s: %w", message, pod, ctx.Err())
		}
	}
}
