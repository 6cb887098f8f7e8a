package runtime

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// names are the host and domain name of a UTS namespace.
type names struct{ host, domain string }

// readNames reads the names of the UTS namespace at path (such as /proc/PID/ns/uts).
func readNames(path string) (names, error) {
	var found names
	err := inUTS(path, func() error {
		var info syscall.Utsname
		if err := syscall.Uname(&info); err != nil {
			return fmt.Errorf("uname: %w", err)
		}
		found = names{host: text(info.Nodename), domain: text(info.Domainname)}
		return nil
	})
	return found, err
}

// writeNames sets the names of the UTS namespace at path.
func writeNames(path string, wanted names) error {
	return inUTS(path, func() error {
		if err := syscall.Sethostname([]byte(wanted.host)); err != nil {
			return fmt.Errorf("set hostname: %w", err)
		}
		if err := syscall.Setdomainname([]byte(wanted.domain)); err != nil {
			return fmt.Errorf("set domain name: %w", err)
		}
		return nil
	})
}

// inUTS runs work on a thread that has joined the UTS namespace at path. The thread ends with it: its goroutine never
// unlocks it, so no other goroutine gets to run there.
func inUTS(path string, work func() error) error {
	namespace, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open UTS namespace: %w", err)
	}
	defer func() { _ = namespace.Close() }()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := syscall.Syscall(sysSetns, namespace.Fd(), syscall.CLONE_NEWUTS, 0); errno != 0 {
			done <- fmt.Errorf("join UTS namespace %s: %w", path, errno)
			return
		}
		done <- work()
	}()
	return <-done
}

// text reads a field of Utsname, whose characters are signed on some architectures and not on others.
func text[char int8 | uint8](field [65]char) string {
	var name []byte
	for _, c := range field {
		if c == 0 {
			break
		}
		name = append(name, byte(c))
	}
	return string(name)
}
