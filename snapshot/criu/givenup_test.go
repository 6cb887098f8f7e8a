package criu

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// givenUpVariable is how many dumps TestGivenUpForReal gives up, 12 where it is not set.
const givenUpVariable = "LIFEBOAT_TEST_GIVEN_UP"

// refusedForNow is why CRIU may refuse a program that does something at that very moment.
var refusedForNow = regexp.MustCompile("Zombies with threads are not supported|in-flight socket")

// A dump that is given up at any moment, or not, changes nothing for a program that notices everything.
func TestGivenUpForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	n := newNode(t)
	_, root := n.waryContainer(t, "job")
	times, err := strconv.Atoi(os.Getenv(givenUpVariable))
	if err != nil {
		times = 12
	}
	n.requireTurns(t, root)
	longest := n.longestDump(t)
	n.requireTurns(t, root)
	outcomes := map[string]int{}
	for i := range times {
		outcome := n.giveUp(t, i, longest)
		outcomes[outcome]++
		require.Empty(t, tracedIn(t, n), "%d: %s", i, outcome)
		require.NoError(t, n.runc.Resume(t.Context(), "job"))
		n.requireTurns(t, root)
	}
	t.Logf("a dump takes %s; %v", longest, outcomes)
}

// waryContainer runs the wary workload, whose Go runtime sends no signals of its own.
func (n *node) waryContainer(t testing.TB, id string) (bundle, root string) {
	t.Helper()
	bundle, root = n.container(t, id, "wary", n.network)
	file := filepath.Join(bundle, "config.json")
	config, err := os.ReadFile(file)
	require.NoError(t, err)
	config = []byte(strings.Replace(string(config), `"env":[`, `"env":["GODEBUG=asyncpreemptoff=1,multipathtcp=0",`, 1))
	require.NoError(t, os.WriteFile(file, config, 0o600))
	n.runOCI(t, "run", "--detach", "--bundle", bundle, id)
	return bundle, root
}

// longestDump is how long a dump takes that is not given up.
func (n *node) longestDump(t testing.TB) time.Duration {
	t.Helper()
	require.NoError(t, n.runc.Pause(t.Context(), "job"))
	began := time.Now()
	_, err := n.runc.DumpInto(t.Context(), "job", "/run/dump", func(context.Context, string, uint64, []byte) error { return nil })
	if err != nil {
		require.Regexp(t, refusedForNow, err.Error())
	}
	took := time.Since(began)
	require.NoError(t, n.runc.Resume(t.Context(), "job"))
	return took
}

// giveUp begins a dump that ends by itself, by ctx or by its sink at some moment, and says how it ended. The container is frozen.
func (n *node) giveUp(t testing.TB, i int, longest time.Duration) string {
	t.Helper()
	enough := errors.New("enough")
	require.NoError(t, n.runc.Pause(t.Context(), "job"))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	moment := rand.N(longest * 6 / 5)
	defer time.AfterFunc(moment, func() { cancel(enough) }).Stop()
	var err error
	way := []string{"lazy", "full", "sink"}[i%3]
	switch way {
	case "lazy":
		_, err = n.runc.DumpInto(ctx, "job", "/run/dump", func(context.Context, string, uint64, []byte) error { return nil })
	case "full":
		_, err = n.runc.Dump(ctx, "job", "/run/dump")
	case "sink":
		var calls atomic.Int64
		after := rand.Int64N(200)
		_, err = n.runc.DumpInto(t.Context(), "job", "/run/dump", func(context.Context, string, uint64, []byte) error {
			if calls.Add(1) > after {
				return enough
			}
			return nil
		})
	}
	require.NoError(t, n.runc.stillFrozen(t.Context(), "job"))
	if err == nil {
		return way + " done"
	}
	if refusedForNow.MatchString(err.Error()) {
		return way + " refused"
	}
	require.ErrorIs(t, err, enough)
	return way + " given up"
}

// tracedIn are the processes of the container that somebody traces.
func tracedIn(t testing.TB, n *node) (traced []int) {
	t.Helper()
	state, err := n.runc.state(t.Context(), "job")
	require.NoError(t, err)
	pids, err := memory.Processes(proc, state.PID)
	require.NoError(t, err)
	for _, pid := range pids {
		if tracerOf(pid) > 0 {
			traced = append(traced, pid)
		}
	}
	return traced
}

// requireTurns waits until each part of the wary workload has gone on, and holds that none has seen anything odd.
func (n *node) requireTurns(t testing.TB, root string) {
	t.Helper()
	read := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(root, name))
		return string(text)
	}
	before := strings.Fields(read("turns"))
	goesOn := func() bool {
		now := strings.Fields(read("turns"))
		for i := range before {
			if i < len(now) && before[i] == now[i] {
				return false
			}
		}
		return len(now) == len(wariness)
	}
	assert.Eventually(t, func() bool { return read("bad") != "" || goesOn() }, time.Minute, 10*time.Millisecond, "turns were %q", before)
	require.Empty(t, read("bad"), "turns are %q", read("turns"))
	require.False(t, t.Failed())
}
