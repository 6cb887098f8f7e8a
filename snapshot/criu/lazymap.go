package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

// flagLazy without flagPresent: the page is still where it was, and no image has it. Source: PE_LAZY as above.
const flagLazy = 1 << 1

// lazyMap is a pagemap of a dump of which pages may be lazy.
type lazyMap struct {
	path          string
	memory        snapshot.Memory // all pages, the lazy ones included
	lazy, present []store.Run
	entries       []*crit.CriuEntry
}

// lazyMaps reads all pagemaps in dir. It is an error if one is not understood, or names pages of another dump.
func lazyMaps(dir string) ([]lazyMap, error) {
	var all []lazyMap
	claimed := map[string]bool{}
	for _, kind := range []struct{ prefix, task string }{{"pagemap-", "mem/"}, {"pagemap-shmem-", "shm/"}} {
		ids, err := imageIDs(dir, kind.prefix)
		if err != nil {
			return nil, err
		}
		for rank, id := range ids {
			m, err := readLazyMap(filepath.Join(dir, fmt.Sprintf("%s%d.img", kind.prefix, id)))
			if err != nil {
				return nil, err
			}
			m.memory.Task = kind.task + strconv.FormatUint(id, 10)
			if kind.task == "shm/" {
				m.memory.Task = kind.task + strconv.Itoa(rank)
			}
			if claimed[m.memory.Image] {
				return nil, fmt.Errorf("two pagemaps name %s: %w", m.memory.Image, errNotUnderstood)
			}
			claimed[m.memory.Image] = true
			if err := m.fits(dir); err != nil {
				return nil, err
			}
			all = append(all, m)
		}
	}
	return all, nil
}

func readLazyMap(path string) (lazyMap, error) {
	name := filepath.Base(path)
	entries, err := decode(path, &pagemap.PagemapEntry{})
	if err != nil {
		return lazyMap{}, errors.Join(errNotUnderstood, err)
	}
	head, ok := entries[0].Message.(*pagemap.PagemapHead)
	if !ok {
		return lazyMap{}, fmt.Errorf("read CRIU image %s: no head: %w", name, errNotUnderstood)
	}
	m := lazyMap{path: path, entries: entries}
	m.memory.Image = fmt.Sprintf("pages-%d.img", head.GetPagesId())
	for _, e := range entries[1:] {
		entry, ok := e.Message.(*pagemap.PagemapEntry)
		if !ok {
			return lazyMap{}, fmt.Errorf("read CRIU image %s: no pagemap entry: %w", name, errNotUnderstood)
		}
		part := &m.present
		switch {
		case entry.GetInParent() || entry.GetFlags()&flagParent != 0 || entry.GetFlags()&(flagPresent|flagLazy) == 0:
			return lazyMap{}, fmt.Errorf("read CRIU image %s: the pages at %#x are not in this dump (flags %#x): %w",
				name, entry.GetVaddr(), entry.GetFlags(), errNotUnderstood)
		case entry.GetFlags()&flagPresent == 0:
			part = &m.lazy
		}
		address, pages := entry.GetVaddr(), pagesOf(entry)
		var together, apart bool
		m.memory.Runs, together = appendRun(m.memory.Runs, address, pages)
		*part, apart = appendRun(*part, address, pages)
		if !together || !apart {
			return lazyMap{}, fmt.Errorf("read CRIU image %s: the pages at %#x are out of order: %w", name, address, errNotUnderstood)
		}
	}
	return m, nil
}

// fits holds that the image has the pages that are present, neither more nor fewer.
func (m lazyMap) fits(dir string) error {
	info, err := os.Stat(filepath.Join(dir, m.memory.Image))
	switch {
	case errors.Is(err, os.ErrNotExist) && len(m.present) == 0:
		return nil
	case err != nil:
		return fmt.Errorf("look at CRIU image: %w", err)
	case info.Size() != bytesOf(m.present):
		return fmt.Errorf("%s has %d bytes, its pagemap names %d: %w", m.memory.Image, info.Size(), bytesOf(m.present), errNotUnderstood)
	}
	return nil
}

func bytesOf(runs []store.Run) int64 {
	var pages int64
	for _, run := range runs {
		pages += run.Pages
	}
	return pages * store.BlockSize
}

// flatten rewrites the pagemap as that of a full dump: every page present, all else as it was.
func (m lazyMap) flatten() (err error) {
	if len(m.lazy) == 0 {
		return nil
	}
	for _, e := range m.entries[1:] {
		if entry, ok := e.Message.(*pagemap.PagemapEntry); ok {
			entry.Flags = proto.Uint32(entry.GetFlags()&^flagLazy | flagPresent)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(m.path), "flat-")
	if err != nil {
		return fmt.Errorf("rewrite pagemap: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	image := &crit.CriuImage{Magic: "PAGEMAP", Entries: m.entries}
	if err := errors.Join(crit.New(nil, f, "", false, false).Encode(image), f.Close()); err != nil {
		return fmt.Errorf("rewrite pagemap %s: %w", filepath.Base(m.path), err)
	}
	if err := os.Rename(f.Name(), m.path); err != nil {
		return fmt.Errorf("rewrite pagemap: %w", err)
	}
	return nil
}
