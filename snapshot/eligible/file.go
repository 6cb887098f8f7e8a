package eligible

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// ghostLimit is how large a file without a name CRIU may copy: ghost-limit in criu.Config.
const ghostLimit = 1 << 30

// What CRIU 4.2 can dump. Source: criu/files.c, criu/sockets.c, criu/sk-inet.c.
var (
	anonymous = []string{"eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "pidfd", "bpf-map"}
	sockets   = []string{
		"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "UNIX", "UNIX-STREAM", "NETLINK", "PACKET",
	}
)

// mqueueMagic is MQUEUE_MAGIC of linux/magic.h's users, ipc/mqueue.c.
const mqueueMagic = 0x19800202

// file says which reason an open file is, if any, and what it is.
func (t *task) file(fd string) (reason, what string, _ error) {
	name := filepath.Join(t.folder, "fd", fd)
	link, err := os.Readlink(name)
	if err != nil {
		return "", "", fmt.Errorf("read link of open file: %w", err)
	}
	if kind, ok := strings.CutPrefix(link, "anon_inode:"); ok {
		return t.anonymous(fd, strings.Trim(kind, "[]"))
	}
	if inode, ok := strings.CutPrefix(link, "socket:"); ok {
		if address, ok := t.addresses[strings.Trim(inode, "[]")]; ok {
			return v1alpha1.ReasonPodAddressBound, address, nil
		}
		return socket(name)
	}
	if strings.HasPrefix(link, "/dmabuf:") {
		return v1alpha1.ReasonFileUnsupported, "dmabuf", nil
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return "", "", &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return v1alpha1.ReasonDeviceOpen, link, nil
	case unix.S_IFCHR:
		if !dumpable(st.Rdev) {
			return v1alpha1.ReasonDeviceOpen, link, nil
		}
	case unix.S_IFREG:
		return regular(name, link, &st)
	}
	return "", "", nil
}

func (t *task) anonymous(fd, kind string) (reason, what string, _ error) {
	switch {
	case kind == "io_uring":
		return v1alpha1.ReasonIOUring, "", nil
	case kind == "eventfd":
		// Kernels before 6.7 do not tell; then CRIU's images do not either.
		info, err := os.ReadFile(filepath.Join(t.folder, "fdinfo", fd))
		if err != nil {
			return "", "", fmt.Errorf("read kind of eventfd: %w", err)
		}
		if _, flag, _ := strings.Cut(string(info), "eventfd-semaphore:"); strings.HasPrefix(strings.TrimSpace(flag), "1") {
			return v1alpha1.ReasonSemaphoreEventfd, "", nil
		}
	case !slices.Contains(anonymous, kind):
		return v1alpha1.ReasonFileUnsupported, kind, nil
	}
	return "", "", nil
}

// socket asks for the protocol's name. Source: sockfs_xattr_get in net/socket.c.
func socket(name string) (reason, what string, _ error) {
	buf := make([]byte, 64)
	n, err := unix.Getxattr(name, "system.sockprotoname", buf)
	if err != nil {
		return "", "", &fs.PathError{Op: "getxattr", Path: name, Err: err}
	}
	protocol := strings.TrimRight(string(buf[:n]), "\x00")
	switch {
	case protocol == "MPTCP" || protocol == "MPTCPv6":
		return v1alpha1.ReasonMPTCP, "", nil
	case !slices.Contains(sockets, protocol):
		return v1alpha1.ReasonSocketUnsupported, protocol, nil
	}
	return "", "", nil
}

// dumpable says whether CRIU dumps a character device without a plugin: memory, terminals, tun. Source: dump_chrdev in
// criu/files.c.
func dumpable(device uint64) bool {
	switch major, minor := unix.Major(device), unix.Minor(device); {
	case major == 1, major == 4, major == 5, major >= 136 && major <= 143:
		return true
	default:
		return major == 10 && minor == 200
	}
}

func regular(name, link string, st *unix.Stat_t) (reason, what string, _ error) {
	if unix.Major(st.Dev) == 0 {
		var system unix.Statfs_t
		if err := unix.Statfs(name, &system); err != nil {
			return "", "", &fs.PathError{Op: "statfs", Path: name, Err: err}
		}
		if system.Type == mqueueMagic {
			return v1alpha1.ReasonMessageQueue, link, nil
		}
	}
	// The memory of a memfd is dumped as such.
	if st.Nlink == 0 && st.Size > ghostLimit && !strings.HasPrefix(link, "/memfd:") {
		return v1alpha1.ReasonUnlinkedFileTooLarge, strings.TrimSuffix(link, " (deleted)"), nil
	}
	return "", "", nil
}
