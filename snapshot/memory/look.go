package memory

// look is what a Filter has to do with the reading of one task by one worker. A nil look is none of its.
type look struct {
	*Filter
	pass pass
	task *knownTask
	// trusted says that the area is as it was when the bits were cleared.
	trusted bool
}

// at is the look at an area: private memory that no file has. Huge pages set aside have a file, and are not tracked.
func (l *look) at(a area) *look {
	if l.pass == passPlain || l.task == nil || a.inode != 0 {
		return nil
	}
	l.trusted = l.task.areas[a.start] == a.extent()
	if !l.trusted {
		l.task.distrust(a.start)
	}
	return l
}

// wanted are the spans that are to be read.
func (l *look) wanted(w *worker, p *process, spans []span) []span {
	if l == nil || l.pass == passFresh {
		return spans
	}
	sifted, err := l.task.sift(p.readWords, spans, w.words)
	if err != nil {
		return spans
	}
	l.note(passed{dirty: sifted.dirty, cleared: sifted.cleared})
	if l.pass == passCheck {
		return spans
	}
	w.stats.PagesKept += sifted.cleanPages
	return sifted.unread
}

// before notes the page table of a batch that is to be read.
func (l *look) before(w *worker, p *process, batch []span) {
	if l != nil {
		p.words(batch, w.words[:len(w.words)/2])
	}
}

// after compares it with the page table now that the first n bytes of the batch have been read and taken.
func (l *look) after(w *worker, p *process, batch []span, n int) {
	if l == nil {
		return
	}
	half := len(w.words) / 2
	before, after := w.words[:half], w.words[half:]
	p.words(batch, after)
	var found passed
	page := 0
	for _, s := range batch {
		for address := s.start; address < s.end && (page+1)*pageSize <= n; address += uint64(pageSize) {
			content := w.buf[page*pageSize : (page+1)*pageSize]
			l.judge(&found, address, before[page], after[page], content)
			page++
		}
	}
	l.note(found)
}

// judge draws the conclusions from one page that was read while the page table said before and then after.
func (l *look) judge(found *passed, address, before, after uint64, content []byte) {
	still := settled(before) && before == after
	if l.pass == passFresh {
		if still && l.trusted {
			l.task.learn(address, after, content)
		}
		return
	}
	was, written := l.task.record(address)
	if still && l.trusted && !written && was.frame == uint32(after&wordFrame) {
		if was.sum != sumOf(content) {
			found.missed++
		}
		return
	}
	found.read++
	if l.task.wrote(address, after, content) {
		found.changed++
	}
}

func (p *process) readWords(s span, words []uint64) error { return readWords(p.pages, s, words) }

// words reads the page table of spans, one after the other. What cannot be read is 0, which is no page that is known.
func (p *process) words(spans []span, words []uint64) {
	for _, s := range spans {
		n := int(s.end-s.start) / pageSize
		if readWords(p.pages, s, words[:n]) != nil {
			clear(words[:n])
		}
		words = words[n:]
	}
}
