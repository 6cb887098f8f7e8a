package snapshot

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// stalled is a cluster whose API server takes no final generation of the first so many pods for a while.
type stalled struct {
	*cluster
	first int
	until time.Time
	mu    sync.Mutex
	pods  []string
}

func (s *stalled) Final(ctx context.Context, t Target, g Committed, m Moments) error {
	if s.stalls(podOf(t)) {
		return errDown
	}
	return s.cluster.Final(ctx, t, g, m)
}

func (s *stalled) stalls(pod string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.pods, pod) && len(s.pods) < s.first {
		s.pods = append(s.pods, pod)
	}
	return slices.Contains(s.pods, pod) && time.Now().Before(s.until)
}

// As many as have slots are durable, and wait for the API server: the others do not wait for them.
func TestWhoWaitsForTheRecordHoldsNobodyUp(t *testing.T) {
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprint("alone ", alone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, api := newClusterScene(t, "c1", "c2", "c3", "c4", "c5", "c6")
				s.evacuator.options.Journal = &stalled{cluster: api, first: atOnce, until: time.Now().Add(5 * time.Minute)}
				if alone {
					s.obstacles = map[string][]obstacle.Obstacle{"c6": {{Reason: v1alpha1.ReasonIOUring, Message: "io_uring"}}}
				}
				s.run(t, func() {
					pass(time.Minute)
					s.evacuator.Heard(notice(window))
					pass(20 * time.Second)
					s.lock(func() { require.Len(t, s.final, 2) })
					if alone {
						s.requireFinal(t, "c6")
					}
					pass(5 * time.Minute)
					s.lock(func() { require.Len(t, s.final, 6) })
				})
			})
		})
	}
}

// The round under way waits for the record of one target, while another one is given up with the node.
func TestASupersededTargetIsLookedForWhileAnotherIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, api := newClusterScene(t, "c1", "c2")
		s.evacuator.options.Journal = &stalled{cluster: api, first: 1, until: time.Now().Add(time.Hour), pods: []string{"c1"}}
		s.onDump = func(_ context.Context, id string) error {
			if id == "c2" {
				return errCRIU
			}
			return nil
		}
		s.run(t, func() {
			pass(6*listEvery + 500*time.Millisecond)
			s.evacuator.Heard(notice(window))
			s.evacuator.Doubt(true)
			pass(listEvery + time.Second)
			require.Equal(t, StatusRunning, s.status("c2"))
			api.giveUp("c2", true)
			pass(lookAgain)
			require.Equal(t, StatusPaused, s.status("c2"))
			api.giveUp("c1", false)
		})
	})
}

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := make(slots, 2)
		first, second := busy.take(), busy.take()
		var took, idle atomic.Bool
		go func() { defer busy.take()(); took.Store(true) }()
		synctest.Wait()
		require.False(t, took.Load())
		first()
		first() // is no second one
		synctest.Wait()
		require.True(t, took.Load())
		go func() { busy.idle(); idle.Store(true) }()
		synctest.Wait()
		require.False(t, idle.Load())
		second()
		synctest.Wait()
		require.True(t, idle.Load())
		busy.take()()
		busy.take()()
	})
}
