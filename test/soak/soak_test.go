package soak

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/runtime/runtimetest"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// lengthVariable is how long all tests together go on (tests is how many), seedVariable the one seed that is tried.
	lengthVariable = "LIFEBOAT_SOAK"
	tests          = 2
	// within bounds every wait for something that has to come.
	within = 3 * time.Minute
	tick   = 5 * time.Millisecond
	// perSeed is how many times a workload of one seed is restored before another one begins.
	perSeed = 25
	// wrapper is where runtimetest puts it.
	wrapper = "/opt/lifeboat/bin/lifeboat-runtime"
)

// soak runs histories of one seed each until the time is up.
func soak(t *testing.T, short time.Duration, history func(t *testing.T, h *history)) {
	if !runtimetest.Inside(t) {
		return
	}
	length := short
	if text := os.Getenv(lengthVariable); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		require.NoError(t, err)
		length /= tests
	}
	until := time.Now().Add(length)
	first, only := uint64(time.Now().UnixNano()), false
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		first, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		only = true
	}
	for seed := first; seed == first || !only && time.Now().Before(until); seed++ {
		passed := t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) {
			h := newHistory(t, seed, until)
			history(t, h)
			h.tell(t)
		})
		if !passed {
			t.Fatalf("run this seed again alone: %s=%d", seedVariable, seed)
		}
	}
}

// history is one workload through all its pods.
type history struct {
	*machine
	rng   *rand.Rand
	until time.Time
	pod   *pod
	agent *life
	asks  uint64
	// what was done
	restores, final, safety, stays, kills int
	pages                                 uint64
}

func newHistory(t *testing.T, seed uint64, until time.Time) *history {
	t.Helper()
	require.NoError(t, os.RemoveAll(base))
	h := &history{machine: newMachine(t, seed), rng: rand.New(rand.NewPCG(seed, 99)), until: until}
	h.pod = h.start(t)
	return h
}

func (h *history) over() bool { return time.Now().After(h.until) || h.restores >= perSeed }

func (h *history) tell(t *testing.T) {
	t.Helper()
	t.Logf("%d restores, %d of final dumps, %d of safety dumps; %d rounds, %d safety dumps, %d evacuations, %d of them failed; "+
		"%d kills of the agent, after which it ran on %d times; %d pages and blocks proved", h.restores, h.final, h.safety, logged("round"),
		logged("safety dump"), logged("evacuated"), logged("evacuation failed, target thawed"), h.kills, h.stays, h.pages)
}

func (h *history) record(t *testing.T) record {
	t.Helper()
	r, err := h.journal.update(nil)
	require.NoError(t, err)
	require.Empty(t, r.Broken)
	return r
}

// await waits until what becomes true, and holds meanwhile that the workload has nothing to complain of.
func (h *history) await(t *testing.T, what string, becomes func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !becomes(); {
		text, err := os.ReadFile(base + "/out/bad")
		require.ErrorIs(t, err, os.ErrNotExist, "the workload says: %s", text)
		require.True(t, time.Now().Before(end), "%s: not within %s", what, within)
		pass(tick)
	}
}

// pass lets time pass.
func pass(d time.Duration) { <-time.After(d) }

func (h *history) wires(t *testing.T, do func(w *wire)) {
	t.Helper()
	for _, name := range workers {
		w, err := openWire(wirePath, name)
		require.NoError(t, err)
		do(w)
		require.NoError(t, w.file.Close())
	}
}

func (h *history) steps(t *testing.T) (steps []uint64) {
	t.Helper()
	h.wires(t, func(w *wire) { steps = append(steps, w.get(wireStep)) })
	return steps
}

// proof has all workers prove all they have, and go on.
func (h *history) proof(t *testing.T) {
	t.Helper()
	h.asks++
	h.wires(t, func(w *wire) { w.put(wireAsk, h.asks) })
	h.wires(t, func(w *wire) {
		h.await(t, "proof", func() bool { return w.get(wireProved) == h.asks })
		h.pages += w.get(wirePages)
		at := w.get(wireStep)
		h.await(t, "the next step", func() bool { return w.get(wireStep) != at })
	})
}

// moved ends the frozen source, as its kubelet would, and has the next pod go on, without a step lost or done twice.
func (h *history) moved(t *testing.T) {
	t.Helper()
	g := *h.record(t).Final
	require.Equal(t, snapshot.StatusPaused, h.status(t, h.pod), "a final source")
	before := h.steps(t)
	h.agent.hears(noNotice)
	leave := func() {
		_, err := h.journal.update(func(r *record) { r.Leaving = true })
		require.NoError(t, err)
	}
	if h.rng.IntN(2) == 0 { // the agent is to do it, if it is the one that took the final dump
		leave()
		for end := time.Now().Add(time.Second); h.status(t, h.pod) != snapshot.StatusStopped && time.Now().Before(end); {
			pass(tick)
		}
	}
	_ = exec.Command(wrapper, "--root", h.runc.Root, "kill", h.pod.id, "KILL").Run()
	leave()
	h.kill(t, h.pod)
	h.await(t, "no hold and no dump is left", func() bool { return len(filesLeft()) == 0 })
	require.Equal(t, before, h.steps(t), "the source ran on")
	h.agent.stop(t)
	var meta store.Meta
	h.pod, meta = h.restore(t)
	require.True(t, meta.Final)
	require.Equal(t, g.Number, meta.Number)
	h.restores++
	h.final++
	h.proof(t)
}

// wound ends agent and pod, as with a node that goes without a notice, and has the next pod go on from the safety dump.
func (h *history) wound(t *testing.T) {
	t.Helper()
	h.await(t, "a safety dump", func() bool { return len(h.record(t).Safety) > 0 })
	pass(h.moment(1500))
	h.agent.kill(t, 0)
	h.kill(t, h.pod)
	for _, name := range filesLeft() { // they went with the node
		require.NoError(t, os.RemoveAll(name))
	}
	before := h.steps(t)
	h.wires(t, func(w *wire) { w.put(wireStep, woundBack); w.put(wireResumed, 0) })
	var meta store.Meta
	h.pod, meta = h.restore(t)
	require.False(t, meta.Final)
	h.restores++
	h.safety++
	h.proof(t)
	n := 0
	h.wires(t, func(w *wire) {
		// 0 where it was frozen after it had looked, and before it wrote its step.
		require.LessOrEqual(t, w.get(wireResumed), before[n], "it is ahead of what was done")
		n++
	})
}

// moment is a random one, within so many milliseconds.
func (h *history) moment(most int) time.Duration {
	return time.Duration(h.rng.IntN(most*1000)) * time.Microsecond
}

var noNotice time.Time

// Pre-dumps, safety dumps, final dumps and restores, again and again: nothing differs, nothing is lost, nothing done twice.
func TestRounds(t *testing.T) {
	soak(t, 12*time.Second, func(t *testing.T, h *history) {
		for first := true; first || !h.over(); first = false { // once, however long the start took
			h.agent = startAgent(t)
			h.agent.hears(noNotice)
			if h.rng.IntN(4) == 0 {
				h.wound(t)
				continue
			}
			pass(h.moment(2500))
			if h.rng.IntN(2) == 0 {
				h.proof(t)
			}
			h.agent.hears(time.Now().Add(time.Hour))
			h.await(t, "final generation", func() bool { return h.record(t).Final != nil })
			h.moved(t)
		}
		require.Positive(t, h.restores)
		h.requireReaped(t)
	})
}

// The agent is killed at random moments of rounds, safety dumps and evacuations: nobody is left frozen, dead, or runs twice.
func TestKilledAgents(t *testing.T) {
	soak(t, 12*time.Second, func(t *testing.T, h *history) {
		for !h.over() {
			h.agent = startAgent(t)
			notice := noNotice
			h.agent.hears(notice)
			for range 1 + h.rng.IntN(4) {
				switch h.rng.IntN(4) {
				case 0:
					notice = noNotice
				case 1, 2:
					notice = time.Now().Add(time.Hour)
				case 3:
					notice = time.Now().Add(h.moment(4000))
				}
				h.agent.hears(notice)
				pass(h.moment(1500))
				h.agent.kill(t, h.moment(50))
				h.kills++
				h.agent = startAgent(t)
				h.agent.hears(notice)
			}
			h.settled(t, notice)
		}
		h.requireReaped(t)
	})
}

// settled waits until it is decided what becomes of the pod, and holds that it goes on: here, or elsewhere.
func (h *history) settled(t *testing.T, notice time.Time) {
	t.Helper()
	h.await(t, "a decision", func() bool {
		r := h.record(t)
		if r.Final != nil {
			return true
		}
		failed := r.Failed != "" && r.Deadline.Equal(notice) // and not the one before
		return (notice.IsZero() || failed) && len(filesLeft()) == 0 && h.status(t, h.pod) == snapshot.StatusRunning
	})
	if h.record(t).Final != nil {
		h.moved(t)
		return
	}
	h.agent.hears(noNotice)
	h.proof(t)
	h.requireClean(t)
	h.stays++
}
