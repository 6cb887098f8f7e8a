package snapshot

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// noon is the moment of plans in tests.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// workload is a target of that many bytes of which 1 % change in 30 s and half of that in 5 s, with everything done on
// time so far.
func workload(id string, rss int64) TargetFacts {
	t := TargetFacts{ID: id, RSSBytes: rss, LastRound: noon, LastDump: noon, LastCommit: noon}
	for _, p := range []struct{ seconds, permille int64 }{{5, 5}, {10, 6}, {30, 10}, {60, 13}, {300, 20}} {
		t.Changes = append(t.Changes, ChangePoint{Interval: time.Duration(p.seconds) * time.Second, PageBytes: rss / 1000 * p.permille})
	}
	// The newest is what the target is at.
	t.Changes = append(t.Changes, ChangePoint{Interval: 30 * time.Second, PageBytes: rss / 100})
	return t
}

// TestExampleOfTheDocument holds that the worked example in docs/policy.md is what Plan says. LIFEBOAT_UPDATE_DOCS=1
// writes it anew.
func TestExampleOfTheDocument(t *testing.T) {
	const path, begin, end = "../docs/policy.md", "<!-- example: begin -->\n", "<!-- example: end -->"
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(page), begin)
	require.True(t, found, "marker %q", begin)
	old, after, found := strings.Cut(rest, end)
	require.True(t, found, "marker %q", end)
	example := exampleTable(t)
	if os.Getenv("LIFEBOAT_UPDATE_DOCS") != "" {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+example+end+after), 0o644))
		return
	}
	require.Equal(t, example, old, "run LIFEBOAT_UPDATE_DOCS=1 go test ./snapshot -run TestExampleOfTheDocument")
}

func exampleTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| RSS | link | window | soft-dirty | round every | within | safety dump every | frozen to read | uploaded | notice to durable | verdict |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, rss := range []int64{1 << 30, 60 << 30} {
		for _, gbit := range []float64{0.75, 5} {
			for _, window := range []time.Duration{30 * time.Second, 120 * time.Second} {
				for _, tracked := range []bool{false, true} {
					facts := workload("a", rss)
					facts.SoftDirty = tracked
					if tracked {
						facts.ScanCPU = 0.02
					}
					cores := map[int64]float64{1 << 30: 2, 60 << 30: 8}[rss]
					plan, err := DefaultPolicy().Plan(NodeFacts{
						Now: noon, Window: window, Margin: 5 * time.Second, Cores: cores, UploadRates: []float64{gbit * 1e9 / 8 * 2 / 3},
					}, []TargetFacts{facts})
					require.NoError(t, err)
					p := plan.Targets[0]
					verdict := p.Verdict.Level.String()
					if p.Verdict.Level != Safe {
						verdict += " (" + p.Verdict.Reason + ")"
					}
					fmt.Fprintf(&b, "| %s | %.3g Gb/s | %.0f s | %s | %s | %s | %s | %s | %s | %s | %s |\n", size(float64(rss)), gbit, window.Seconds(),
						map[bool]string{false: "no", true: "yes"}[tracked], short(p.Interval.Seconds()), short(p.Step.Takes.Seconds()),
						short(p.DumpInterval.Seconds()), short(p.Prediction.Freeze.Seconds()), size(float64(p.Prediction.Uploaded)),
						short(p.Prediction.Durable.Seconds()), verdict)
				}
			}
		}
	}
	return b.String()
}
