package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stamps are files that say which final dump of a container is the newest that was begun, by a moment that its generation
// has as Meta.Created. A generation of an older dump may land in the bucket after its target was thawed: its stamp tells
// it from the one that an evacuation may record. A stamp is an identity: nobody asks which of two is later.
type stamps struct{ dir string }

// stamps stand beside the holds, and outlive them: the next one must differ.
func (e *Evacuator) stamps() stamps { return stamps{e.options.Holds.Dir + "-dump"} }

func (s stamps) path(id string) string { return filepath.Join(s.dir, filepath.Base(id)) }

// next begins a dump: no generation that was committed before has its stamp.
func (s stamps) next(id string) (time.Time, error) {
	before, err := s.newest(id)
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
	if err := os.WriteFile(s.path(id), strconv.AppendInt(nil, now.UnixNano(), 10), 0o600); err != nil {
		return time.Time{}, fmt.Errorf("stamp dump of container %s: %w", id, err)
	}
	return now, nil
}

// newest is the stamp of the dump that was begun last, zero where there is none. One that was cut off while it was written
// is none: its dump had not begun.
func (s stamps) newest(id string) (time.Time, error) {
	text, err := os.ReadFile(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read stamp of container %s: %w", id, err)
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return time.Time{}, nil
	}
	return time.Unix(0, nanoseconds), nil
}

// keep removes all stamps but those of ids.
func (s stamps) keep(ids []string) error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list stamps: %w", err)
	}
	for _, e := range entries {
		if slices.Contains(ids, e.Name()) {
			continue
		}
		if err := os.Remove(s.path(e.Name())); err != nil {
			return fmt.Errorf("remove old stamp: %w", err)
		}
	}
	return nil
}
