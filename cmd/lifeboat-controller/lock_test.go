package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lease is the API server's Lease object; lock is it as one candidate sees it.
type lease struct {
	mu      sync.Mutex
	record  *resourcelock.LeaderElectionRecord
	version byte
	broken  error
}

type lock struct {
	*lease
	identity string
}

func (l *lock) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, nil, l.broken
	}
	if l.record == nil {
		return nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, leaseName)
	}
	record := *l.record
	return &record, []byte{l.version}, nil
}

func (l *lock) write(r resourcelock.LeaderElectionRecord) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record = &r
	l.version++
	return nil
}

func (l *lock) Create(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(r)
}
func (l *lock) Update(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(r)
}
func (l *lock) RecordEvent(string) {}
func (l *lock) Identity() string   { return l.identity }
func (l *lock) Describe() string   { return "test" }

func (l *lease) holder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.record == nil {
		return ""
	}
	return l.record.HolderIdentity
}

// campaign runs a candidate with the real elector until the function that it returns is called, which waits for the
// release.
func (l *lease) campaign(t *testing.T, identity string, leaving bool) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	own := resourcelock.Interface(&lock{l, identity})
	if leaving {
		own = &patientLock{Interface: own}
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: own, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
	})
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() { defer close(ended); elector.Run(ctx) }()
	return func() { cancel(); <-ended }
}

// heldAfter returns how long it took until identity held the lease.
func (l *lease) heldAfter(t *testing.T, identity string) time.Duration {
	start := time.Now()
	for l.holder() != identity {
		require.Less(t, time.Since(start), time.Minute, "%s never leads", identity)
		<-time.After(10 * time.Millisecond)
	}
	return time.Since(start)
}

// The leader's node leaves: its term ends and the next one campaigns patiently.
func TestTheLeaseGoesToTheReplicaThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		stopA := l.campaign(t, "a", false)
		l.heldAfter(t, "a")
		stopB := l.campaign(t, "b", false)
		<-time.After(10 * time.Second)
		require.Equal(t, "a", l.holder())
		stopA()
		stopA = l.campaign(t, "a2", true)
		require.Less(t, l.heldAfter(t, "b"), 1200*time.Millisecond)
		<-time.After(2 * time.Minute)
		require.Equal(t, "b", l.holder(), "the leaving replica left it alone")

		stopB() // it leaves as well, and nobody else is there
		require.Equal(t, "", l.holder())
		require.InDelta(t, patience.Seconds(), l.heldAfter(t, "a2").Seconds(), 1)
		<-time.After(time.Minute)
		require.Equal(t, "a2", l.holder(), "it keeps what it has taken")
		stopA()
		require.Equal(t, "", l.holder(), "it releases what it has taken")
	})
}

func TestTheOnlyReplicaLeadsOnALeavingNode(t *testing.T) {
	for name, tc := range map[string]struct {
		before *resourcelock.LeaderElectionRecord
		after  time.Duration
	}{
		"no lease was ever made": {nil, patience},
		"the lease is free":      {&resourcelock.LeaderElectionRecord{LeaseDurationSeconds: 1}, patience},
		"its holder has died":    {&resourcelock.LeaderElectionRecord{HolderIdentity: "dead", LeaseDurationSeconds: 8}, patience + leaseDuration},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lease{record: tc.before}
				stop := l.campaign(t, "only", true)
				require.InDelta(t, tc.after.Seconds(), l.heldAfter(t, "only").Seconds(), 1.5)
				stop()
			})
		})
	}
}

func TestAPatientLockGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := (&patientLock{Interface: &lock{&lease{}, "a"}}).Get(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestAPatientLockReturnsTheAPIServersFault(t *testing.T) {
	broken := errors.New("connection refused")
	_, _, err := (&patientLock{Interface: &lock{&lease{broken: broken}, "a"}}).Get(t.Context())
	require.ErrorIs(t, err, broken)
}
