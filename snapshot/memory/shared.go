package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// object is memory that processes share. One of those that have it is remembered, and how it has it.
type object struct {
	device, inode uint64
	pid           int
	link          string // below /proc/PID: map_files/… or fd/…
}

// objects finds the shared memory that the tree maps or has open, in the order of inode numbers. Source of the order:
// CRIU names its images of shared memory by inode number, those of System V by the segment's ID, which is its inode number.
func (t *tree) objects(ctx context.Context, w *worker) ([]object, error) {
	type key struct{ device, inode uint64 }
	found := map[key]object{}
	for _, pid := range t.pids {
		for _, o := range t.objectsOf(pid) {
			if _, known := found[key{o.device, o.inode}]; !known {
				found[key{o.device, o.inode}] = o
			}
		}
		if err := w.pause(ctx); err != nil {
			return nil, err
		}
	}
	var all []object
	for _, o := range found {
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.inode, b.inode), cmp.Compare(a.device, b.device))
	})
	return all, nil
}

// objectsOf finds those of one process; none where it has ended or may not be asked, which reading it counts.
func (t *tree) objectsOf(pid int) []object {
	var all []object
	maps, err := os.Open(t.path(pid, "maps"))
	if err != nil {
		return nil
	}
	defer maps.Close()
	for a := range areasOf(maps) {
		if device, ok := parseDevice(a.device); ok && a.sharedMemory() {
			link := fmt.Sprintf("map_files/%x-%x", a.start, a.end)
			all = append(all, object{device: device, inode: a.inode, pid: pid, link: link})
		}
	}
	files, err := os.ReadDir(t.path(pid, "fd"))
	if err != nil {
		return all
	}
	for _, file := range files {
		link := "fd/" + file.Name()
		target, err := os.Readlink(t.path(pid, link))
		if err != nil || !strings.HasPrefix(target, memfdPrefix) {
			continue
		}
		var stat unix.Stat_t
		if unix.Stat(t.path(pid, link), &stat) == nil {
			all = append(all, object{device: stat.Dev, inode: stat.Ino, pid: pid, link: link})
		}
	}
	return all
}

// parseDevice parses the device of a line of maps, MAJOR:MINOR in hexadecimal.
func parseDevice(text string) (uint64, bool) {
	major, minor, _ := strings.Cut(text, ":")
	a, err1 := strconv.ParseUint(major, 16, 32)
	b, err2 := strconv.ParseUint(minor, 16, 32)
	return unix.Mkdev(uint32(a), uint32(b)), err1 == nil && err2 == nil
}

// object reads what o has pages for, straight from the object: it need not be mapped to be read, and holes stay holes.
func (w *worker) object(ctx context.Context, t *tree, rank int, o object) error {
	f, err := t.openObject(o)
	if err != nil {
		w.gone(err)
		return nil
	}
	defer f.Close()
	task := "shm/" + strconv.Itoa(rank)
	for at := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err != nil {
			return nil // no more data
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil || end <= start {
			return nil
		}
		at = end
		for start < end {
			n, err := f.ReadAt(w.buf[:min(end-start, bufferSize)], start)
			if n == 0 || err != nil && !errors.Is(err, io.EOF) {
				w.stats.Vanished++
				return nil
			}
			whole := (n + pageSize - 1) / pageSize * pageSize
			clear(w.buf[n:whole])
			if err := w.deliver(ctx, task, uint64(start), w.buf[:whole]); err != nil {
				return err
			}
			start += int64(whole)
			if err := w.pause(ctx); err != nil {
				return err
			}
		}
	}
}

// openObject opens o for reading, where its process still has it. What the link leads to is looked at before it is opened,
// for the opening of a pipe or a device would do something.
func (t *tree) openObject(o object) (*os.File, error) {
	p, err := t.open(o.pid)
	if err != nil {
		return nil, err
	}
	defer p.close()
	handle, err := unix.Open(t.path(o.pid, o.link), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s of process %d: %w", o.link, o.pid, err)
	}
	defer unix.Close(handle)
	var stat unix.Stat_t
	if err := unix.Fstat(handle, &stat); err != nil {
		return nil, fmt.Errorf("look at %s of process %d: %w", o.link, o.pid, err)
	}
	if stat.Dev != o.device || stat.Ino != o.inode || stat.Mode&unix.S_IFMT != unix.S_IFREG || !p.alive() {
		return nil, fmt.Errorf("%s of process %d is another one: %w", o.link, o.pid, fs.ErrNotExist)
	}
	return os.Open(filepath.Join("/proc/self/fd", strconv.Itoa(handle)))
}
