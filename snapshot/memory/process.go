package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// tree is the processes of a container: what CRIU dumps, so without those that were brought in by exec.
type tree struct {
	proc  string
	pids  []int // init first, parents before their children
	space string
	depth int // of the container's PID namespace: which of the PIDs of a task is the one in it
}

// treeOf finds the processes of the tree of init. Those that come and go meanwhile may be missing.
func treeOf(proc string, init int) (*tree, error) {
	t := &tree{proc: proc}
	ids, err := t.nsPIDs(init)
	if err != nil {
		return nil, err
	}
	t.depth = len(ids) - 1
	if t.space, err = os.Readlink(t.path(init, "ns/pid")); err != nil {
		return nil, fmt.Errorf("read PID namespace: %w", err)
	}
	// CRIU needs these files as well (CONFIG_PROC_CHILDREN).
	if _, err := os.Stat(t.path(init, "task/"+strconv.Itoa(init)+"/children")); err != nil {
		return nil, fmt.Errorf("list children: %w", err)
	}
	t.pids = []int{init}
	for i := 0; i < len(t.pids); i++ {
		for _, child := range t.children(t.pids[i]) {
			if !slices.Contains(t.pids[i:], child) {
				t.pids = append(t.pids, child)
			}
		}
	}
	return t, nil
}

func (t *tree) path(pid int, name string) string {
	return filepath.Join(t.proc, strconv.Itoa(pid), name)
}

// children are those of all threads of pid; none where it has ended.
func (t *tree) children(pid int) []int {
	threads, err := os.ReadDir(t.path(pid, "task"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, thread := range threads {
		text, err := os.ReadFile(t.path(pid, "task/"+thread.Name()+"/children"))
		if err != nil {
			continue
		}
		for _, field := range bytes.Fields(text) {
			if child, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// nsPIDs are the PIDs of a process in its PID namespaces, the outermost first.
func (t *tree) nsPIDs(pid int) ([]string, error) {
	status, err := os.ReadFile(t.path(pid, "status"))
	if err != nil {
		return nil, fmt.Errorf("read status of process %d: %w", pid, orGone(err))
	}
	_, rest, found := strings.Cut(string(status), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	if ids := strings.Fields(line); found && len(ids) > 0 {
		return ids, nil
	}
	return nil, fmt.Errorf("read status of process %d: it names no PID", pid)
}

// process is one of the tree. As long as it is alive, what was opened and read under its PID was its own.
type process struct {
	tree  *tree
	pid   int
	pidfd int
	task  string
	// maps and pages are its areas and page table, mem its memory for what process_vm_readv may not read.
	maps, pages, mem *os.File
}

// open makes sure that pid still is of this container, and holds on to it.
func (t *tree) open(pid int) (*process, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, orGone(err))
	}
	p := &process{tree: t, pid: pid, pidfd: pidfd}
	if err := p.identify(); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *process) identify() error {
	ids, err := p.tree.nsPIDs(p.pid)
	if err != nil {
		return err
	}
	space, err := os.Readlink(p.tree.path(p.pid, "ns/pid"))
	if err != nil {
		return fmt.Errorf("read PID namespace: %w", orGone(err))
	}
	if space != p.tree.space || len(ids) <= p.tree.depth || !p.alive() {
		return fmt.Errorf("process %d is another one: %w", p.pid, fs.ErrNotExist)
	}
	p.task = "mem/" + ids[p.tree.depth]
	return nil
}

// openMemory opens what memory is read by. The files stay with the address space that the process has now.
func (p *process) openMemory() error {
	for name, file := range map[string]**os.File{"maps": &p.maps, "pagemap": &p.pages, "mem": &p.mem} {
		f, err := os.Open(p.tree.path(p.pid, name))
		if err != nil {
			return fmt.Errorf("open memory of process %d: %w", p.pid, orGone(err))
		}
		*file = f
	}
	if !p.alive() {
		return fmt.Errorf("process %d has ended: %w", p.pid, fs.ErrNotExist)
	}
	return nil
}

// alive says whether the PID is still that of the process that was opened, so that whatever was read under it before is
// its own. One that ended and was not yet waited for keeps its PID.
func (p *process) alive() bool {
	err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

func (p *process) close() error {
	err := unix.Close(p.pidfd)
	for _, f := range []*os.File{p.maps, p.pages, p.mem} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// orGone turns what the kernel says of a process that ends into fs.ErrNotExist.
func orGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// task reads the private memory of one process.
func (w *worker) task(ctx context.Context, t *tree, pid int, f *Filter, pass pass) error {
	p, err := t.open(pid)
	if err != nil {
		w.gone(err)
		return nil
	}
	defer p.close()
	if err := p.openMemory(); err != nil {
		w.gone(err)
		return nil
	}
	some, end := false, uint64(0)
	look, before := &look{Filter: f, pass: pass, task: f.taskOf(p)}, w.stats.PagesRead
	for a := range areasOf(p.maps) {
		some = true
		// Areas that grew meanwhile begin before the end of the last one.
		a.start = max(a.start, end)
		if !a.private || a.ofKernel() || a.start >= a.end {
			continue
		}
		end = a.end
		w.stats.Areas++
		if err := w.area(ctx, p, a, look.at(a)); err != nil {
			return err
		}
		if err := w.pause(ctx); err != nil {
			return err
		}
	}
	if some {
		w.stats.Tasks++
	}
	if pass == passDirty && look.task == nil {
		f.note(passed{read: w.stats.PagesRead - before}) // a round that clears the bits would learn them
	}
	return nil
}

// Processes lists the tree of init, as PIDs in proc: init first, parents before their children. Those that come and go
// meanwhile may be missing. The error is snapshot.ErrGone where there is no init.
func Processes(proc string, init int) ([]int, error) {
	t, err := treeOf(proc, init)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, snapshot.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("list processes of the container of process %d: %w", init, err)
	}
	return t.pids, nil
}
