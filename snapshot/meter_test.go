package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// tally is a Meter that keeps all it is told.
type tally struct {
	mu        sync.Mutex
	stepped   []Stepped
	failed    []string
	verdict   map[string]Verdict
	evacuated []Evacuated
	gone      []string
}

func (m *tally) Stepped(_ Target, s Stepped) { m.lock(func() { m.stepped = append(m.stepped, s) }) }

func (m *tally) Failed(_ Target, action Action, reason string) {
	m.lock(func() { m.failed = append(m.failed, fmt.Sprint(action, " ", reason)) })
}

func (m *tally) Judged(t Target, v Verdict, _ Prediction) { m.lock(func() { m.verdict[podOf(t)] = v }) }

func (m *tally) Evacuated(_ Target, e Evacuated) {
	m.lock(func() { m.evacuated = append(m.evacuated, e) })
}

func (m *tally) Gone(t Target) { m.lock(func() { m.gone = append(m.gone, podOf(t)) }) }

func (m *tally) lock(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}

// counted is how many steps of that kind there were, and the last of them.
func (m *tally) counted(action Action) (n int, last Stepped) {
	m.lock(func() {
		for _, s := range m.stepped {
			if s.Action == action {
				n, last = n+1, s
			}
		}
	})
	return n, last
}

func TestTheMeterIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m := newBoxScene(t, "c1"), &tally{verdict: map[string]Verdict{}}
		s.evacuator.options.Meter = m
		s.onDump = once(errCRIU)
		s.run(t, func() {
			pass(15 * time.Minute)
			rounds, round := m.counted(ActionRound)
			require.Equal(t, s.rounds("c1"), rounds)
			require.EqualValues(t, boxPages*4096, round.ReadBytes)
			require.Positive(t, round.ChangedBytes)
			require.Positive(t, round.CPU)
			require.Zero(t, round.Still)
			dumps, dump := m.counted(ActionDump)
			require.Equal(t, 1, dumps)
			require.GreaterOrEqual(t, dump.Still, 100*time.Millisecond)
			require.False(t, dump.Frozen.IsZero())
			require.Positive(t, dump.UploadedBytes, "what its commit sends")
			m.lock(func() {
				require.Equal(t, []string{"dump DumpFailed"}, m.failed)
				require.Equal(t, Safe, m.verdict["c1"].Level)
			})
			s.evacuator.Heard(notice(window))
			pass(5 * time.Second)
			s.requireFinal(t, "c1")
			m.lock(func() {
				require.Len(t, m.evacuated, 1)
				require.Equal(t, v1alpha1.ReasonFinalGeneration, m.evacuated[0].Reason)
				require.Positive(t, m.evacuated[0].Took)
				require.Positive(t, m.evacuated[0].WindowBytes)
			})
		})
		require.Equal(t, []string{"c1"}, m.gone)
	})
}

func TestALostVerdictIsToldAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.run(t, func() {
			pass(15 * time.Minute)
			told := 0
			s.lock(func() { told, s.unjudged = len(s.verdicts["c1"]), true })
			pass(11 * time.Second)
			s.lock(func() {
				require.Len(t, s.verdicts["c1"], told+1)
				s.unjudged = false
			})
			pass(time.Minute)
			s.lock(func() { require.Len(t, s.verdicts["c1"], told+1) })
		})
	})
}

func TestReasonsOfFailedSteps(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		action Action
		want   string
	}{
		{"bucket", inBucket(errors.New("503")), ActionRound, "BucketUnavailable"},
		{"the bucket took too long", inBucket(context.DeadlineExceeded), ActionDump, "BucketUnavailable"},
		{"still for too long", fmt.Errorf("dump: %w", errStill), ActionDump, "TooLong"},
		{"not readable", errors.New("EIO"), ActionRound, "ReadFailed"},
		{"not dumped", errCRIU, ActionDump, "DumpFailed"},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, reasonOfStep(c.err, c.action)) })
	}
}

func TestWhatCannotBeDumpedIsTriedAtTheNoticeAlone(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails bool
	}{{"it could be dumped after all", false}, {"it cannot", true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, m := newBoxScene(t, "c1", "c2"), &tally{verdict: map[string]Verdict{}}
				s.evacuator.options.Meter = m
				s.obstacles = map[string][]obstacle.Obstacle{"c1": {{Reason: v1alpha1.ReasonIOUring, Message: "no; without"}}}
				var order []string
				s.onDump = func(_ context.Context, id string) error {
					order = append(order, id)
					if c.fails && id == "c1" {
						return errCRIU
					}
					return nil
				}
				s.run(t, func() {
					pass(5 * time.Minute)
					require.Zero(t, s.rounds("c1"))
					require.Empty(t, s.boxes["c1"].still, "no safety dump is tried")
					require.Greater(t, s.rounds("c2"), 3, "the other is copied")
					s.lock(func() {
						require.NotEmpty(t, s.verdicts["c1"])
						last := s.verdicts["c1"][len(s.verdicts["c1"])-1]
						require.Equal(t, []string{"Unprotected", v1alpha1.ReasonIOUring}, []string{last.Level.String(), last.Reason})
						order = nil
					})
					s.evacuator.Heard(notice(window))
					pass(20 * time.Second)
					s.requireFinal(t, "c2")
					require.Equal(t, []string{"c2", "c1"}, order[:2], "the last")
					if !c.fails {
						s.requireFinal(t, "c1")
						return
					}
					require.Equal(t, v1alpha1.ReasonDumpFailed, s.failed["c1"])
					require.Equal(t, StatusRunning, s.boxes["c1"].status, "it runs on")
				})
			})
		})
	}
}

func TestWhatIsMendedIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBoxScene(t, "c1")
		s.obstacles = map[string][]obstacle.Obstacle{"c1": {{Reason: v1alpha1.ReasonTraced, Message: "strace; end it"}}}
		s.run(t, func() {
			pass(time.Minute)
			require.Zero(t, s.rounds("c1"))
			s.lock(func() { s.obstacles = nil })
			pass(5 * time.Minute)
			require.Greater(t, s.rounds("c1"), 3)
			require.NotEmpty(t, s.safety)
			s.lock(func() {
				s.obstacles = map[string][]obstacle.Obstacle{"c1": {{Reason: v1alpha1.ReasonTraced, Message: "again"}}}
			})
			pass(20 * time.Second)
			rounds := s.rounds("c1")
			pass(10 * time.Minute)
			require.Equal(t, rounds, s.rounds("c1"), "and left alone again")
		})
	})
}
