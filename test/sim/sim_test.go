package sim

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Variables of `make sim`: how many seeds are played, and the one that is played alone, with what its processes log.
const (
	seedsVariable, seedVariable = "LIFEBOAT_SIM_SEEDS", "LIFEBOAT_SIM_SEED"
	usualSeeds                  = 5000
)

func number(t *testing.T, variable string, usual uint64) (n uint64, given bool) {
	text := os.Getenv(variable)
	if text == "" {
		return usual, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, variable)
	return n, true
}

// scratch is a folder in memory, where there is one.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "lifeboat-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func TestHandOver(t *testing.T) {
	log.SetLogger(logr.Discard())
	root := scratch(t)
	if seed, given := number(t, seedVariable, 0); given {
		w := played(t, seed, root, true)
		t.Logf("seed %d: %s\n%s", seed, w.plan, strings.Join(w.history, "\n"))
		return
	}
	// What a history leaves is garbage at once, and there is little else.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	seeds, _ := number(t, seedsVariable, usualSeeds)
	var next sync.Mutex
	at := uint64(0)
	take := func() (uint64, bool) {
		next.Lock()
		defer next.Unlock()
		at++
		return at, at <= seeds
	}
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				for seed, more := take(); more; seed, more = take() {
					played(t, seed, root, false)
				}
			})
		}
	})
}

// played plays one seed, and fails the test with its history where a rule was broken.
func played(t *testing.T, seed uint64, root string, verbose bool) *world {
	var w *world
	synctest.Test(t, func(t *testing.T) {
		var err error
		w, err = runSeed(t.Context(), seed, root, verbose)
		require.NoError(t, err)
	})
	if w.fault != "" {
		history := ""
		if !verbose {
			history = "\n" + strings.Join(w.history, "\n")
		}
		t.Errorf("seed %d: %s\nplayed again by: make sim SEED=%d\n%s%s", seed, w.fault, seed, w.plan, history)
	}
	return w
}
