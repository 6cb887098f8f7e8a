package eligible

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// ends are files for two containers.
type ends struct{ one, other []*os.File }

func pathIn(t *testing.T) string { return filepath.Join(t.TempDir(), "x") }

func openFile(t *testing.T, name string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, flags, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func socketPair(t *testing.T) (*os.File, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	return os.NewFile(uintptr(fds[0]), "one"), os.NewFile(uintptr(fds[1]), "other")
}

// mappedTwice is a file without a name, for both.
func mappedTwice(t *testing.T) ends {
	t.Helper()
	name := pathIn(t)
	f := openFile(t, name, os.O_RDWR|os.O_CREATE)
	require.NoError(t, f.Truncate(4096))
	e := ends{[]*os.File{f}, []*os.File{openFile(t, name, os.O_RDWR)}}
	require.NoError(t, os.Remove(name))
	return e
}

// togetherCase is what two containers hold, and what that means.
type togetherCase struct {
	name  string
	make  func(t *testing.T) ends
	holds string
	want  []string
	says  []string
}

func togetherCases() []togetherCase {
	connected := []string{v1alpha1.ReasonContainersConnected}
	return []togetherCase{
		{"nothing", func(*testing.T) ends { return ends{} }, "pipe", nil, nil},
		{"both ends of a socket in one", func(t *testing.T) ends {
			a, b := socketPair(t)
			return ends{one: []*os.File{a, b}}
		}, "unix", nil, nil},
		{"a socket from one to the other", func(t *testing.T) ends {
			a, b := socketPair(t)
			return ends{[]*os.File{a}, []*os.File{b}}
		}, "null", connected, []string{"in main (socket)", "in side (socket)"}},
		{"a listener that nobody is connected to", func(t *testing.T) ends {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: pathIn(t), Net: "unix"})
			require.NoError(t, err)
			f, err := l.File()
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
			return ends{one: []*os.File{f}}
		}, "unix", nil, nil},
		{"a FIFO", func(t *testing.T) ends {
			name := pathIn(t)
			require.NoError(t, unix.Mkfifo(name, 0o600))
			return ends{[]*os.File{openFile(t, name, os.O_RDWR)}, []*os.File{openFile(t, name, os.O_RDWR)}}
		}, "null", connected, []string{"in main (/", "/x)"}},
		{"a file", func(t *testing.T) ends {
			name := pathIn(t)
			return ends{[]*os.File{openFile(t, name, os.O_RDWR|os.O_CREATE)}, []*os.File{openFile(t, name, os.O_RDWR)}}
		}, "null", nil, nil},
		{"a file without a name", func(t *testing.T) ends {
			name := pathIn(t)
			e := ends{[]*os.File{openFile(t, name, os.O_RDWR|os.O_CREATE)}, []*os.File{openFile(t, name, os.O_RDWR)}}
			require.NoError(t, os.Remove(name))
			return e
		}, "null", connected, []string{"/x)"}},
		{"a file without a name that both map and have not open any more", mappedTwice, "mapping",
			connected, []string{"in main (/", "in side (/", "/x)"}},
		{"a file without a name that one maps", func(t *testing.T) ends {
			e := mappedTwice(t)
			e.other = []*os.File{openFile(t, pathIn(t), os.O_RDWR|os.O_CREATE)}
			require.NoError(t, e.other[0].Truncate(4096))
			return e
		}, "mapping", nil, nil},
		{"a file with a name that both map", func(t *testing.T) ends {
			name := pathIn(t)
			f := openFile(t, name, os.O_RDWR|os.O_CREATE)
			require.NoError(t, f.Truncate(4096))
			return ends{[]*os.File{f}, []*os.File{openFile(t, name, os.O_RDWR)}}
		}, "mapping", nil, nil},
		{"a memfd that both map", func(t *testing.T) ends {
			fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
			require.NoError(t, err)
			require.NoError(t, unix.Ftruncate(fd, 4096))
			f := os.NewFile(uintptr(fd), "x")
			return ends{[]*os.File{f}, []*os.File{f}}
		}, "mapping", connected, []string{"memfd:x)"}},
		{"memory that processes of one share", func(*testing.T) ends { return ends{} }, "family", nil, nil},
		{"attached memory of System V", func(*testing.T) ends { return ends{} }, "attached", []string{v1alpha1.ReasonSystemVIPC}, nil},
		{"shared memory of System V", func(*testing.T) ends { return ends{} }, "sysv", []string{v1alpha1.ReasonSystemVIPC},
			[]string{"System V shared memory in a pod"}},
	}
}

func TestTogether(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("namespaces need root")
	}
	closeOnExec(t)
	for _, c := range togetherCases() {
		t.Run(c.name, c.try)
	}
	_, err := Looker{Proc: "/proc"}.Together([]snapshot.Container{{PID: 1 << 22}, {PID: os.Getpid()}})
	require.ErrorIs(t, err, snapshot.ErrGone)
}

func (c togetherCase) try(t *testing.T) {
	e := c.make(t)
	own := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWIPC} // the machine's may have objects
	others := "null"
	if c.holds == "mapping" {
		others = c.holds
	}
	one, other := holdFiles(t, own, e.one, c.holds), holdFiles(t, nil, e.other, others)
	for _, f := range append(e.one, e.other...) {
		_ = f.Close()
	}
	pod := []snapshot.Container{{Name: "main", PID: one.Pid}, {Name: "side", PID: other.Pid}}
	l := Looker{Proc: "/proc"}
	found, err := l.Together(pod)
	require.NoError(t, err)
	require.Equal(t, c.want, append([]string(nil), reasonsOf(found)...), obstacle.Text(found))
	for _, says := range c.says {
		require.Contains(t, obstacle.Text(found), says)
	}
	require.Equal(t, c.want == nil, l.Refuse(pod) == nil)
	if len(found) > 0 {
		require.True(t, v1alpha1.FoundOnNode(found[0].Reason))
	}
	alone, err := l.Together(pod[:1])
	require.NoError(t, err)
	require.Empty(t, alone, "one container has no other")
}

// closeOnExec keeps what this process was given by whoever started it to itself.
func closeOnExec(t *testing.T) {
	t.Helper()
	own, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, fd := range own {
		if n, err := strconv.Atoi(fd.Name()); err == nil && n > 2 {
			unix.CloseOnExec(n)
		}
	}
}
