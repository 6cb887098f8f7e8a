package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	remap "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// links are the names that were given to files of frozen containers for the time until they are thawed.
//
// An open file whose name is gone, but which has another one (a POSIX semaphore is such a file), is dumped by CRIU as a link
// link_remap.N that it makes beside it, and that a restore has to find among the container's files. CRIU takes the link
// away again where the tasks stay alive, as ours do. So it is made once more: it is there when the files are read, and
// gone before the container runs. Source: dump_linked_remap in criu/files-reg.c, cr_dump_finish in criu/cr-dump.c.
type links struct {
	mu   sync.Mutex
	made map[string][]string // by container
}

// restore makes the links that a dump's images name, for the frozen container id.
func (l *links) restore(images, id string, init int) error {
	wanted, err := wantedLinks(images)
	if err != nil || len(wanted) == 0 {
		return err
	}
	open, err := nameless(init)
	if err != nil {
		return err
	}
	for link, name := range wanted {
		file := open[name]
		if file == "" {
			return fmt.Errorf("link %s: no task has the file %s open alone by that name any more", link, name)
		}
		to := filepath.Join(proc, strconv.Itoa(init), "root", link)
		if err := unix.Linkat(unix.AT_FDCWD, file, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW); err != nil {
			return fmt.Errorf("link open file %s to %s: %w", name, link, err)
		}
		l.mu.Lock()
		if l.made == nil {
			l.made = map[string][]string{}
		}
		l.made[id] = append(l.made[id], to)
		l.mu.Unlock()
	}
	return nil
}

// drop takes the links of a container away. Those of one that has ended went with it.
func (l *links) drop(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.made[id]) > 0 {
		if err := os.Remove(l.made[id][0]); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove link of a dump: %w", err)
		}
		l.made[id] = l.made[id][1:]
	}
	delete(l.made, id)
	return nil
}

// wantedLinks are the links that images name, each with the name that the file had.
func wantedLinks(images string) (map[string]string, error) {
	path := filepath.Join(images, "remap-fpath.img")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	remaps, err := decode(path, &remap.RemapFilePathEntry{})
	if err != nil {
		return nil, fmt.Errorf("look for links of a dump: %w", err)
	}
	files, err := decode(filepath.Join(images, "files.img"), &fdinfo.FileEntry{})
	if err != nil {
		return nil, fmt.Errorf("look for links of a dump: %w", err)
	}
	names := map[uint32]string{}
	for _, e := range files {
		if file, ok := e.Message.(*fdinfo.FileEntry); ok && file.GetReg() != nil {
			names[file.GetId()] = file.GetReg().GetName()
		}
	}
	wanted := map[string]string{}
	for _, e := range remaps {
		if r, ok := e.Message.(*remap.RemapFilePathEntry); ok && r.GetRemapType() == remap.RemapType_LINKED {
			wanted[names[r.GetRemapId()]] = names[r.GetOrigId()]
		}
	}
	return wanted, nil
}

const deleted = " (deleted)"

// nameless are the files that tasks have open or mapped, by the name that is gone, where they have another one: by links in
// proc that lead to them. It fails where two files had the same name, for CRIU's images do not tell them apart.
func nameless(init int) (map[string]string, error) {
	pids, err := memory.Processes(proc, init)
	if err != nil {
		return nil, err
	}
	found, inodes := map[string]string{}, map[string][2]uint64{}
	for _, pid := range pids {
		for _, kind := range []string{"fd", "map_files"} {
			folder := filepath.Join(proc, strconv.Itoa(pid), kind)
			entries, err := os.ReadDir(folder)
			if err != nil {
				continue // a zombie has none
			}
			for _, entry := range entries {
				file := filepath.Join(folder, entry.Name())
				target, err := os.Readlink(file)
				name, gone := strings.CutSuffix(target, deleted)
				var st unix.Stat_t
				if err != nil || !gone || unix.Stat(file, &st) != nil || st.Nlink == 0 {
					continue
				}
				inode := [2]uint64{st.Dev, st.Ino}
				if before, known := inodes[name]; known && before != inode {
					return nil, fmt.Errorf("two open files had the name %s, which is gone: close one", name)
				}
				found[name], inodes[name] = file, inode
			}
		}
	}
	return found, nil
}
