package demo

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJudgePasses(t *testing.T) {
	report, checks := Judge(goodEvidence())
	for _, c := range checks {
		require.True(t, c.OK, "%s: %s", c.Name, c.Detail)
	}
	require.True(t, report.Pass)
	require.InDelta(t, 4.038, report.FreezeSeconds, 1e-9)

	path := filepath.Join(t.TempDir(), "demo", "report.json")
	require.NoError(t, report.Write(path))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	golden(t, "report.json", string(data))
	var again Report
	require.NoError(t, json.Unmarshal(data, &again))
	require.Equal(t, time.Time(report.ResumedAt), time.Time(again.ResumedAt))
}

func TestJudgeFails(t *testing.T) {
	cases := []struct {
		name   string
		check  string
		change func(*Evidence)
	}{
		{"resumed never reached", "moments in order", func(e *Evidence) { e.Timeline.Resumed = nil }},
		{"claimed before released", "moments in order", func(e *Evidence) { e.Timeline.Claimed = after(2 * time.Second) }},
		{"durable too late", "durable before the deadline", func(e *Evidence) { e.Timeline.Deadline = after(time.Second) }},
		{"no deadline", "durable before the deadline", func(e *Evidence) { e.Timeline.Deadline = nil }},
		{"same node", "another node", func(e *Evidence) { e.ToNode = "a" }},
		{"no generation", "final generation", func(e *Evidence) { e.Generation = nil }},
		{"not final", "final generation", func(e *Evidence) { e.Generation.Final = false }},
		{"of another pod", "final generation", func(e *Evidence) { e.Generation.PodUID = "uid-2" }},
		{"nothing stored", "final generation", func(e *Evidence) { e.Generation.StoredBytes = 0 }},
		{"a new token after", "same token in memory", func(e *Evidence) { e.After.Steps[9].Token = "beef" }},
		{"a new token at the end", "same token in memory", func(e *Evidence) { e.After.Done.Token = "beef" }},
		{"a step lost", "the very next step", func(e *Evidence) { e.After.Steps = e.After.Steps[1:] }},
		{"a step lost on a", "the very next step", func(e *Evidence) { e.Before.Steps = cut(e.Before.Steps, 50) }},
		{"nothing after", "the very next step", func(e *Evidence) { e.After.Steps = nil }},
		{"the log has a gap", "emptyDir log continuous", func(e *Evidence) { e.Volume.Steps = cut(e.Volume.Steps, 120) }},
		{"the log has a line twice", "emptyDir log continuous", func(e *Evidence) {
			e.Volume.Steps = append(e.Volume.Steps, e.Volume.Steps[len(e.Volume.Steps)-1])
		}},
		{"the log is shorter", "emptyDir log continuous", func(e *Evidence) { e.Volume.Steps = e.Volume.Steps[:300] }},
		{"other weights in memory", "equal to an uninterrupted run", func(e *Evidence) { e.Reference.Steps[200].Weights = "else" }},
		{"the reference did not end", "equal to an uninterrupted run", func(e *Evidence) { e.Reference.Done = nil }},
		{"a step done twice", "never ran twice", func(e *Evidence) {
			e.After.Steps = append([]Step{e.Before.Steps[119]}, e.After.Steps...)
		}},
		{"a step while frozen", "never ran twice", func(e *Evidence) { e.Before.Steps[119].At = noticeAt.Add(3 * time.Second) }},
		{"seen on both nodes", "never ran twice", func(e *Evidence) { e.Samples[1].Running["a"] = 1 }},
		{"nobody looked", "never ran twice", func(e *Evidence) { e.Samples = nil }},
		{"not looked at node b", "never ran twice", func(e *Evidence) { e.Samples = e.Samples[:1] }},
		{"exec read nothing", "kubectl exec", func(e *Evidence) { e.ExecToken = "" }},
		{"no logs", "kubectl logs", func(e *Evidence) { e.After = Output{} }},
		{"exit code", "ended by itself", func(e *Evidence) { e.ExitCode = 2 }},
		{"no end", "ended by itself", func(e *Evidence) { e.After.Done = nil }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := goodEvidence()
			c.change(&e)
			report, checks := Judge(e)
			require.False(t, report.Pass)
			found := false
			for _, check := range checks {
				if check.Name == c.check {
					found = true
					require.False(t, check.OK, check.Detail)
				}
			}
			require.True(t, found, "no check is called %q", c.check)
		})
	}
}

func TestJudgeOfNothing(t *testing.T) {
	report, _ := Judge(Evidence{ExitCode: -1})
	require.False(t, report.Pass)
	data, err := json.Marshal(report)
	require.NoError(t, err)
	require.Contains(t, string(data), `"resumed_at":null`)
}

// cut returns the steps without the one at index i.
func cut(steps []Step, i int) []Step {
	return append(append([]Step{}, steps[:i]...), steps[i+1:]...)
}
