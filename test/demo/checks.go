package demo

import (
	"fmt"
	"strings"
)

// RenderChecks lists what held and what did not, and says which it was on the whole.
func RenderChecks(checks []Check, p Palette) string {
	var b strings.Builder
	failed := 0
	for _, c := range checks {
		mark := p.Good("✓")
		if !c.OK {
			mark = p.Bad("✗")
			failed++
		}
		fmt.Fprintf(&b, "  %s %s %s\n", mark, pad(c.Name, 30), p.Dim(c.Detail))
	}
	if failed == 0 {
		fmt.Fprintf(&b, "\n  %s\n", p.Good("PASS: it is the same process, and it missed nothing"))
	} else {
		fmt.Fprintf(&b, "\n  %s\n", p.Bad(fmt.Sprintf("FAIL: %d of %d things did not hold", failed, len(checks))))
	}
	return b.String()
}
