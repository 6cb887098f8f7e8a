// Package images reads what memory a folder of CRIU images holds, and compares two such folders page by page.
package images

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// PageSize is the size of a page in bytes.
const PageSize = 4096

const (
	mapPrefix, mapSuffix = "pagemap-", ".img"
	// present is PE_PRESENT of CRIU's pagemap.h: the page lies in the pages image beside the pagemap.
	present = 1 << 2
)

// Run is pages in a row.
type Run struct {
	Address uint64
	Pages   int64
}

// Space is the memory of one task, or one segment of shared memory.
type Space struct {
	// Task names it: "16" for pagemap-16.img, "shmem-7" for pagemap-shmem-7.img.
	Task string
	// File is the name of the image that holds the pages.
	File string
	// Runs are in the order of their pages in the image, addresses ascending.
	Runs []Run
	// Pages is the image's content, mapped: valid until the set is closed.
	Pages []byte
}

// Set is a folder of images.
type Set struct {
	Folder string
	Spaces []Space
	// Others are the names of the files that hold no pages.
	Others []string
}

// Open reads the pagemaps of a full dump, flat folder. The caller closes the set.
func Open(folder string) (_ *Set, err error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	s := &Set{Folder: folder}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	var pages []string
	for _, file := range files {
		name := file.Name()
		switch {
		case strings.HasPrefix(name, "pages-"):
			pages = append(pages, name)
			continue
		case strings.HasPrefix(name, mapPrefix):
			space, err := openSpace(folder, name)
			if err != nil {
				return s, err
			}
			s.Spaces = append(s.Spaces, space)
		}
		s.Others = append(s.Others, name)
	}
	for _, space := range s.Spaces {
		pages = slices.DeleteFunc(pages, func(name string) bool { return name == space.File })
	}
	if len(pages) > 0 {
		return s, fmt.Errorf("images in %s: no pagemap for %s", folder, strings.Join(pages, ", "))
	}
	return s, nil
}

// Close gives the mapped pages back.
func (s *Set) Close() error {
	var faults []error
	for i, space := range s.Spaces {
		if space.Pages != nil {
			faults = append(faults, unix.Munmap(space.Pages))
		}
		s.Spaces[i].Pages = nil
	}
	return errors.Join(faults...)
}

// PageBytes is how much memory the set holds.
func (s *Set) PageBytes() int64 {
	var sum int64
	for _, space := range s.Spaces {
		sum += int64(len(space.Pages))
	}
	return sum
}

func openSpace(folder, name string) (Space, error) {
	space := Space{Task: strings.TrimSuffix(strings.TrimPrefix(name, mapPrefix), mapSuffix)}
	if err := space.readMap(filepath.Join(folder, name)); err != nil {
		return space, fmt.Errorf("read %s: %w", name, err)
	}
	var want int64
	for _, run := range space.Runs {
		want += run.Pages * PageSize
	}
	pages, err := mapFile(filepath.Join(folder, space.File))
	if err != nil {
		return space, err
	}
	if int64(len(pages)) != want {
		return space, errors.Join(fmt.Errorf("%s has %d bytes, %s says %d", space.File, len(pages), name, want), unix.Munmap(pages))
	}
	space.Pages = pages
	return space, nil
}

func (s *Space) readMap(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	image, err := crit.New(f, nil, "", false, false).Decode(&pagemap.PagemapHead{})
	if err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	for _, entry := range image.Entries {
		switch message := entry.Message.(type) {
		case *pagemap.PagemapHead:
			s.File = fmt.Sprintf("pages-%d.img", message.GetPagesId())
		case *pagemap.PagemapEntry:
			if message.GetFlags()&present == 0 {
				return fmt.Errorf("pages at %#x are not in the images: want a full dump", message.GetVaddr())
			}
			s.Runs = append(s.Runs, Run{Address: message.GetVaddr(), Pages: pagesOf(message)})
		}
	}
	if s.File == "" {
		return errors.New("no head")
	}
	return nil
}

// wideCount is the field in which CRIU 4.2 counts pages in 64 bits. It leaves the one that go-criu v7 knows at 0.
const wideCount = 5

// pagesOf is how many pages an entry of a pagemap is for.
func pagesOf(entry *pagemap.PagemapEntry) int64 {
	for unknown := []byte(entry.ProtoReflect().GetUnknown()); len(unknown) > 0; {
		number, kind, tag := protowire.ConsumeTag(unknown)
		if tag < 0 {
			break
		}
		if number == wideCount && kind == protowire.VarintType {
			pages, _ := protowire.ConsumeVarint(unknown[tag:]) // decoded once already
			return int64(pages)
		}
		size := protowire.ConsumeFieldValue(number, kind, unknown[tag:])
		if size < 0 {
			break
		}
		unknown = unknown[tag+size:]
	}
	return int64(entry.GetNrPages())
}

// mapFile maps a file, which must not be empty.
func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pages: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open pages: %w", err)
	}
	pages, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return pages, nil
}

// Changed calls visit with every page of after that before has not, or has with another content, at the same task and
// address; in the order of after's images.
func Changed(before, after *Set, visit func(page []byte) error) error {
	old := map[string]Space{}
	for _, space := range before.Spaces {
		old[space.Task] = space
	}
	for _, space := range after.Spaces {
		was := walker{space: old[space.Task]}
		rest := space.Pages
		for _, run := range space.Runs {
			for at := run.Address; at < run.Address+uint64(run.Pages)*PageSize; at += PageSize {
				page := rest[:PageSize]
				rest = rest[PageSize:]
				if bytes.Equal(was.page(at), page) {
					continue
				}
				if err := visit(page); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// walker finds pages of a space at addresses that only ascend.
type walker struct {
	space  Space
	run    int
	offset int // of the run's pages
}

// page returns nil where the space has none.
func (w *walker) page(address uint64) []byte {
	for ; w.run < len(w.space.Runs); w.run++ {
		run := w.space.Runs[w.run]
		size := uint64(run.Pages) * PageSize
		if address < run.Address {
			return nil
		}
		if address-run.Address < size {
			at := w.offset + int(address-run.Address)
			return w.space.Pages[at : at+PageSize]
		}
		w.offset += int(size)
	}
	return nil
}
