package node

import (
	"context"
	"fmt"
	"sync"
)

// turns let one at a time act on the restoration of a pod, by what is on disk once it is its turn: a create, a result and Sweep
// come together, and what one has read before its turn may be of a restore that is over.
type turns struct {
	mu   sync.Mutex
	pods map[string]*turn
}

type turn struct {
	// place is full while somebody acts; users are those that act or wait.
	place chan struct{}
	users int
}

// enter waits until nobody else acts on the restoration of the pod. leave is to be called when the turn is over.
func (t *turns) enter(ctx context.Context, podUID string) (leave func(), err error) {
	t.mu.Lock()
	if t.pods == nil {
		t.pods = map[string]*turn{}
	}
	its := t.pods[podUID]
	if its == nil {
		its = &turn{place: make(chan struct{}, 1)}
		t.pods[podUID] = its
	}
	its.users++
	t.mu.Unlock()
	select {
	case its.place <- struct{}{}:
		return func() {
			<-its.place
			t.left(podUID, its)
		}, nil
	case <-ctx.Done():
		t.left(podUID, its)
		return nil, fmt.Errorf("wait for what else is done about the restore of pod UID %s: %w", podUID, ctx.Err())
	}
}

func (t *turns) left(podUID string, its *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if its.users--; its.users == 0 {
		delete(t.pods, podUID)
	}
}

// settleNow settles the restoration that the pod has by now and returns what is left of it; nil for none.
func (p *Preparer) settleNow(ctx context.Context, podUID string) (*restoration, error) {
	r, err := p.load(podUID)
	if err != nil || r == nil {
		return nil, err
	}
	if err := p.settle(ctx, r); err != nil {
		return nil, err
	}
	return p.load(podUID)
}

// abandon is beginAnew in the pod's turn.
func (p *Preparer) abandon(ctx context.Context, podUID string, stay bool) error {
	leave, err := p.turns.enter(ctx, podUID)
	if err != nil {
		return err
	}
	defer leave()
	return p.beginAnew(ctx, podUID, stay)
}
