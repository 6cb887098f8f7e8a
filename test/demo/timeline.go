package demo

import (
	"fmt"
	"math"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stamp is a moment of the Checkpoint's timeline, nil where it was not reached.
type stamp = *metav1.MicroTime

type moment struct {
	name string
	at   stamp
}

// moments lists a run's moments in the order in which things happen. The notice counts from when the metadata service began
// to say it, not from when the agent heard. The deadline is apart: it may come at any time.
func moments(e Evidence) []moment {
	t := e.Timeline
	return []moment{
		{"notice", e.Announced}, {"heard", t.Notice}, {"frozen", t.Frozen}, {"dumped", t.Dumped}, {"durable", t.Durable},
		{"released", t.Released}, {"claimed", t.Claimed}, {"fetched", t.Fetched}, {"resumed", t.Resumed},
	}
}

// barWidth is the width of the time line's bars, in cells.
const barWidth = 24

// RenderTimeline draws the interruption: a line a moment, its distance from the notice, how long it took, and a bar
// that stands where in the whole it happened.
func RenderTimeline(e Evidence, p Palette) string {
	var b strings.Builder
	t := e.Timeline
	if e.Announced == nil || t.Notice == nil {
		return "  no interruption was recorded\n"
	}
	start, end := e.Announced.Time, e.Announced.Time
	for _, m := range moments(e) {
		if m.at != nil && m.at.After(end) {
			end = m.at.Time
		}
	}
	total := end.Sub(start)
	previous := start
	fmt.Fprintf(&b, "  %s\n", p.Dim(fmt.Sprintf("%10s  %8s  %s", "elapsed", "took", "moment")))
	for _, m := range moments(e) {
		if m.at == nil {
			fmt.Fprintf(&b, "  %10s  %8s  %s %s\n", "–", "", p.Bad(pad(m.name, 9)), "not reached")
			continue
		}
		bar := bar(previous.Sub(start), m.at.Sub(start), total)
		fmt.Fprintf(&b, "  %10s  %8s  %s %s %s\n", seconds(m.at.Sub(start), "+"), delta(m.name, m.at.Sub(previous)),
			p.Bold(pad(m.name, 9)), p.node(m.name, bar), describe(m.name, e))
		previous = m.at.Time
	}
	if t.Deadline != nil {
		fmt.Fprintf(&b, "  %10s  %8s  %s %s\n", seconds(t.Deadline.Sub(start), "+"), "", pad("deadline", 9), p.Dim("the node may vanish from here on"))
	}
	return b.String()
}

func delta(name string, d time.Duration) string {
	if name == "notice" {
		return ""
	}
	return seconds(d, "")
}

// describe says what a moment meant, with the figure that belongs to it.
func describe(name string, e Evidence) string {
	memory, stored := "memory", "all of it"
	if g := e.Generation; g != nil {
		memory, stored = bytesText(g.RSSBytes)+" of memory", bytesText(g.StoredBytes)
	}
	switch name {
	case "notice":
		return fmt.Sprintf("the cloud will take node %s back", e.FromNode)
	case "heard":
		return "the agent has asked the metadata service again"
	case "frozen":
		return fmt.Sprintf("stands still after step %d", e.Before.Last())
	case "dumped":
		return memory + " read"
	case "durable":
		return stored + " in the bucket, read back"
	case "released":
		return fmt.Sprintf("old pod gone, node %s is needed no more", e.FromNode)
	case "claimed":
		return fmt.Sprintf("node %s alone may restore it", e.ToNode)
	case "fetched":
		return "memory and files back on a disk"
	default:
		return fmt.Sprintf("step %d on node %s", first(e.After), e.ToNode)
	}
}

// bar draws the stretch from begin to end of total in eighths of a cell; at least a sliver.
func bar(begin, end, total time.Duration) string {
	if total <= 0 {
		total = 1
	}
	eighths := func(d time.Duration) int {
		return int(math.Round(float64(d) / float64(total) * barWidth * 8))
	}
	from, to := eighths(begin), eighths(end)
	cell := min(from/8, barWidth-1)
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", cell))
	full := (to - cell*8) / 8
	b.WriteString(strings.Repeat("█", full))
	width := cell + full
	if rest := to - width*8; width < barWidth && (rest > 0 || full == 0) {
		b.WriteString(string([]rune("▏▏▎▍▌▋▊▉")[max(rest, 0)]))
		width++
	}
	return b.String() + strings.Repeat(" ", barWidth-width)
}

func seconds(d time.Duration, sign string) string {
	return fmt.Sprintf("%s%.3f s", sign, d.Seconds())
}

// bytesText writes a size in the unit that leaves one to four digits before the point.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}
