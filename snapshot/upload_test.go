package snapshot

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/dir"
)

// pages returns that many pages which do not compress.
func pages(n int) []byte {
	content := make([]byte, n*store.BlockSize)
	rand.NewChaCha8([32]byte{byte(n)}).Read(content)
	return content
}

// again evacuates the pod that came after the one before, and returns how many blocks were new to the bucket.
func (s *scene) again(t *testing.T, pod string) int64 {
	t.Helper()
	var log bytes.Buffer
	s.evacuator.options.Log = zerolog.New(zerolog.SyncWriter(&log))
	s.targets[0].PodUID, s.final, s.status = pod, nil, StatusRunning
	_, err := s.evacuator.options.Holds.Clear("c1")
	require.NoError(t, err)
	s.hear(notice(window))
	s.round(t)
	require.NotNil(t, s.final)
	for line := range strings.Lines(log.String()) {
		var said struct {
			Message   string `json:"message"`
			NewBlocks int64  `json:"new_blocks"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &said))
		if said.Message == "committed" {
			return said.NewBlocks
		}
	}
	require.Fail(t, "no commit in the log", log.String())
	return 0
}

// requireStored holds that the generation has the images of the last dump.
func (s *scene) requireStored(t *testing.T, number int64) {
	t.Helper()
	r, err := s.evacuator.options.Store.Open(t.Context(), s.target.Folder("test"), number, 0)
	require.NoError(t, err)
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, r.Fetch(dir.New(root)).Run(t.Context()))
	for _, m := range []string{"mem/1", "shm/0"} {
		name := map[string]string{"mem/1": "pages-2.img", "shm/0": "pages-3.img"}[m]
		got, err := root.ReadFile(filepath.Join("images/main", name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(s.memory[m], got), m)
		task, runs := r.Image("images/main/" + name)
		require.Equal(t, "main/"+m, task)
		require.Equal(t, runsOf(got), runs)
	}
}

// A pod that could not go on from the newest generation must not build on what may be damaged, until it has stored all of its own.
func TestNothingIsBuiltOnADamagedGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		s.memory = map[string][]byte{"mem/1": pages(64)}
		first := s.again(t, "pod-1")
		s.targets[0].Epoch, s.targets[0].Damaged = 1, true
		require.Equal(t, first, s.again(t, "pod-2"))
		require.Less(t, s.again(t, "pod-3"), first/2)
	})
}

func TestSecondGenerationStoresWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		// More than the piece in which pages are read, and no multiple of it.
		s.memory = map[string][]byte{"mem/1": pages(3*pieceSize/store.BlockSize + 5), "shm/0": pages(64)}
		first := s.again(t, "pod-1")
		require.GreaterOrEqual(t, first, int64(3*pieceSize/store.BlockSize+5+64))
		s.requireStored(t, 1)

		s.memory["mem/1"][17*store.BlockSize]++
		s.memory["shm/0"][63*store.BlockSize+4095]++
		require.EqualValues(t, 2, s.again(t, "pod-2"))
		s.requireStored(t, 2)
		require.Less(t, s.final.StoredBytes, int64(32<<10))
	})
}

func TestGenerationBeforeThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		s.memory = map[string][]byte{"mem/1": pages(64), "shm/0": pages(8)}
		first := s.again(t, "pod-1")

		up := time.Now().Add(10 * time.Second)
		s.bucket.down = func() bool { return time.Now().Before(up) }
		require.Zero(t, s.again(t, "pod-2"), "it is read once the bucket is there again")
		s.bucket.down = nil

		for info, err := range s.bucket.List(t.Context(), "") {
			require.NoError(t, err)
			if strings.Contains(info.Key, "/packs/") {
				_, err := s.bucket.Put(t.Context(), info.Key, make([]byte, info.Size), store.Condition{})
				require.NoError(t, err)
			}
		}
		require.Equal(t, first, s.again(t, "pod-3"), "its packs are damaged, so everything is stored")
		s.requireStored(t, 3)
	})
}

func TestGenerationBeforeThatHangsIsDoneWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.evacuator.ending.Wait()
		s.memory = map[string][]byte{"mem/1": pages(64), "shm/0": pages(8)}
		first := s.again(t, "pod-1")

		s.bucket.stall = func(key string) bool { return strings.Contains(key, "/packs/") }
		begin := time.Now()
		require.Equal(t, first, s.again(t, "pod-2"))
		require.Less(t, time.Since(begin), window/4, "what can be done without costs no window")
		s.bucket.stall = nil
		s.requireStored(t, 2)
	})
}
