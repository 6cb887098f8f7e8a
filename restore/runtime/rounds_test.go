package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCreateAfterAFailedRestore(t *testing.T) {
	refuses := answer{503, "on-restore-failure forbids a clean start"}
	const cause = "Error (criu/files.c:1): the cause"
	for name, test := range map[string]struct {
		failures int
		files    []string
		options  func(*bench)
		args     []string
		answers  func(restore answer) []answer
		rounds   int
		verbs    string
		passes   bool
		messages []string
	}{
		"the second attempt succeeds": {failures: 1, rounds: 2, verbs: "restore delete restore"},
		"it fails twice, then the agent says create": {
			failures: 2, answers: func(restore answer) []answer { return []answer{restore, restore, clean} },
			rounds: 3, verbs: "restore delete restore delete", passes: true,
		},
		"the agent forbids a clean start": {
			failures: 2, answers: func(restore answer) []answer { return []answer{restore, restore, refuses} },
			rounds: 3, verbs: "restore delete restore delete", messages: []string{"forbids a clean start", cause},
		},
		"an agent that does not count": {
			failures: maxRounds + 1, rounds: maxRounds, verbs: strings.Repeat("restore delete ", maxRounds-1) + "restore delete",
			messages: []string{"asked for a restore 5 times", cause},
		},
		"the result cannot be posted": {
			failures: 1, options: func(b *bench) { b.deaf = true },
			rounds: 1, verbs: "restore delete", messages: []string{"criu failed: type NOTIFY errno 0", cause},
		},
		"what is left cannot be removed": {
			failures: 1, files: []string{"stuck"},
			rounds: 1, verbs: "restore delete", messages: []string{"delete what is left of c1", cause},
		},
		"the terminal may have been sent": {
			failures: 1, args: []string{"--console-socket", "/tmp/console"},
			rounds: 1, verbs: "restore delete", messages: []string{cause},
		},
		"the agent leaves": {
			failures: 1, options: func(b *bench) { b.leaves, b.options.Times.Ask = true, 10*impatient },
			rounds: 1, verbs: "restore delete", messages: []string{"is not running", "a restore that has begun is not given up", cause},
		},
		"the time is up": {
			files: []string{"hang"}, options: func(b *bench) { b.options.Times.Create = impatient },
			rounds: 1, verbs: "restore delete", messages: []string{"out of time"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, podAnnotations)
			if test.options != nil {
				test.options(b)
			}
			for _, file := range test.files {
				b.touch(t, file)
			}
			b.failing(t, test.failures)
			answers := []answer{b.restore()}
			if test.answers != nil {
				answers = test.answers(b.restore())
			}
			b.agent(t, answers...)

			status := b.create(t, test.args...)
			require.Equal(t, test.verbs, b.verbs(t), b.stderr.String())
			require.Len(t, b.prepared, test.rounds)
			require.Equal(t, test.passes, b.passed != nil)
			b.requireOutcome(t, status, test.messages)
			if test.passes || len(test.messages) > 0 {
				b.requireMarkers(t)
			} else {
				b.requireMarkers(t, "c1")
			}
		})
	}
}

// requireOutcome wants success, or a failure with all messages on stderr and in the log.
func (b *bench) requireOutcome(t *testing.T, status int, messages []string) {
	t.Helper()
	if len(messages) == 0 {
		require.Zero(t, status, b.stderr.String())
		return
	}
	require.Equal(t, 1, status)
	for _, message := range messages {
		require.Contains(t, b.stderr.String(), message)
		require.Contains(t, lastError(b.log(), 0), message)
	}
}

func TestLogTailOfAnEndlessLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "restore.log")
	text := "(00.1) Error (criu/a.c:1): long ago\n" + strings.Repeat("(00.2) round and round\n", tailBytes/20) + "(00.3) Error (criu/b.c:1): now\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.Equal(t, "(00.3) Error (criu/b.c:1): now", LogTail(path))
}

func TestCreateWaitsForTheAgent(t *testing.T) {
	t.Run("absent for a while", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, replacement())
		socket := b.options.Socket
		b.options.Socket = socket + ".soon"
		b.agent(t, b.restore())
		soon := b.options.Socket
		b.options.Socket = socket
		time.AfterFunc(impatient, func() { _ = os.Rename(soon, socket) })
		begin := time.Now()
		require.Zero(t, b.create(t), b.stderr.String())
		require.Equal(t, "restore", b.verbs(t))
		require.GreaterOrEqual(t, time.Since(begin), impatient)
	})
	t.Run("absent when the node has just started", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, podAnnotations)
		b.options.Times.Absent = time.Minute
		socket := b.options.Socket
		b.options.Socket = socket + ".soon"
		b.agent(t, b.restore())
		soon := b.options.Socket
		b.options.Socket = socket
		time.AfterFunc(impatient, func() { _ = os.Rename(soon, socket) })
		require.Zero(t, b.create(t), b.stderr.String())
		require.Equal(t, "restore", b.verbs(t), "it would have begun anew")
	})
	t.Run("ended while it was asked, and back", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, podAnnotations)
		b.agent(t, breaksOff, breaksOff, b.restore())
		require.Zero(t, b.create(t), b.stderr.String())
		require.Equal(t, "restore", b.verbs(t))
		require.Len(t, b.prepared, 3)
	})
	t.Run("ended while it was asked, for good", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, podAnnotations)
		b.options.Times.Ask = impatient
		b.agent(t, breaksOff)
		require.Equal(t, 1, b.create(t))
		require.Empty(t, b.calls(t))
		require.Nil(t, b.passed)
	})
}
