package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/e2e/operator"
)

// customCase is workers of an operator that Lifeboat knows nothing of: ranks are told apart by their labels alone.
func customCase() ownerCase {
	var over chan operator.Status
	return ownerCase{"training", 2, func(ctx context.Context, l *workload) {
		l.t.Helper()
		_, err := l.w.kube.Kubectl(ctx, []byte(operator.Definition), "apply", "-f", "-")
		require.NoError(l.t, err)
		_, err = l.w.kube.Kubectl(ctx, nil, "wait", "--for=condition=Established", "--timeout=30s", "crd/trainingjobs.e2e.lifeboat.dev")
		require.NoError(l.t, err)
		o := &operator.Operator{Pods: l.w.kube, Jobs: l.w.kube.Dynamic()}
		require.NoError(l.t, o.Create(ctx, l.meta(), 2, l.template(corev1.RestartPolicyNever)))
		over = runOperator(ctx, l.t, o)
	}, func(ctx context.Context, l *workload) {
		l.t.Helper()
		for _, c := range l.checkpoints(ctx, 2, "there", func(*v1alpha1.Checkpoint) bool { return true }) {
			require.Equal(l.t, v1alpha1.KindOther, c.Spec.Identity.Kind)
			require.NotEqual(l.t, c.Name, c.Status.Pod.Name, "the replacement has a name of its own")
		}
		l.leases.End()
		select {
		case status := <-over:
			require.Equal(l.t, operator.Status{Succeeded: 2}, status)
		case <-ctx.Done():
			require.FailNow(l.t, "the TrainingJob has not ended")
		}
		require.Len(l.t, l.leases.Processes(), 2)
		require.Empty(l.t, l.leases.Faults())
	}}
}

// runOperator runs o until its job is over, which the channel tells, or the test is.
func runOperator(ctx context.Context, t *testing.T, o *operator.Operator) chan operator.Status {
	t.Helper()
	running, cancel := context.WithCancel(ctx)
	over, ended := make(chan operator.Status, 1), make(chan error, 1)
	go func() {
		status, err := o.Run(running)
		if err == nil {
			over <- status
		}
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the operator: %s", err)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		require.NoError(t, o.Delete(ctx))
	})
	return over
}
