package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress is a line on stderr that says how far long work has come. Its zero value shows nothing.
type progress struct {
	w        io.Writer
	terminal bool
	prefix   string
	shown    bool
	last     time.Time
}

func (p *progress) start(w io.Writer, c config) {
	if file, ok := w.(*os.File); ok {
		if stat, err := file.Stat(); err == nil {
			p.terminal = stat.Mode()&os.ModeCharDevice != 0
		}
	}
	if !c.quiet && (p.terminal || c.progress) {
		p.w = w
	}
}

// pause is how long a line stands at least: on a terminal it is replaced, in a log it stays.
func (p *progress) pause() time.Duration {
	if p.terminal {
		return 100 * time.Millisecond
	}
	return 5 * time.Second
}

// show replaces the line by the prefix and text.
func (p *progress) show(text string) {
	if p.w == nil || p.shown && time.Since(p.last) < p.pause() {
		return
	}
	p.last, p.shown = time.Now(), true
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s %s", p.prefix, text)
	} else {
		fmt.Fprintln(p.w, p.prefix, text)
	}
}

// bytes shows how much has been read.
func (p *progress) bytes(done, total int64) {
	p.show(fmt.Sprintf("%s of %s", byteSize(done), byteSize(total)))
}

// clear takes the line off a terminal.
func (p *progress) clear() {
	if p.shown && p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	p.shown = false
}
