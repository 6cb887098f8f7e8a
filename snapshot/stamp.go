package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stamps are files that say which final dump of a pod is the newest that was begun, by a moment that its generation
// has as Meta.Created. A generation of an older dump may land in the bucket after its target was thawed: its stamp tells
// it from the one that an evacuation may record. A stamp is an identity: nobody asks which of two is later.
type stamps struct{ dir string }

// stamps stand beside the holds, and outlive them: the next one must differ.
func (e *Evacuator) stamps() stamps { return stamps{e.options.Holds.Dir + "-dump"} }

func (s stamps) path(pod string) string { return filepath.Join(s.dir, filepath.Base(pod)) }

// next begins a dump: no generation that was committed before has its stamp.
func (s stamps) next(pod string) (time.Time, error) {
	before, err := s.newest(pod)
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	if !now.After(before) { // the clock was set back
		now = before.Add(time.Nanosecond)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return time.Time{}, fmt.Errorf("make folder of stamps: %w", err)
	}
	if err := os.WriteFile(s.path(pod), strconv.AppendInt(nil, now.UnixNano(), 10), 0o600); err != nil {
		return time.Time{}, fmt.Errorf("stamp dump of pod %s: %w", pod, err)
	}
	return now, nil
}

// newest is the stamp of the dump that was begun last, zero where there is none. One that was cut off while it was written
// is none: its dump had not begun.
func (s stamps) newest(pod string) (time.Time, error) {
	text, err := os.ReadFile(s.path(pod))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read stamp of pod %s: %w", pod, err)
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return time.Time{}, nil
	}
	return time.Unix(0, nanoseconds), nil
}

// void has no generation count any more that there is or that may still land: whoever is thawed must be forgotten first.
func (s stamps) void(pod string) error {
	if _, err := s.next(pod); err == nil {
		return nil
	}
	if err := os.Remove(s.path(pod)); err != nil && !errors.Is(err, fs.ErrNotExist) { // needs no room on the disk
		return fmt.Errorf("void stamp of pod %s: %w", pod, err)
	}
	return nil
}

// clear removes all stamps: nothing is on hold.
func (s stamps) clear() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove old stamps: %w", err)
	}
	return nil
}
