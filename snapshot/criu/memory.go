package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

// Flags of an entry in a pagemap. Source: PE_* in criu/include/image.h. (PE_LAZY beside PE_PRESENT says nothing here.)
const (
	flagParent  = 1 << 0
	flagPresent = 1 << 2
)

// fieldPages is the field of an entry that holds its number of pages since CRIU 4.2; nr_pages, which go-criu knows, is 0
// then. Source: images/pagemap.proto.
const fieldPages = 5

// errNotUnderstood: the pages can be restored, but not told apart by us.
var errNotUnderstood = errors.New("not a pagemap that is understood")

// memoryOf says what memory the page images in dir hold: pagemap-PID.img of a process, pagemap-shmem-ID.img of memory
// that processes share, each of which names its pages-N.img. Images that are not understood are left out. It is an error
// if pages are missing, which a full dump has all of.
//
// CRIU's IDs of shared memory are inode numbers, which change with every restore, so their order names them instead.
func memoryOf(dir string) ([]snapshot.Memory, error) {
	var all []snapshot.Memory
	claims := map[string]int{}
	for _, kind := range []struct{ prefix, task string }{{"pagemap-", "mem/"}, {"pagemap-shmem-", "shm/"}} {
		ids, err := imageIDs(dir, kind.prefix)
		if err != nil {
			return nil, err
		}
		for rank, id := range ids {
			task := kind.task + strconv.FormatUint(id, 10)
			if kind.task == "shm/" {
				task = kind.task + strconv.Itoa(rank)
			}
			pages, runs, err := readPagemap(filepath.Join(dir, fmt.Sprintf("%s%d.img", kind.prefix, id)))
			if errors.Is(err, errNotUnderstood) {
				continue
			}
			if err != nil {
				return nil, err
			}
			all = append(all, snapshot.Memory{Image: pages, Task: task, Runs: runs})
			claims[pages]++
		}
	}
	return slices.DeleteFunc(all, func(m snapshot.Memory) bool { return claims[m.Image] > 1 || !addsUp(dir, m) }), nil
}

// imageIDs returns the numbers of the images whose names begin with prefix, in ascending order.
func imageIDs(dir, prefix string) ([]uint64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list CRIU images: %w", err)
	}
	var ids []uint64
	for _, file := range files {
		text, found := strings.CutPrefix(strings.TrimSuffix(file.Name(), ".img"), prefix)
		if id, err := strconv.ParseUint(text, 10, 64); found && err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// addsUp says whether m has as many pages as its image.
func addsUp(dir string, m snapshot.Memory) bool {
	var pages int64
	for _, run := range m.Runs {
		pages += run.Pages
	}
	info, err := os.Stat(filepath.Join(dir, m.Image))
	return err == nil && pages > 0 && info.Size() == pages*store.BlockSize
}

// readPagemap returns the name of the image that has the pages, and where in memory they are.
func readPagemap(path string) (string, []store.Run, error) {
	entries, err := decode(path, &pagemap.PagemapEntry{})
	if err != nil {
		return "", nil, errors.Join(errNotUnderstood, err)
	}
	head, ok := entries[0].Message.(*pagemap.PagemapHead)
	if !ok {
		return "", nil, errNotUnderstood
	}
	var runs []store.Run
	for _, e := range entries[1:] {
		entry, ok := e.Message.(*pagemap.PagemapEntry)
		if !ok {
			return "", nil, errNotUnderstood
		}
		if entry.GetInParent() || entry.Flags != nil && entry.GetFlags()&(flagParent|flagPresent) != flagPresent {
			return "", nil, fmt.Errorf("read CRIU image %s: the pages at %#x are not in this dump (flags %#x), want a full one",
				filepath.Base(path), entry.GetVaddr(), entry.GetFlags())
		}
		if runs, ok = appendRun(runs, entry.GetVaddr(), pagesOf(entry)); !ok {
			return "", nil, errNotUnderstood
		}
	}
	return fmt.Sprintf("pages-%d.img", head.GetPagesId()), runs, nil
}

// decode reads all entries of a CRIU image, of which there is one at least.
func decode(path string, message proto.Message) ([]*crit.CriuEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	image, err := crit.New(f, nil, "", false, true).Decode(message)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	if len(image.Entries) == 0 {
		return nil, fmt.Errorf("decode %s: it is empty", path)
	}
	return image.Entries, nil
}

// pagesOf is how many pages of the machine the entry is about.
func pagesOf(entry *pagemap.PagemapEntry) uint64 {
	for left := []byte(entry.ProtoReflect().GetUnknown()); len(left) > 0; {
		field, kind, n := protowire.ConsumeTag(left)
		if n < 0 {
			break
		}
		if field == fieldPages && kind == protowire.VarintType {
			pages, _ := protowire.ConsumeVarint(left[n:])
			return pages
		}
		size := protowire.ConsumeFieldValue(field, kind, left[n:])
		if size < 0 {
			break
		}
		left = left[n+size:]
	}
	return uint64(entry.GetNrPages())
}

// maxPages is more than an address space holds.
const maxPages = 1 << 52

// appendRun appends pages at address to runs, which they must come after.
func appendRun(runs []store.Run, address, pages uint64) ([]store.Run, bool) {
	pages *= uint64(os.Getpagesize() / store.BlockSize)
	if pages == 0 || pages > maxPages || address%store.BlockSize != 0 {
		return nil, false
	}
	if last := len(runs) - 1; last >= 0 {
		end := runs[last].Address + uint64(runs[last].Pages)*store.BlockSize
		if address < end {
			return nil, false
		}
		if address == end {
			runs[last].Pages += int64(pages)
			return runs, true
		}
	}
	return append(runs, store.Run{Address: address, Pages: int64(pages)}), true
}
