package demo

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestRenderTimeline(t *testing.T) {
	golden(t, "timeline.txt", RenderTimeline(goodEvidence(), Palette{}))
}

func TestRenderTimelineUnfinished(t *testing.T) {
	e := goodEvidence()
	e.Timeline.Claimed, e.Timeline.Fetched, e.Timeline.Resumed, e.Generation = nil, nil, nil, nil
	golden(t, "timeline-unfinished.txt", RenderTimeline(e, Palette{}))
	e.Timeline.Notice = nil
	require.Equal(t, "  no interruption was recorded\n", RenderTimeline(e, Palette{}))
}

func TestRenderPlot(t *testing.T) {
	golden(t, "plot.txt", RenderPlot(CurveOf(goodEvidence()), Palette{}))
}

func TestRenderPlotWithoutInterruption(t *testing.T) {
	e := goodEvidence()
	e.After, e.Volume = Output{}, Output{}
	golden(t, "plot-uninterrupted.txt", RenderPlot(CurveOf(e), Palette{}))
	require.Equal(t, "  too few steps to plot\n", RenderPlot(Curve{}, Palette{}))
}

func TestColourChangesNothingElse(t *testing.T) {
	e := goodEvidence()
	for name, render := range map[string]func(Palette) string{
		"plot":     func(p Palette) string { return RenderPlot(CurveOf(e), p) },
		"timeline": func(p Palette) string { return RenderTimeline(e, p) },
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, trimLines(render(Palette{})), trimLines(stripColour(render(Palette{Colour: true}))))
		})
	}
}

func stripColour(s string) string {
	var b strings.Builder
	for s != "" {
		before, rest, found := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !found {
			break
		}
		_, s, _ = strings.Cut(rest, "m")
	}
	return b.String()
}

func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func TestRenderSVGIsWellFormed(t *testing.T) {
	e := goodEvidence()
	hostile := CurveOf(e)
	hostile.From = `<a & "b">`
	for name, curve := range map[string]Curve{
		"interrupted":   CurveOf(e),
		"uninterrupted": {Loss: []float64{2, 1}, From: "a"},
		"one step":      {Loss: []float64{2}, From: "a"},
		"no steps":      {},
		"odd node name": hostile,
	} {
		t.Run(name, func(t *testing.T) {
			svg := RenderSVG(curve)
			require.NotContains(t, string(svg), "NaN")
			require.NotContains(t, string(svg), "Inf")
			decoder := xml.NewDecoder(bytes.NewReader(svg))
			for {
				_, err := decoder.Token()
				if errors.Is(err, io.EOF) {
					return
				}
				require.NoError(t, err)
			}
		})
	}
}

func TestSVGShowsBothNodesAndTheMark(t *testing.T) {
	svg := string(RenderSVG(CurveOf(goodEvidence())))
	for _, want := range []string{"node a", "node b", "interruption", fromHex, toHex, "step 121 on node b, 4.0 s later"} {
		require.Contains(t, svg, want)
	}
}

func TestTicks(t *testing.T) {
	for steps, want := range map[int]int{1: 1, 6: 1, 7: 2, 100: 20, 400: 100, 1200: 200, 1500: 500} {
		require.Equal(t, want, tickEvery(steps), "%d steps", steps)
	}
}
