package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseName names the leader's Lease.
const leaseName = "lifeboat-controller"

// patience is how long a lease must lie unwritten before a replica on a leaving node campaigns for it. Others look
// every second (retryPeriod, with jitter), so a free lease that lies for that long has no other candidate.
const patience = 3 * time.Second

// patientLock is the lease as a replica on a leaving node sees it: not at all, while anybody else writes it. Get blocks
// until nobody has for the time of patience. Then the replica campaigns by the common rules: a free lease is taken, one
// that is held when its duration is over. So others go first, and a replica that is the only one still leads.
//
// Once the lease is its own it is an ordinary lock. One goroutine at a time may use it, as a LeaderElector does.
type patientLock struct {
	resourcelock.Interface
	seen  []byte
	since time.Time
}

// Get returns the lease when it may be campaigned for, or an error when ctx ends first.
func (l *patientLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	for {
		record, raw, err := l.Interface.Get(ctx)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, nil, err
		}
		own := record != nil && record.HolderIdentity == l.Identity()
		if own || l.unwritten(raw) >= patience {
			return record, raw, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for others to campaign: %w", ctx.Err())
		case <-time.After(retryPeriod):
		}
	}
}

// unwritten tells how long the lease has been seen as it is; raw is nil where it does not exist.
func (l *patientLock) unwritten(raw []byte) time.Duration {
	if l.since.IsZero() || !bytes.Equal(raw, l.seen) {
		l.seen, l.since = raw, time.Now()
	}
	return time.Since(l.since)
}

// newLock returns the leader's lease under a name of its own for each term.
func newLock(config *rest.Config, namespace string, leaving bool) (resourcelock.Interface, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name: %w", err)
	}
	identity := resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())}
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, namespace, leaseName, identity, config, renewDeadline)
	if err != nil {
		return nil, fmt.Errorf("make lease %s/%s: %w", namespace, leaseName, err)
	}
	if leaving {
		return &patientLock{Interface: lock}, nil
	}
	return lock, nil
}
