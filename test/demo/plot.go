package demo

import (
	"fmt"
	"math"
	"strings"
)

// Curve is the loss over the steps, and where the job changed nodes.
type Curve struct {
	// Loss holds the loss of step i+1.
	Loss []float64
	// Last is the last step on node From; the next one ran on node To. 0 where the job was never moved.
	Last     int
	From, To string
	// Still is how long the job stood still between the two, in seconds.
	Still float64
}

// CurveOf takes the curve from the job's own log file, or, where that was not read, from what the two pods said.
func CurveOf(e Evidence) Curve {
	steps := e.Volume.Steps
	if len(steps) == 0 {
		steps = append(append(steps, e.Before.Steps...), e.After.Steps...)
	}
	c := Curve{From: e.FromNode, To: e.ToNode}
	for _, s := range steps {
		c.Loss = append(c.Loss, s.Loss)
	}
	if len(e.After.Steps) > 0 {
		c.Last = e.Before.Last()
	}
	if t := e.Timeline; t.Frozen != nil && t.Resumed != nil {
		c.Still = t.Resumed.Sub(t.Frozen.Time).Seconds()
	}
	return c
}

// smooth returns the exponential moving average of the losses: a mini-batch's loss jumps about.
func (c Curve) smooth() []float64 {
	const keep = 0.9
	out := make([]float64, len(c.Loss))
	for i, v := range c.Loss {
		out[i] = v
		if i > 0 {
			out[i] = keep*out[i-1] + (1-keep)*v
		}
	}
	return out
}

// top returns the upper end of the loss axis: a multiple of a half at or above the greatest loss.
func (c Curve) top() float64 {
	top := 0.5
	for _, v := range c.Loss {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			top = max(top, math.Ceil(v*2)/2)
		}
	}
	return top
}

// Size of the terminal plot in cells; a braille cell is 2 dots wide and 4 high.
const (
	plotWidth  = 72
	plotHeight = 13
)

// RenderPlot draws the smoothed loss in braille, in the colours of the two nodes, with a line where the job moved.
func RenderPlot(c Curve, p Palette) string {
	if len(c.Loss) < 2 {
		return "  too few steps to plot\n"
	}
	cells := brailleCells(c.smooth(), c.top())
	cut := -1
	if c.Last > 0 {
		cut = c.Last * plotWidth / len(c.Loss)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s\n", p.Dim("loss"))
	for row := range plotHeight {
		fmt.Fprintf(&b, "  %s %s\n", axisLabel(row, c.top()), plotRow(cells[row], cut, p))
	}
	fmt.Fprintf(&b, "       └%s\n", strings.Repeat("─", plotWidth))
	b.WriteString(plotCaption(c, cut, p))
	return b.String()
}

// brailleCells sets a dot for every dot column at the curve's height, and joins neighbours.
func brailleCells(loss []float64, top float64) [][]rune {
	const columns, rows = plotWidth * 2, plotHeight * 4
	cells := make([][]rune, plotHeight)
	for i := range cells {
		cells[i] = make([]rune, plotWidth)
	}
	bits := [4][2]rune{{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}
	previous := -1
	for x := range columns {
		v := loss[x*(len(loss)-1)/(columns-1)]
		y := min(max(int(math.Round((1-v/top)*(rows-1))), 0), rows-1)
		low, high := y, y
		if previous >= 0 && previous != y {
			low, high = min(y, previous+1), max(y, previous-1)
		}
		for dot := low; dot <= high; dot++ {
			cells[dot/4][x/2] |= bits[dot%4][x%2]
		}
		previous = y
	}
	return cells
}

func plotRow(cells []rune, cut int, p Palette) string {
	var from, to strings.Builder
	for x, bits := range cells {
		side := &from
		if cut >= 0 && x > cut {
			side = &to
		}
		switch {
		case bits != 0:
			side.WriteRune(0x2800 + bits)
		case x == cut:
			side.WriteRune('┊')
		default:
			side.WriteRune(' ')
		}
	}
	return p.From(from.String()) + p.To(strings.TrimRight(to.String(), " "))
}

func axisLabel(row int, top float64) string {
	const every = (plotHeight - 1) / 4
	if row%every != 0 {
		return "    │"
	}
	return fmt.Sprintf("%4.2f┤", top*(1-float64(row)/(plotHeight-1)))
}

// plotCaption writes the step numbers beneath the axis, and the node names beneath their parts of the curve.
func plotCaption(c Curve, cut int, p Palette) string {
	end := fmt.Sprintf("step %d", len(c.Loss))
	if cut < 0 {
		return fmt.Sprintf("        1%s%s\n", strings.Repeat(" ", plotWidth-1-len(end)), end)
	}
	line := []rune(strings.Repeat(" ", plotWidth))
	place := func(text string, at int) {
		for i, r := range text {
			if at+i >= 0 && at+i < len(line) {
				line[at+i] = r
			}
		}
	}
	mark := fmt.Sprintf("%d", c.Last)
	place("1", 0)
	place(end, plotWidth-len(end))
	place(mark, min(max(cut-len(mark)/2, 3), plotWidth-len(end)-len(mark)-1))
	legend := fmt.Sprintf("%s %s   %s %s   %s", p.From("━━"), "node "+c.From, p.To("━━"), "node "+c.To,
		p.Dim(fmt.Sprintf("┊ stood still for %.1f s after step %d", c.Still, c.Last)))
	return fmt.Sprintf("        %s\n\n        %s\n", strings.TrimRight(string(line), " "), legend)
}
