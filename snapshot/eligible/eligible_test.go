package eligible

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/files"
)

const holdVariable = "LIFEBOAT_TEST_HOLD"

// TestMain runs, where it is asked for, a process that holds something open until its input ends.
func TestMain(m *testing.M) {
	what := os.Getenv(holdVariable)
	if what == "" {
		os.Exit(m.Run())
	}
	for name := range strings.SplitSeq(what, ",") {
		if err := holds[name](); err != nil {
			fmt.Println("cannot hold", name, err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func opened(fd uintptr, _ uintptr, errno syscall.Errno) error {
	if int(fd) < 0 || errno != 0 {
		return errno
	}
	return nil
}

func openSocket(family, kind, protocol int) func() error {
	return func() error {
		_, err := unix.Socket(family, kind, protocol)
		return err
	}
}

func openPath(path string) func() error {
	return func() error {
		_, err := unix.Open(path, unix.O_RDONLY, 0)
		return err
	}
}

// holds are what a process may have open, by name.
var holds = map[string]func() error{
	"io_uring": func() error {
		var params [120]byte // struct io_uring_params of linux/io_uring.h
		return opened(unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0))
	},
	"userfaultfd": func() error { return opened(unix.Syscall(unix.SYS_USERFAULTFD, 1, 0, 0)) },
	"semaphore":   func() error { return opened(unix.Syscall(unix.SYS_EVENTFD2, 3, 1, 0)) },
	"eventfd":     func() error { return opened(unix.Syscall(unix.SYS_EVENTFD2, 3, 0, 0)) },
	"mqueue": func() error {
		name, err := unix.BytePtrFromString("lifeboat-eligible")
		if err != nil {
			return err
		}
		if err := opened(unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)); err != nil {
			return err
		}
		return opened(unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0))
	},
	"mptcp":  openSocket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP),
	"vsock":  openSocket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"tcp":    openSocket(unix.AF_INET6, unix.SOCK_STREAM, 0),
	"udp":    openSocket(unix.AF_INET, unix.SOCK_DGRAM, 0),
	"unix":   openSocket(unix.AF_UNIX, unix.SOCK_DGRAM, 0),
	"packet": openSocket(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"null":   openPath("/dev/null"),
	"device": openPath("/dev/loop-control"),
	"pipe": func() error {
		var fds [2]int
		return unix.Pipe(fds[:])
	},
	"others": func() error {
		_, err := unix.EpollCreate1(0)
		if err == nil {
			_, err = unix.InotifyInit()
		}
		if err == nil {
			_, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0)
		}
		if err == nil {
			_, err = unix.PidfdOpen(os.Getpid(), 0)
		}
		return err
	},
	"sysv": func() error {
		_, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o600)
		return err
	},
	// The first file that it was given, without a descriptor.
	"mapping": func() error {
		if _, err := unix.Mmap(3, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		return unix.Close(3)
	},
	// Memory without a name that a child has as well.
	"family": func() error {
		runtime.LockOSThread() // with which the child ends
		if _, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != nil {
			return err
		}
		child, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if child == 0 {
			unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
			for {
				unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
			}
		}
		if errno != 0 {
			return errno
		}
		return nil
	},
	"attached": func() error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o600)
		if err == nil {
			_, err = unix.SysvShmAttach(id, 0, 0)
		}
		return err
	},
	"memfd": func() error {
		fd, err := unix.MemfdCreate("large", 0)
		if err != nil {
			return err
		}
		return unix.Ftruncate(fd, 2<<30)
	},
	"ghost": func() error {
		f, err := os.CreateTemp("", "ghost")
		if err != nil {
			return err
		}
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			return err
		}
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		return unix.Ftruncate(fd, 2<<30)
	},
}

// hold starts a process that has what is named open.
func hold(t *testing.T, attr *syscall.SysProcAttr, names ...string) *os.Process {
	t.Helper()
	return holdFiles(t, attr, nil, names...)
}

// holdFiles is hold for a process that has these as well.
func holdFiles(t *testing.T, attr *syscall.SysProcAttr, files []*os.File, names ...string) *os.Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), holdVariable+"="+strings.Join(names, ","))
	cmd.SysProcAttr, cmd.ExtraFiles = attr, files
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGCONT)
		require.NoError(t, in.Close())
		_ = cmd.Wait() // one that could not hold anything has failed already
	})
	said := make([]byte, 200)
	n, err := out.Read(said)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(said[:n]))
	return cmd.Process
}

func TestTasks(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("some of these need root")
	}
	for _, c := range []struct {
		name, says string
		holds      []string
		want       []string
	}{
		{"nothing that matters", "", []string{"tcp", "udp", "unix", "packet", "null", "pipe", "others", "eventfd", "memfd"}, nil},
		{"io_uring", "seccompProfile", []string{"io_uring"}, []string{v1alpha1.ReasonIOUring}},
		{"userfaultfd", "(userfaultfd)", []string{"userfaultfd"}, []string{v1alpha1.ReasonFileUnsupported}},
		{"MPTCP", "GODEBUG=multipathtcp=0", []string{"mptcp"}, []string{v1alpha1.ReasonMPTCP}},
		{"another kind of socket", "(AF_VSOCK)", []string{"vsock"}, []string{v1alpha1.ReasonSocketUnsupported}},
		{"device", "(/dev/loop-control)", []string{"device"}, []string{v1alpha1.ReasonDeviceOpen}},
		{"message queue", "message queues", []string{"mqueue"}, []string{v1alpha1.ReasonMessageQueue}},
		{"semaphore", "EFD_SEMAPHORE", []string{"semaphore", "eventfd"}, []string{v1alpha1.ReasonSemaphoreEventfd}},
		{"large file without a name", "1 GiB", []string{"ghost"}, []string{v1alpha1.ReasonUnlinkedFileTooLarge}},
		{"several", "", []string{"semaphore", "mptcp", "io_uring", "device"}, []string{
			v1alpha1.ReasonIOUring, v1alpha1.ReasonDeviceOpen, v1alpha1.ReasonMPTCP, v1alpha1.ReasonSemaphoreEventfd,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			process := hold(t, nil, c.holds...)
			found, err := Looker{Proc: "/proc"}.Tasks(process.Pid)
			require.NoError(t, err)
			require.Equal(t, c.want, append([]string(nil), reasonsOf(found)...), "the gravest first")
			for _, o := range found {
				require.True(t, v1alpha1.KnownReason(v1alpha1.ConditionDumpable, o.Reason))
				require.Contains(t, o.Message, c.says)
				require.Contains(t, o.Message, ";", "it names the mend")
			}
		})
	}
}

func TestStatesOfTasks(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("namespaces need root")
	}
	l := Looker{Proc: "/proc"}
	t.Run("ended", func(t *testing.T) {
		_, err := l.Tasks(1 << 22)
		require.ErrorIs(t, err, snapshot.ErrGone)
	})
	t.Run("traced", func(t *testing.T) {
		process := hold(t, &syscall.SysProcAttr{}, "null")
		require.NoError(t, onThread(func() error {
			if err := unix.PtraceSeize(process.Pid); err != nil {
				return err
			}
			found, err := l.Tasks(process.Pid)
			require.NoError(t, err)
			require.Equal(t, []string{v1alpha1.ReasonTraced}, reasonsOf(found))

			require.NoError(t, os.WriteFile("/proc/thread-self/comm", []byte("criu"), 0o600))
			found, err = l.Tasks(process.Pid)
			require.NoError(t, err)
			require.Empty(t, found, "a dump of our own")
			return nil
		}))
	})
	t.Run("stopped", func(t *testing.T) {
		process := hold(t, nil, "null")
		require.NoError(t, process.Signal(unix.SIGSTOP))
		var want []string
		if _, err := os.Stat("/sys/fs/cgroup/freezer"); err == nil {
			want = []string{v1alpha1.ReasonTaskStopped}
		}
		require.Eventually(t, func() bool {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process.Pid))
			return err == nil && strings.Contains(string(status), "T (stopped)")
		}, 10*time.Second, time.Millisecond)
		found, err := l.Tasks(process.Pid)
		require.NoError(t, err)
		require.ElementsMatch(t, want, reasonsOf(found))
	})
	t.Run("namespaces in the container", func(t *testing.T) {
		found, err := l.Tasks(os.Getpid())
		require.NoError(t, err)
		require.Empty(t, found)
		hold(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, "null") // a child of this process
		found, err = l.Tasks(os.Getpid())
		require.NoError(t, err)
		require.Equal(t, []string{v1alpha1.ReasonNestedNamespace}, reasonsOf(found))
	})
}

// onThread does something on a thread that ends with it, and so lets go of what it traces.
func onThread(do func() error) error {
	done := make(chan error)
	go func() {
		// The thread is not unlocked.
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

type sizes []files.Size

func (s sizes) Sizes(_ context.Context, _ []snapshot.Container, leaveOut exclude.Patterns) ([]files.Size, error) {
	var left []files.Size
	for _, size := range s {
		if !leaveOut.Match(size.Tree) {
			left = append(left, size)
		}
	}
	return left, nil
}

func TestLook(t *testing.T) {
	trees := sizes{{Tree: "layers/main", Bytes: 2 << 20}, {Tree: "shm", Bytes: 1 << 20}, {Tree: "volumes/scratch", Bytes: 60 << 20}}
	for _, c := range []struct {
		name, leaveOut string
		most           int64
		want           []string
		says           string
	}{
		{"nothing", "", 100 << 20, []string{}, ""},
		{"no bound", "", 0, []string{}, ""},
		{"too large", "", 10 << 20, []string{v1alpha1.ReasonFilesTooLarge}, "files in volumes/scratch: more than the 10 MiB"},
		{"too large without what is left out", "volume:scratch", 10 << 20, []string{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := snapshot.Target{Containers: []snapshot.Container{{PID: os.Getpid()}}}
			var err error
			target.LeaveOut, err = exclude.Parse(c.leaveOut)
			require.NoError(t, err)
			found, err := Looker{Proc: "/proc", Files: trees}.Look(t.Context(), target, c.most)
			require.NoError(t, err)
			require.Equal(t, c.want, reasonsOf(found))
			require.Contains(t, obstacle.Text(found), c.says)
		})
	}
}

func TestEveryReasonIsKnown(t *testing.T) {
	for _, r := range reasons {
		require.True(t, v1alpha1.KnownReason(v1alpha1.ConditionDumpable, r.reason), r.reason)
	}
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	for _, r := range reasons {
		require.Contains(t, string(raw), "| "+r.reason+" |")
	}
}
