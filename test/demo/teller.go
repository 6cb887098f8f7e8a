package demo

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// teller writes the demo's story, each line with the seconds since the start.
type teller struct {
	Palette
	mu    sync.Mutex
	out   io.Writer
	start time.Time
	// live says that out is a terminal, where a line may be written over.
	live bool
	// over says that the cursor stands in such a line.
	over bool
}

// say writes one line for good.
func (t *teller) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	fmt.Fprintf(t.out, "%s  %s\n", t.Dim(fmt.Sprintf("%6.1fs", time.Since(t.start).Seconds())), fmt.Sprintf(format, args...))
}

// heading begins a chapter.
func (t *teller) heading(title string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	fmt.Fprintf(t.out, "\n%s\n", t.Bold(title))
}

// block writes text as it is.
func (t *teller) block(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	fmt.Fprint(t.out, text)
}

// passing writes a line that the next one replaces; nothing where out is no terminal.
func (t *teller) passing(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.live {
		return
	}
	fmt.Fprintf(t.out, "\r\x1b[K%9s%s", "", t.Dim(fmt.Sprintf(format, args...)))
	t.over = true
}

func (t *teller) clear() {
	if t.over {
		fmt.Fprint(t.out, "\r\x1b[K")
		t.over = false
	}
}
