package protect

import (
	"bufio"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

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
	pod, err := l.AgentPod(ctx, rig.Source)
	if err != nil {
		return nil, err
	}
	a := &agent{Log: agentlog.New()}
	if a.id, err = rig.ContainerID(pod); err != nil {
		return nil, err
	}
	stream, err := l.Kube.CoreV1().Pods(deploy.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
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
