package demo

// Palette colours terminal text. The zero value leaves it plain.
type Palette struct {
	// Colour turns ANSI colours on.
	Colour bool
}

// Node colours of the terminal and of the SVG: warm for the node that goes, cool for the one that stays.
const (
	fromHex = "#d9480f"
	toHex   = "#1c6fbf"
)

func (p Palette) paint(code, s string) string {
	if !p.Colour || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Bold is for names and results.
func (p Palette) Bold(s string) string { return p.paint("1", s) }

// Dim is for what may be overlooked.
func (p Palette) Dim(s string) string { return p.paint("2", s) }

// Good is for what holds.
func (p Palette) Good(s string) string { return p.paint("32", s) }

// Bad is for what does not.
func (p Palette) Bad(s string) string { return p.paint("1;31", s) }

// From is for the node that goes.
func (p Palette) From(s string) string { return p.paint("38;5;166", s) }

// To is for the node that stays.
func (p Palette) To(s string) string { return p.paint("38;5;32", s) }

// node colours a moment of the timeline by the node on which it happened.
func (p Palette) node(moment, s string) string {
	switch moment {
	case "claimed", "fetched", "resumed":
		return p.To(s)
	default:
		return p.From(s)
	}
}
