package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store/cache"
)

const (
	// sandboxWait is how long one create of a sandbox is held up, sandboxWaitAtMost how long all of a pod's together.
	sandboxWait, sandboxWaitAtMost = 40 * time.Second, 15 * time.Minute
	// strangerWait is how long a pod is waited for that the watch has not shown yet.
	strangerWait = 2 * time.Second
	awaitEvery   = 100 * time.Millisecond
	// nearBytes, or what comes in nearTime, the create of a container fetches itself, well within its time.
	nearBytes, nearTime = 256 << 20, 30 * time.Second
)

// Await returns when it is time for the sandbox of a pod: what the pod may go on from is near, or will not come nearer.
// An error says how far it is; the kubelet then tries again, which it does not for the container of a pod that must not
// restart. So a large state, a slow bucket or many pods at once cost time, and nobody his job.
func (p *Preparer) Await(ctx context.Context, req handover.AwaitRequest) error {
	if p.arrivals == nil {
		return nil
	}
	pod, err := p.live(ctx, handover.PrepareRequest{Namespace: req.Namespace, Pod: req.Pod, PodUID: req.PodUID})
	if err != nil || !p.arrivals.concerns(pod) {
		return nil // its containers, if there will be any, are told what is wrong
	}
	begin := time.Now()
	for {
		far := p.arrivals.far(types.UID(req.PodUID), time.Now())
		waited := time.Since(begin)
		if far == "" || far == unseen && waited > strangerWait {
			return nil
		}
		if waited > sandboxWait {
			return fmt.Errorf("pod %s/%s goes on from a generation that is still on its way: %s", req.Namespace, req.Pod, far)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(awaitEvery):
		}
	}
}

// unseen says that nobody has looked yet what a pod may go on from.
const unseen = "not looked for yet"

// progress is how far the packs of an arrival have come.
type progress struct {
	// looked: it is known whether there is anything to bring.
	looked bool
	// want is what is to be brought, have what is here, in bytes; since is when it began, zero while it has no turn.
	want, have int64
	since      time.Time
	// fault is why no more comes at the moment.
	fault error
}

// far says how far away is what a pod may go on from; empty where it is near, or waiting brings it no nearer.
func (a *arrivals) far(uid types.UID, now time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.pods[uid]
	if one == nil || !one.looked && one.fault == nil {
		return unseen
	}
	left := one.want - one.have
	switch {
	case one.want == 0, left <= nearBytes, now.Sub(one.seen) > sandboxWaitAtMost:
		return ""
	case errors.Is(one.fault, cache.ErrNoRoom):
		// There will be room when those before it have been restored. The first of all need not wait for that.
		if !a.anyBefore(one) {
			return ""
		}
		return fmt.Sprintf("%d of %d bytes are on this node, and the rest has room when other pods have been restored", one.have, one.want)
	case one.fault != nil:
		return ""
	case one.since.IsZero():
		return fmt.Sprintf("%d bytes, after those of other pods", one.want)
	}
	took := max(now.Sub(one.since), time.Millisecond)
	if float64(left) <= float64(one.have)/took.Seconds()*nearTime.Seconds() {
		return ""
	}
	return fmt.Sprintf("%d of %d bytes are on this node", one.have, one.want)
}

// anyBefore says whether a pod that was seen earlier has packs here.
func (a *arrivals) anyBefore(one *arrival) bool {
	for _, other := range a.pods {
		if other != one && other.have > 0 && other.seen.Before(one.seen) {
			return true
		}
	}
	return false
}

// note changes what is known of the progress.
func (a *arrivals) note(one *arrival, change func(*progress)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&one.progress)
}
