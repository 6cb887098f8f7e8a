package connections

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for _, good := range []string{"10.244.1.7", "192.168.3.4", "172.16.0.1", "100.64.3.2", "8.8.4.4", "fd10::5", "2600:1f14::7"} {
		got, err := Parse(good)
		require.NoError(t, err)
		require.Equal(t, netip.MustParseAddr(good), got)
	}
	for _, bad := range []string{
		"", "localhost", "10.0.0.0/8", "10.0.0.1:80", "0.0.0.0", "127.0.0.1", "127.8.8.8", "169.254.169.254", "168.63.129.16", "224.0.0.1",
		"100.100.100.200", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:10.0.0.1", "fd00:ec2::254",
	} {
		_, err := Parse(bad)
		require.ErrorIs(t, err, ErrUnfit, bad)
	}
}

// network makes a network namespace for the time of a test, and returns its path.
func network(t *testing.T) string {
	t.Helper()
	path, end := make(chan string), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the thread and its namespace end with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			path <- err.Error()
			return
		}
		path <- filepath.Join("/proc/self/task", strconv.Itoa(unix.Gettid()), "ns/net")
		<-end
	}()
	t.Cleanup(func() { close(end) })
	return <-path
}

func TestAddAndRemove(t *testing.T) {
	space := network(t)
	kept := []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd10::7")}
	require.Error(t, listens(t, space, "10.244.1.7:0"))
	require.NoError(t, Add(space, kept))
	require.NoError(t, Add(space, kept), "they may be there already")
	require.NoError(t, listens(t, space, "10.244.1.7:0"))
	require.NoError(t, listens(t, space, "[fd10::7]:0"))
	require.Error(t, listens(t, space, "10.244.1.8:0"), "nothing but that address")

	require.NoError(t, Remove(space, kept))
	require.NoError(t, Remove(space, kept), "they may be gone already")
	require.Error(t, listens(t, space, "10.244.1.7:0"))
	require.Error(t, listens(t, space, "[fd10::7]:0"))
	require.NoError(t, Remove("/proc/self/task/0/ns/net", kept), "the pod is gone")
	require.ErrorIs(t, Add("/proc/self/task/0/ns/net", kept), os.ErrNotExist)
}

// listens tries to listen in a network namespace.
func listens(t *testing.T, space, address string) error {
	t.Helper()
	return within(space, func(link netlink.Link) error {
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		return l.Close()
	})
}

func TestReadBundle(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write("bundle/config.json", `{"mounts":[{"destination":"/proc","source":"proc"},{"destination":"/etc/resolv.conf","source":"/sandbox/resolv.conf"}],
		"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/proc/7/ns/net"}]}}`)
	b, err := ReadBundle(root, "/bundle")
	require.NoError(t, err)
	require.Equal(t, Bundle{Network: "/proc/7/ns/net"}, b, "a pod may have no resolv.conf")

	write("sandbox/resolv.conf", "# ours\nnameserver 10.96.0.10\nnameserver fd96::a\nnameserver\nsearch default.svc\nnameserver ours\n")
	b, err = ReadBundle(root, "/bundle")
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd96::a")}, b.Nameservers)

	write("host/config.json", `{"linux":{"namespaces":[{"type":"network"}]}}`)
	_, err = ReadBundle(root, "/host")
	require.ErrorContains(t, err, "joins no network namespace")
	_, err = ReadBundle(root, "/none")
	require.ErrorIs(t, err, os.ErrNotExist)
}
