package demo

import (
	"fmt"
	"html"
	"strings"
)

// Geometry of the SVG, in its own units.
const (
	svgWidth, svgHeight      = 960.0, 540.0
	svgLeft, svgRight        = 76.0, 928.0
	svgTop, svgBottom        = 104.0, 452.0
	svgGridSteps, svgTickMax = 4, 6
)

// RenderSVG draws the loss curve: every mini-batch as a dot, their moving average as a line in the colour of the node
// it ran on, and the interruption as a labelled mark.
func RenderSVG(c Curve) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s" font-family="Inter, 'Segoe UI', Helvetica, Arial, sans-serif">`+"\n",
		svgWidth, svgHeight, html.EscapeString("Loss of a training job that moved from one node to another"))
	fmt.Fprintf(&b, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", svgWidth, svgHeight)
	svgTitle(&b, c)
	svgAxes(&b, c)
	svgDots(&b, c)
	svgLines(&b, c)
	svgMark(&b, c)
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

func svgTitle(b *strings.Builder, c Curve) {
	text(b, svgLeft, 46, 22, "600", "#1f2933", "start", "One training run, two nodes")
	sub := fmt.Sprintf("%d steps, no interruption", len(c.Loss))
	if c.Last > 0 {
		sub = fmt.Sprintf("Node %s was reclaimed after step %d. The same process went on with step %d on node %s, %.1f s later.",
			c.From, c.Last, c.Last+1, c.To, c.Still)
	}
	text(b, svgLeft, 72, 14, "400", "#52606d", "start", sub)
}

func svgAxes(b *strings.Builder, c Curve) {
	for i := range svgGridSteps + 1 {
		value := c.top() * float64(i) / svgGridSteps
		y := c.y(value)
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#e4e7eb" stroke-width="1"/>`+"\n", svgLeft, y, svgRight, y)
		text(b, svgLeft-12, y+4, 12, "400", "#7b8794", "end", fmt.Sprintf("%.2f", value))
	}
	every := tickEvery(len(c.Loss))
	for step := every; step <= len(c.Loss); step += every {
		x := c.x(step)
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#9aa5b1" stroke-width="1"/>`+"\n", x, svgBottom, x, svgBottom+5)
		text(b, x, svgBottom+21, 12, "400", "#7b8794", "middle", fmt.Sprint(step))
	}
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#9aa5b1" stroke-width="1.5"/>`+"\n", svgLeft, svgBottom, svgRight, svgBottom)
	text(b, (svgLeft+svgRight)/2, svgBottom+48, 13, "400", "#52606d", "middle", "step (mini-batches of handwritten digits)")
	fmt.Fprintf(b, `<text transform="translate(%.1f %.1f) rotate(-90)" font-size="13" fill="#52606d" text-anchor="middle">cross-entropy loss</text>`+"\n",
		svgLeft-52, (svgTop+svgBottom)/2)
}

// svgDots draws the raw losses, one path a node: cheap, however many there are.
func svgDots(b *strings.Builder, c Curve) {
	for _, part := range c.parts() {
		var d strings.Builder
		for step := part.from; step <= part.to; step++ {
			fmt.Fprintf(&d, "M%.1f %.1fh0", c.x(step), c.y(c.Loss[step-1]))
		}
		fmt.Fprintf(b, `<path d="%s" stroke="%s" stroke-opacity="0.22" stroke-width="3" stroke-linecap="round" fill="none"/>`+"\n", d.String(), part.colour)
	}
}

func svgLines(b *strings.Builder, c Curve) {
	smooth := c.smooth()
	for _, part := range c.parts() {
		points := make([]string, 0, part.to-part.from+1)
		for step := part.from; step <= part.to; step++ {
			points = append(points, fmt.Sprintf("%.1f,%.1f", c.x(step), c.y(smooth[step-1])))
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5" stroke-linejoin="round" stroke-linecap="round"/>`+"\n",
			strings.Join(points, " "), part.colour)
		middle := (c.x(part.from) + c.x(part.to)) / 2
		if part.node != "" {
			text(b, middle, svgTop-8, 14, "600", part.colour, "middle", "node "+part.node)
		}
	}
}

func svgMark(b *strings.Builder, c Curve) {
	if c.Last == 0 || c.Last >= len(c.Loss) {
		return
	}
	x := (c.x(c.Last) + c.x(c.Last+1)) / 2
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#1f2933" stroke-width="1.5" stroke-dasharray="5 4"/>`+"\n", x, svgTop-18, x, svgBottom)
	anchor, at := "start", x+12
	if x > (svgLeft+svgRight)/2 {
		anchor, at = "end", x-12
	}
	text(b, at, svgTop+22, 13, "600", "#1f2933", anchor, "interruption")
	text(b, at, svgTop+40, 12, "400", "#52606d", anchor, fmt.Sprintf("stood still for %.1f s, no step lost", c.Still))
}

// part is the stretch of steps that ran on one node.
type part struct {
	from, to     int
	node, colour string
}

func (c Curve) parts() []part {
	all := len(c.Loss)
	if all == 0 {
		return nil
	}
	if c.Last <= 0 || c.Last >= all {
		return []part{{1, all, c.From, fromHex}}
	}
	return []part{{1, c.Last, c.From, fromHex}, {c.Last + 1, all, c.To, toHex}}
}

func (c Curve) x(step int) float64 {
	return svgLeft + (svgRight-svgLeft)*float64(step-1)/float64(max(len(c.Loss)-1, 1))
}

func (c Curve) y(loss float64) float64 {
	return svgBottom - (svgBottom-svgTop)*loss/c.top()
}

// tickEvery returns the round distance between ticks that leaves at most svgTickMax of them.
func tickEvery(steps int) int {
	for unit := 1; ; unit *= 10 {
		for _, factor := range []int{1, 2, 5} {
			if steps/(unit*factor) <= svgTickMax {
				return unit * factor
			}
		}
	}
}

func text(b *strings.Builder, x, y float64, size int, weight, colour, anchor, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-size="%d" font-weight="%s" fill="%s" text-anchor="%s">%s</text>`+"\n",
		x, y, size, weight, colour, anchor, html.EscapeString(s))
}
