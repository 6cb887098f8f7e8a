package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// cluster is a host's API where pods are given up with their node.
type cluster struct {
	*host
	// superseded are the targets of such pods, away those whose pods are gone from the API. Under mu.
	superseded, away map[string]bool
}

func (c *cluster) Targets(ctx context.Context) ([]Target, error) {
	all, err := c.host.Targets(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range all {
		all[i].Superseded = c.superseded[podOf(all[i])]
	}
	return slices.DeleteFunc(all, func(t Target) bool { return c.away[podOf(t)] }), err
}

func (c *cluster) Superseded(_ context.Context, t Target) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.superseded[podOf(t)], nil
}

func (c *cluster) refuse(t Target) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.superseded[podOf(t)] {
		return fmt.Errorf("%w: %s", ErrSuperseded, t.Pod)
	}
	return nil
}

func (c *cluster) Final(ctx context.Context, t Target, g Committed, m Moments) error {
	if err := c.refuse(t); err != nil {
		return err
	}
	return c.host.Final(ctx, t, g, m)
}

func (c *cluster) Failed(ctx context.Context, t Target, reason, message string) error {
	if err := c.refuse(t); err != nil {
		return err
	}
	return c.host.Failed(ctx, t, reason, message)
}

// Leaving: who is superseded is being removed.
func (c *cluster) Leaving(_ context.Context, t Target) (bool, error) {
	return c.refuse(t) != nil, nil
}

// giveUp is the controller's write.
func (c *cluster) giveUp(id string, away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.superseded[id], c.away[id] = true, away
}

// remove takes the pod from the API: nobody has judged yet how it went.
func (c *cluster) remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away[id] = true
}

func newClusterScene(t *testing.T, ids ...string) (*boxScene, *cluster) {
	s := newBoxScene(t, ids...)
	c := &cluster{host: s.host, superseded: map[string]bool{}, away: map[string]bool{}}
	s.evacuator.options.Journal, s.evacuator.options.Succession = c, c
	status := filepath.Join(s.dir, "proc", "0", "status") // of a process that has got no signal
	require.NoError(t, os.MkdirAll(filepath.Dir(status), 0o700))
	require.NoError(t, os.WriteFile(status, []byte("SigPnd:\t0000\nShdPnd:\t0000\n"), 0o600))
	return s, c
}

func (s *boxScene) status(id string) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boxes[id].status
}

// stopSignal is the kubelet's, which the wrapper holds back.
func (s *boxScene) stopSignal(id string) {
	require.NoError(s.t, os.WriteFile(s.evacuator.options.Holds.path(id), []byte("15\n"), 0o600))
}

// What was given up with its node never runs on here once the agent hears of it, and what it stores then is nobody's.
func TestASupersededTargetIsFrozenForGood(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*boxScene, *cluster)
		// within is how long it may take.
		within time.Duration
	}{
		{"its pod is still there", func(_ *boxScene, c *cluster) { c.giveUp("c1", false) }, listEvery},
		{"its pod is gone from the API", func(_ *boxScene, c *cluster) { c.giveUp("c1", true) }, listEvery},
		{"the node is in doubt", func(s *boxScene, c *cluster) {
			s.evacuator.Doubt(true)
			synctest.Wait()
			require.Equal(s.t, StatusRunning, s.status("c1"), "a doubt is none of its own")
			c.giveUp("c1", true)
		}, lookAgain},
		{"it is given up some time after its pod was removed", func(s *boxScene, c *cluster) {
			s.evacuator.Doubt(true)
			c.remove("c1")
			pass(3 * listEvery)
			require.Equal(s.t, StatusRunning, s.status("c1"))
			c.giveUp("c1", true)
		}, lookAgain},
		{"in the midst of a safety dump", func(s *boxScene, c *cluster) {
			s.onDump = func(ctx context.Context, _ string) error {
				c.giveUp("c1", true)
				<-ctx.Done()
				return context.Cause(ctx)
			}
			for !c.superseded["c1"] {
				pass(time.Second)
			}
		}, listEvery},
		{"its evacuation ends too late", func(s *boxScene, c *cluster) {
			s.onDump = func(context.Context, string) error { c.giveUp("c1", false); return nil }
			s.evacuator.Heard(notice(window))
			pass(time.Second)
		}, listEvery},
		{"its evacuation fails", func(s *boxScene, c *cluster) {
			s.onDump = func(context.Context, string) error { c.giveUp("c1", false); return errCRIU }
			s.evacuator.Heard(notice(window))
			pass(time.Second)
		}, listEvery},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, api := newClusterScene(t, "c1", "c2")
				s.run(t, func() {
					pass(time.Minute)
					c.set(s, api)
					pass(c.within + time.Second)
					require.Equal(t, StatusPaused, s.status("c1"))
					require.Empty(t, s.final["c1"])
					held, err := s.evacuator.options.Holds.Held("c1")
					require.NoError(t, err)
					require.True(t, held, "nothing of its code runs when it is stopped")
					s.evacuator.Quiet()
					pass(5 * time.Minute)
					require.Equal(t, StatusPaused, s.status("c1"), "nothing thaws it")
				})
			})
		})
	}
}

// stuck is a runtime that refuses to freeze for a while.
type stuck struct {
	Runtime
	until time.Time
}

func (s stuck) Pause(ctx context.Context, id string) error {
	if time.Now().Before(s.until) {
		return errCRIU
	}
	return s.Runtime.Pause(ctx, id)
}

// The pod is gone from the API, and its session is closed: nobody would come back to it.
func TestASupersededTargetIsFrozenInTheEnd(t *testing.T) {
	for name, set := range map[string]func(t *testing.T, s *boxScene){
		"the runtime refuses for a while": func(_ *testing.T, s *boxScene) {
			s.evacuator.options.Runtime = stuck{s.host, time.Now().Add(5 * time.Minute)}
		},
		"no stamp can be written": func(t *testing.T, s *boxScene) {
			require.NoError(t, os.MkdirAll(s.evacuator.stamps().path("pod-c1"), 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, api := newClusterScene(t, "c1")
				set(t, s)
				s.run(t, func() {
					pass(time.Second)
					api.giveUp("c1", true)
					s.evacuator.Doubt(true)
					pass(listEvery + 5*time.Minute)
					require.Equal(t, StatusPaused, s.status("c1"))
					held, err := s.evacuator.options.Holds.Held("c1")
					require.NoError(t, err)
					require.True(t, held)
				})
			})
		})
	}
}

// Somebody thaws at the same moment, who had looked before.
func TestARetiredTargetIsNotThawed(t *testing.T) {
	s, _ := newClusterScene(t, "c1")
	target := hostTarget("c1")
	require.True(t, s.evacuator.beginToRetire(keyOf(target)))
	require.NoError(t, s.evacuator.freezeForGood(t.Context(), target))
	require.NoError(t, s.evacuator.endSafety(t.Context(), target))
	require.Equal(t, StatusPaused, s.status("c1"))
	held, err := s.evacuator.options.Holds.Held("c1")
	require.NoError(t, err)
	require.True(t, held)
}

func TestAFreezeThatFailsDoesNotHoldUpTheEndOfTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, api := newClusterScene(t, "c1")
		s.evacuator.options.Runtime = stuck{s.host, time.Now().Add(24 * time.Hour)}
		var asked time.Time
		s.run(t, func() {
			pass(time.Minute)
			api.giveUp("c1", true)
			pass(listEvery + time.Second)
			asked = time.Now()
		})
		require.Less(t, time.Since(asked), time.Minute)
	})
}

// A pod that is gone from the API is no target; where nobody doubts the node, it has ended in good order.
func TestARemovedPodIsForgottenOnceTheNodeIsHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, api := newClusterScene(t, "c1")
		s.run(t, func() {
			pass(time.Minute)
			s.evacuator.Doubt(true)
			api.remove("c1")
			s.evacuator.Heard(notice(window))
			pass(listEvery)
			require.Len(t, s.evacuator.missing(nil), 1)
			require.Empty(t, s.final, "its user may have removed it")
			s.evacuator.Quiet()
			s.evacuator.Doubt(false)
			pass(2 * listEvery)
			require.Empty(t, s.evacuator.missing(nil))
			require.Equal(t, StatusRunning, s.status("c1"))
		})
	})
}

// The next life of the agent finds it on hold: it neither asks the bucket nor thaws.
func TestASupersededTargetStaysFrozenAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, api := newClusterScene(t, "c1", "c2")
		api.giveUp("c1", false)
		s.run(t, func() { pass(listEvery + time.Second) })
		require.Equal(t, StatusPaused, s.status("c1"))
		s.restart()
		s.evacuator.options.Journal, s.evacuator.options.Succession = api, api
		s.run(t, func() {
			pass(10 * time.Minute)
			require.Equal(t, StatusPaused, s.status("c1"))
			require.Equal(t, StatusRunning, s.status("c2"))
			require.Empty(t, s.boxes["c1"].signals, "the kubelet would start it again in the old pod")
		})
	})
}

// It is killed as soon as its kubelet stops it.
func TestASupersededTargetIsKilledWhenItsPodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, api := newClusterScene(t, "c1")
		s.run(t, func() {
			pass(time.Minute)
			api.giveUp("c1", true)
			pass(listEvery + time.Second)
			require.Empty(t, s.boxes["c1"].signals)
			s.stopSignal("c1")
			pass(time.Second)
			require.Equal(t, []syscall.Signal{syscall.SIGKILL}, s.boxes["c1"].signals)
		})
	})
}
