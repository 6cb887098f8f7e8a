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

// pageMap is a pagemap of a dump whose images may lack pages.
type pageMap struct {
	path            string
	memory          snapshot.Memory // all pages, the absent ones included
	absent, present []store.Run
	entries         []*crit.CriuEntry
}

// pageMaps reads all pagemaps in dir, whose absent pages are those with the flag absent: flagLazy in a lazy dump,
// flagParent in one that builds on another. It is an error if one is not understood, or if pages are missing otherwise.
func pageMaps(dir string, absent uint32) ([]pageMap, error) {
	var all []pageMap
	claimed := map[string]bool{}
	for _, kind := range []struct{ prefix, task string }{{"pagemap-", "mem/"}, {"pagemap-shmem-", "shm/"}} {
		ids, err := imageIDs(dir, kind.prefix)
		if err != nil {
			return nil, err
		}
		for rank, id := range ids {
			m, err := readPageMap(filepath.Join(dir, fmt.Sprintf("%s%d.img", kind.prefix, id)), absent)
			if err != nil {
				return nil, err
			}
			m.memory.Task = kind.task + strconv.FormatUint(id, 10)
			if kind.task == "shm/" {
				m.memory.Task = kind.task + strconv.Itoa(rank)
				if len(m.absent) > 0 {
					return nil, fmt.Errorf("%s lacks pages of shared memory: %w", filepath.Base(m.path), errNotUnderstood)
				}
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

func readPageMap(path string, absent uint32) (pageMap, error) {
	name := filepath.Base(path)
	entries, err := decode(path, &pagemap.PagemapEntry{})
	if err != nil {
		return pageMap{}, errors.Join(errNotUnderstood, err)
	}
	head, ok := entries[0].Message.(*pagemap.PagemapHead)
	if !ok {
		return pageMap{}, fmt.Errorf("read CRIU image %s: no head: %w", name, errNotUnderstood)
	}
	m := pageMap{path: path, entries: entries}
	m.memory.Image = fmt.Sprintf("pages-%d.img", head.GetPagesId())
	for _, e := range entries[1:] {
		entry, ok := e.Message.(*pagemap.PagemapEntry)
		if !ok {
			return pageMap{}, fmt.Errorf("read CRIU image %s: no pagemap entry: %w", name, errNotUnderstood)
		}
		part := &m.present
		switch flags := flagsOf(entry); {
		case flags&^flagLazy == flagPresent: // flagLazy says nothing beside it
		case flags == absent:
			part = &m.absent
		default:
			return pageMap{}, fmt.Errorf("read CRIU image %s: the pages at %#x are not in this dump (flags %#x): %w",
				name, entry.GetVaddr(), flags, errNotUnderstood)
		}
		address, pages := entry.GetVaddr(), pagesOf(entry)
		var together, apart bool
		m.memory.Runs, together = appendRun(m.memory.Runs, address, pages)
		*part, apart = appendRun(*part, address, pages)
		if !together || !apart {
			return pageMap{}, fmt.Errorf("read CRIU image %s: the pages at %#x are out of order: %w", name, address, errNotUnderstood)
		}
	}
	return m, nil
}

// flagsOf are the flags of an entry, also of one from before there were any.
func flagsOf(entry *pagemap.PagemapEntry) uint32 {
	flags := entry.GetFlags()
	switch {
	case entry.GetInParent():
		flags |= flagParent
	case entry.Flags == nil:
		flags = flagPresent
	}
	return flags
}

// fits holds that the image has the pages that are present, neither more nor fewer.
func (m pageMap) fits(dir string) error {
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
func (m pageMap) flatten() error {
	if len(m.absent) == 0 {
		return nil
	}
	for _, e := range m.entries[1:] {
		if entry, ok := e.Message.(*pagemap.PagemapEntry); ok {
			entry.Flags, entry.InParent = proto.Uint32(flagsOf(entry)&^(flagLazy|flagParent)|flagPresent), nil
		}
	}
	return replaceImage(m.path, &crit.CriuImage{Magic: "PAGEMAP", Entries: m.entries})
}
