package protect

import (
	"bufio"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/test/bench/protect/agentlog"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// agent is the agent on the source node.
type agent struct {
	*agentlog.Log
	id string // of its container
}

// followAgent reads the agent's log until ctx ends.
func (l *lab) followAgent(ctx context.Context) (*agent, error) {
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
	a := &agent{Log: agentlog.New()}
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
			_, _ = a.Write(lines.Bytes()) // never fails
		}
	}()
	return a, nil
}
