package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	remap "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// An open file whose name is gone, but which has another one (a POSIX semaphore is such a file), is dumped by CRIU as a link
// link_remap.N that it makes beside it, and that a restore has to find among the container's files. CRIU takes the link
// away again where the tasks stay alive, as ours do. So it is made once more: it is there when the files are read, and
// gone before the container runs. Source: dump_linked_remap in criu/files-reg.c, cr_dump_finish in criu/cr-dump.c.
//
// An agent that is killed meanwhile leaves such links behind, its own or CRIU's. The program would see them, and CRIU could
// not dump it any more, for it does not take a link that is there already. So the folders in which there may be any are
// written down before a dump.

// linkNote are the folders, as the container names them, in which a dump may have left links.
type linkNote struct{ Folders []string }

// linkNotes are beside CRIU's configuration, which outlives the agent.
func (r *Runc) linkNote(id string) string {
	return filepath.Join(r.seen(filepath.Dir(r.ConfigFile)), "links", filepath.Base(id))
}

// noteLinks writes down where a dump of the frozen container id is going to make links.
func (r *Runc) noteLinks(id string, init int) error {
	var note linkNote
	err := eachNameless(init, func(_, name string, _ [2]uint64) error {
		if folder := filepath.Dir(name); !slices.Contains(note.Folders, folder) {
			note.Folders = append(note.Folders, folder)
		}
		return nil
	})
	if errors.Is(err, snapshot.ErrGone) {
		return nil // the dump will say so
	}
	if err != nil || len(note.Folders) == 0 {
		return err
	}
	path := r.linkNote(id)
	text, err := json.Marshal(note)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note links of a dump: %w", err)
	}
	return nil
}

// dropLinks takes the links of dumps of a container away. Those of one that has ended went with it.
func (r *Runc) dropLinks(ctx context.Context, id string) error {
	path := r.linkNote(id)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove links of a dump: %w", err)
	}
	var note linkNote
	// A note that was cut off while it was written is of a dump that had not begun.
	_ = json.Unmarshal(text, &note)
	state, err := r.state(ctx, id)
	if err == nil && len(note.Folders) > 0 {
		err = removeLinks(filepath.Join(proc, strconv.Itoa(state.PID), "root"), note.Folders)
	}
	if err != nil && !errors.Is(err, snapshot.ErrGone) {
		return fmt.Errorf("remove links of a dump: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove links of a dump: %w", err)
	}
	return nil
}

// linkName is what CRIU calls its links.
const linkName = "link_remap."

// removeLinks removes CRIU's links from folders below root. What the program has moved away or put a link in its place is not
// looked for.
func removeLinks(root string, folders []string) error {
	top, err := os.OpenRoot(root)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	defer top.Close()
	for _, name := range folders {
		folder, err := top.OpenRoot("." + name)
		if err != nil {
			continue
		}
		entries, err := fs.ReadDir(folder.FS(), ".")
		for _, e := range entries {
			number, ok := strings.CutPrefix(e.Name(), linkName)
			if _, fault := strconv.ParseUint(number, 10, 64); !ok || fault != nil {
				continue
			}
			if fault := folder.Remove(e.Name()); fault != nil && !errors.Is(fault, fs.ErrNotExist) {
				err = errors.Join(err, fault)
			}
		}
		if err := errors.Join(err, folder.Close()); err != nil {
			return err
		}
	}
	return nil
}

// restoreLinks makes the links that a dump's images name, for the frozen container of init.
func restoreLinks(images string, init int) error {
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
	}
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
	found, inodes := map[string]string{}, map[string][2]uint64{}
	err := eachNameless(init, func(file, name string, inode [2]uint64) error {
		if before, known := inodes[name]; known && before != inode {
			return fmt.Errorf("two open files had the name %s, which is gone: close one", name)
		}
		found[name], inodes[name] = file, inode
		return nil
	})
	return found, err
}

// eachNameless visits those files: link in proc, name that is gone, device and inode.
func eachNameless(init int, visit func(file, name string, inode [2]uint64) error) error {
	pids, err := memory.Processes(proc, init)
	if err != nil {
		return err
	}
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
				if err := visit(file, name, [2]uint64{st.Dev, st.Ino}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
