// Package measured is what the bench and its program in a virtual machine tell each other.
package measured

// Value is one that was measured.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// The engines that are measured in the VM.
const (
	// Plain is `runc checkpoint` to a tmpfs.
	Plain = "runc checkpoint to tmpfs"
	// Lazy is the lazy engine with soft-dirty as a filter.
	Lazy = "lazy engine with soft-dirty"
	// Tracked is engine criu.
	Tracked = "engine criu"
)

// Engines are all of them, in the order in which they are measured.
var Engines = []string{Plain, Lazy, Tracked}

// What is measured of an engine; a name of the engine and ": " come before.
const (
	// Freeze is in seconds.
	Freeze = "freeze"
	// Durable is in seconds from the notice on.
	Durable = "notice to durable"
	// PagesRead are those of the final pass.
	PagesRead = "pages read in the final pass"
	// PagesChanged are those that had changed since the last round.
	PagesChanged = "pages changed"
	// WindowBytes are those that were stored after the notice.
	WindowBytes = "in-window bytes"
)
