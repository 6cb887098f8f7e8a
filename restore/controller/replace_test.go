package controller

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func request() ctrl.Request { return ctrl.Request{NamespacedName: subject} }

// waiting is a world whose source has been released and where no replacement has been made.
func waiting(t *testing.T) *world {
	w := newWorld(t)
	w.userCreates()
	w.settle()
	w.notice()
	w.commit()
	w.vanish()
	return w
}

func TestAForeignPodUnderTheNameIsLeftAlone(t *testing.T) {
	w := waiting(t)
	foreign := w.userCreates()
	w.settle()
	w.settle()
	require.Equal(t, foreign.UID, w.pod().UID)
	require.Empty(t, w.created)
	c := w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable)
	require.Equal(t, v1alpha1.ReasonNameTaken, c.Reason)
	require.Contains(t, c.Message, string(foreign.UID))
	require.Contains(t, w.reasons("Pod"), v1alpha1.ReasonNameTaken)

	w.vanish()
	w.settle()
	require.Len(t, w.created, 1, "the name is free again")
}

// Another pod takes the name between the last look and the creation.
func TestAlreadyExistsIsLookedAtAgain(t *testing.T) {
	w := waiting(t)
	taken := false
	w.api = interceptor.NewClient(w.api, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if _, isPod := o.(*corev1.Pod); isPod && !taken {
				taken = true
				w.userCreates()
			}
			return c.Create(ctx, o, opts...)
		},
	})
	w.settle()
	require.True(t, taken)
	require.Empty(t, w.created)
	require.Equal(t, v1alpha1.ReasonNameTaken, w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable).Reason)
}

func TestAReplacementThatFailsBeforeItsClaimIsMadeAgain(t *testing.T) {
	for name, fail := range map[string]func(*corev1.Pod){
		"refused by the kubelet": func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "OutOfcpu", "Node didn't have enough resource: cpu"
		},
		"its create failed for good": createFailed,
	} {
		t.Run(name, func(t *testing.T) {
			w := waiting(t)
			w.settle()
			w.changePod(func(p *corev1.Pod) {
				p.Spec.NodeName = "b"
				fail(p)
			})
			start := w.now
			w.settle()
			require.Len(t, w.created, 2)
			require.GreaterOrEqual(t, w.now.Sub(start), rejectedDelay)
			require.Contains(t, w.reasons("Checkpoint"), EventReplacementRejected)
		})
	}
}

// From the source's end to its replacement there is one reconciliation, and no event is waited for.
func TestReleaseAndReplacementAreOneStep(t *testing.T) {
	w := waiting(t)
	var order []string
	w.api = interceptor.NewClient(w.api, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			order = append(order, fmt.Sprintf("%T", o))
			return c.Create(ctx, o, opts...)
		},
	})
	_, err := w.reconciler().Reconcile(t.Context(), request())
	require.NoError(t, err)
	require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionReleased))
	require.Len(t, w.created, 1)
	require.Equal(t, "*v1.Pod", order[0])
	require.Contains(t, w.reasons("Checkpoint"), EventReleased)
	require.Contains(t, w.reasons("Pod"), EventReplaced)
}

func TestAReplacementThatLeavesBeforeItsClaimIsMadeAgain(t *testing.T) {
	w := waiting(t)
	w.settle()
	w.vanish()
	w.settle()
	require.Len(t, w.created, 2)
}

func TestTheAPIServersRefusalIsTold(t *testing.T) {
	w := waiting(t)
	w.api = interceptor.NewClient(w.api, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if _, isPod := o.(*corev1.Pod); isPod {
				return apierrors.NewForbidden(corev1.Resource("pods"), o.GetName(), context.DeadlineExceeded)
			}
			return c.Create(ctx, o, opts...)
		},
	})
	_, err := w.reconciler().Reconcile(t.Context(), request())
	require.ErrorContains(t, err, "replace work/train: create replacement")
	require.Contains(t, w.reasons("Checkpoint"), EventReplaceFailed)
}

// The cache still shows a waiting generation and no pod, while the replacement has claimed, run, ended and gone.
func TestAStaleCacheMakesNoSecondReplacement(t *testing.T) {
	w := waiting(t)
	w.fault = func(applied bool) error {
		if ck := w.checkpoint(); !applied && ck != nil && ck.Status.WaitingGeneration() != nil {
			return errCrash
		}
		return nil
	}
	_, err := w.reconciler().Reconcile(t.Context(), request())
	require.ErrorIs(t, err, errCrash)
	old := w.checkpoint()
	require.NotNil(t, old.Status.WaitingGeneration())

	w.fault = func(bool) error { return nil }
	w.settle()
	w.claim("b")
	w.resumed()
	w.vanish()
	r := w.reconciler()
	r.Client = interceptor.NewClient(w.api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key types.NamespacedName, o client.Object, opts ...client.GetOption) error {
			if ck, ok := o.(*v1alpha1.Checkpoint); ok {
				old.DeepCopyInto(ck)
				return nil
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
	_, err = r.Reconcile(t.Context(), request())
	require.NoError(t, err)
	require.Len(t, w.created, 1)
}
