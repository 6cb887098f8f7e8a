package eligible

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// CRIU dumps each container of a pod by itself. With a Unix socket whose other end is in another container it refuses
// (criu/sk-unix.c, "External socket is used"). The rest it dumps without a word, and a restore is not what it was: what waits
// in a FIFO is there twice, a file without a name is two files. Objects of System V are in the pod's IPC namespace, which is
// dumped with each of its containers, and the second restore fails for it ("File exists", criu/ipc_ns.c).

// Together returns what the containers of a pod hold together, so that dumps of each by itself do not do. That is nothing
// where there is one. Its error is snapshot.ErrGone where a container has ended.
func (l Looker) Together(pod []snapshot.Container) ([]obstacle.Obstacle, error) {
	if len(pod) < 2 {
		return nil, nil
	}
	all := make([]holdings, len(pod))
	for i, c := range pod {
		var err error
		if all[i], err = l.holdingsOf(c); err != nil {
			return nil, err
		}
	}
	var peers map[uint32]uint32
	var objects []string
	err := inNamespacesOf(l.Proc, pod[0].PID, func() (err error) {
		if peers, err = unixPeers(); err == nil {
			objects, err = systemV(l.Proc)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at what containers of pod %s share: %w", pod[0].PodUID, err)
	}
	found := findings{}
	for i, its := range all {
		for j, others := range all {
			if i != j {
				its.meet(others, peers, found)
			}
		}
	}
	for _, kind := range objects {
		found.add(v1alpha1.ReasonSystemVIPC, kind, "")
	}
	return found.obstacles(), nil
}

// Refuse is an error that names what Together finds, nil where that is nothing.
func (l Looker) Refuse(pod []snapshot.Container) error {
	found, err := l.Together(pod)
	if err == nil && len(found) > 0 {
		err = errors.New(obstacle.Text(found))
	}
	return err
}

// holding is something that a program has open: its end of it.
type holding struct{ program, what string }

// holdings are those of one container of which another one may have the same or the other end, by a name of it.
type holdings map[string]holding

// meet notes what others hold as well, and sockets whose other end is theirs.
func (its holdings) meet(others holdings, peers map[uint32]uint32, found findings) {
	for name, h := range its {
		_, shared := others[name]
		if inode, ok := socketInode(name); ok && !shared {
			peer := "socket:[" + strconv.FormatUint(uint64(peers[inode]), 10) + "]"
			_, theirs := others[peer]
			_, own := its[peer]
			shared = theirs && !own
			if shared {
				found.add(v1alpha1.ReasonContainersConnected, others[peer].program, others[peer].what)
			}
		}
		if shared {
			found.add(v1alpha1.ReasonContainersConnected, h.program, h.what)
		}
	}
}

func socketInode(name string) (uint32, bool) {
	text, ok := strings.CutPrefix(name, "socket:[")
	inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32)
	return uint32(inode), ok && err == nil
}

func (l Looker) holdingsOf(c snapshot.Container) (holdings, error) {
	pids, err := memory.Processes(l.Proc, c.PID)
	if err != nil {
		return nil, err
	}
	its := holdings{}
	for _, pid := range pids {
		folder := filepath.Join(l.Proc, strconv.Itoa(pid))
		program, err := os.ReadFile(filepath.Join(folder, "comm"))
		if err == nil {
			err = its.of(folder, strings.TrimSpace(string(program))+" in "+c.Name)
		}
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
	}
	return its, nil
}

// of adds what a process has open, or maps.
func (its holdings) of(folder, program string) error {
	return errors.Join(its.open(folder, program), its.mapped(folder, program))
}

func (its holdings) open(folder, program string) error {
	fds, err := os.ReadDir(filepath.Join(folder, "fd"))
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, fd := range fds {
		file := filepath.Join(folder, "fd", fd.Name())
		link, err := os.Readlink(file)
		if err != nil {
			continue // closed meanwhile
		}
		var st unix.Stat_t
		switch {
		case strings.HasPrefix(link, "socket:["):
			its[link] = holding{program, "socket"}
		case strings.HasPrefix(link, "anon_inode:"):
		case unix.Stat(file, &st) != nil:
		case st.Mode&unix.S_IFMT == unix.S_IFIFO:
			its[fmt.Sprint("pipe ", st.Dev, st.Ino)] = holding{program, link}
		default:
			its.nameless(&st, program, link)
		}
	}
	return nil
}

const deleted = " (deleted)"

// nameless adds a file without a name, of whichever file system. The memory of a memfd is one, and so is what processes share that
// no file stands behind: CRIU dumps both with each container as well.
func (its holdings) nameless(st *unix.Stat_t, program, name string) {
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 0 {
		its[fmt.Sprint("file ", st.Dev, st.Ino)] = holding{program, strings.TrimSuffix(name, deleted)}
	}
}

// mapped adds the files without a name that a process maps shared, for which it needs no descriptor. Shared memory of System V is
// found by its objects.
func (its holdings) mapped(folder, program string) error {
	wanted := func(name string) bool { return strings.HasSuffix(name, deleted) && !strings.HasPrefix(name, "/SYSV") }
	return memory.EachShared(folder, wanted, func(name string, st *unix.Stat_t) { its.nameless(st, program, name) })
}

// inNamespacesOf calls do on a thread in the network and IPC namespaces of a process, which ends with it.
func inNamespacesOf(proc string, pid int, do func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: no other goroutine may have the thread.
		runtime.LockOSThread()
		done <- func() error {
			for name, kind := range map[string]int{"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC} {
				f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "ns", name))
				if gone(err) {
					return snapshot.ErrGone
				}
				if err != nil {
					return err
				}
				err = unix.Setns(int(f.Fd()), kind)
				if err := errors.Join(err, f.Close()); err != nil {
					return fmt.Errorf("enter %s namespace: %w", name, err)
				}
			}
			return do()
		}()
	}()
	return <-done
}

// unixPeers are the other ends of connected Unix sockets of this thread's network namespace, by inode numbers.
func unixPeers() (map[uint32]uint32, error) {
	all, err := netlink.UnixSocketDiagInfo()
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // a kernel without unix_diag, on which CRIU dumps nothing
	}
	if err != nil {
		return nil, fmt.Errorf("list Unix sockets: %w", err)
	}
	peers := map[uint32]uint32{}
	for _, s := range all {
		if s.Peer != nil {
			peers[s.DiagMsg.INode] = *s.Peer
		}
	}
	return peers, nil
}

// systemV names the kinds of objects that there are in this thread's IPC namespace.
func systemV(proc string) ([]string, error) {
	var kinds []string
	for _, kind := range []struct{ file, name string }{{"shm", "shared memory"}, {"sem", "semaphores"}, {"msg", "message queues"}} {
		text, err := os.ReadFile(filepath.Join(proc, "sysvipc", kind.file))
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.name, err)
		}
		if strings.Count(string(text), "\n") > 1 { // beside the heading
			kinds = append(kinds, kind.name)
		}
	}
	return kinds, nil
}
