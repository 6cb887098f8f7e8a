package criu

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kindsVariable names what the workload has, with commas.
const kindsVariable = "LIFEBOAT_CRIU_KINDS"

// kind is state outside of memory. begin makes it and returns what tells how it is, as often as it is called: "" where it
// is as it was made, "closed" where it is gone in a way that a program is told of.
type kind func() func() string

var allKinds = map[string]kind{
	"flock": func() func() string {
		lock := must(os.Create("/locks-flock"))
		held = append(held, lock)
		check(unix.Flock(int(lock.Fd()), unix.LOCK_EX))
		return func() string {
			other := must(os.Open("/locks-flock"))
			defer other.Close()
			return want(unix.EWOULDBLOCK, unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		}
	},
	"OFD lock": func() func() string {
		lock, other := must(os.Create("/locks-ofd")), must(os.OpenFile("/locks-ofd", os.O_RDWR, 0))
		held = append(held, lock)
		check(unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10}))
		return func() string { return lockedBy(other) }
	},
	"POSIX lock": func() func() string {
		// The probe stays open: to close a file gives up the process's locks of it.
		lock, other := must(os.Create("/locks-posix")), must(os.OpenFile("/locks-posix", os.O_RDWR, 0))
		held = append(held, lock)
		check(unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10}))
		return func() string { return lockedBy(other) }
	},
	"unlinked file of 3 MiB":        func() func() string { return unlinked(3 << 20) },
	"unlinked file of 40 MiB":       func() func() string { return unlinked(40 << 20) },
	"file with its other name left": partlyUnlinked,
	"semaphore in /dev/shm":         semaphore,
	"inotify":                       inotify,
	"TCP":                           connection,
	"listener":                      listener,
	"eventfd": func() func() string {
		fd := eventfd(5, 0)
		return func() string {
			if value := read8(fd); value != 5 {
				return fmt.Sprint("read ", value)
			}
			write8(fd, 5)
			return ""
		}
	},
	"eventfd with EFD_SEMAPHORE": func() func() string {
		fd := eventfd(5, unix.EFD_SEMAPHORE)
		return func() string {
			if value := read8(fd); value != 1 {
				return fmt.Sprint("read ", value)
			}
			write8(fd, 1)
			return ""
		}
	},
	"timerfd that is read":     func() func() string { return timer(10*time.Millisecond, true) },
	"timerfd with unread ones": func() func() string { return timer(20*time.Millisecond, false) },
	"timerfd that fires once": func() func() string {
		fd := must(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK))
		check(unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(1)}, nil))
		fired := uint64(0)
		return func() string {
			if len(told()) > 0 { // after the restore alone: it stays unread
				fired = read8(fd)
				if fired != 1 {
					return fmt.Sprint("fired ", fired)
				}
				check(unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(1)}, nil))
				nap(1e6)
			}
			return ""
		}
	},
}

// held are files that stay open though nothing else is done with them.
var held []*os.File

func want(wanted, have error) string {
	if errors.Is(have, wanted) {
		return ""
	}
	return fmt.Sprintf("%v, want %v", have, wanted)
}

func lockedBy(other *os.File) string {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Len: 10}
	check(unix.FcntlFlock(other.Fd(), unix.F_OFD_GETLK, &lock))
	if lock.Type == unix.F_UNLCK {
		return "not locked"
	}
	return ""
}

func pattern(size int) []byte { return bytes.Repeat([]byte("lifeboat"), size/8) }

func unlinked(size int) func() string {
	f := must(os.Create(fmt.Sprint("/unlinked-", size)))
	must(f.Write(pattern(size)))
	check(os.Remove(f.Name()))
	have := make([]byte, size)
	return func() string {
		must(f.ReadAt(have, 0))
		if !bytes.Equal(have, pattern(size)) {
			return "content differs"
		}
		must(f.WriteAt(pattern(8), 0))
		return ""
	}
}

func partlyUnlinked() func() string {
	check(os.MkdirAll("/linked", 0o755))
	f := must(os.Create("/linked/a"))
	must(f.Write(pattern(64)))
	check(os.Link("/linked/a", "/linked/b"))
	check(os.Remove("/linked/a"))
	n := byte(0)
	return func() string {
		n++
		must(f.WriteAt([]byte{n}, 0))
		return sees("/linked/b", n)
	}
}

func sees(name string, first byte) string {
	have, err := os.ReadFile(name)
	if err != nil || len(have) == 0 || have[0] != first {
		return fmt.Sprintf("%s does not show what is written: %v", name, err)
	}
	return ""
}

// semaphore is made as glibc's sem_open makes one: mapped, then linked to its name, and the first name taken away.
func semaphore() func() string {
	f := must(os.Create("/dev/shm/first"))
	check(f.Truncate(32))
	view := must(unix.Mmap(int(f.Fd()), 0, 32, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	check(f.Close())
	check(os.Link("/dev/shm/first", "/dev/shm/sem.name"))
	check(os.Remove("/dev/shm/first"))
	return func() string {
		view[0]++
		return sees("/dev/shm/sem.name", view[0])
	}
}

func inotify() func() string {
	check(os.MkdirAll("/watched", 0o755))
	fd := must(unix.InotifyInit1(unix.IN_NONBLOCK))
	must(unix.InotifyAddWatch(fd, "/watched", unix.IN_CREATE))
	return func() string {
		_ = os.Remove("/watched/file")
		check(os.WriteFile("/watched/file", nil, 0o600))
		events := make([]byte, 4096)
		n, err := unix.Read(fd, events)
		if err != nil || !bytes.Contains(events[:max(n, 0)], []byte("file")) {
			return fmt.Sprintf("no event: %v", err)
		}
		return ""
	}
}

func connection() func() string {
	server := must(net.Listen("tcp4", "127.0.0.1:0"))
	client := must(net.Dial("tcp4", server.Addr().String()))
	peer := must(server.Accept())
	check(server.Close())
	return func() string {
		check(client.SetDeadline(time.Now().Add(time.Second)))
		check(peer.SetDeadline(time.Now().Add(time.Second)))
		if _, err := client.Write([]byte("x")); err != nil {
			return broken(err)
		}
		_, err := peer.Read(make([]byte, 1))
		return broken(err)
	}
}

// broken is what a program learns of a connection.
func broken(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "hangs"
	}
	return "closed"
}

// listener takes a connection each time. One that is on its way when the dump comes is dropped: it is closed where it was
// made, and nobody can accept it any more.
func listener() func() string {
	server := must(net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	return func() string {
		for range 3 {
			client, err := net.Dial("tcp4", server.Addr().String())
			if err != nil {
				return err.Error()
			}
			check(server.SetDeadline(time.Now().Add(time.Second)))
			peer, err := server.Accept()
			check(client.Close())
			if err == nil {
				check(peer.Close())
				return ""
			}
		}
		return "nobody is accepted"
	}
}

func eventfd(value, flags uintptr) int {
	fd, _, errno := unix.Syscall(unix.SYS_EVENTFD2, value, flags|unix.EFD_NONBLOCK, 0)
	if errno != 0 {
		panic(errno)
	}
	return int(fd)
}

// read8 is 0 where there is nothing to read.
func read8(fd int) uint64 {
	var buf [8]byte
	if n, err := unix.Read(fd, buf[:]); n != 8 || err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(buf[:])
}

func write8(fd int, value uint64) {
	var buf [8]byte
	binary.NativeEndian.PutUint64(buf[:], value)
	must(unix.Write(fd, buf[:]))
}

// timer expires again and again. It is read each time, or only once the restore was told of.
func timer(every time.Duration, always bool) func() string {
	fd := must(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK))
	at := unix.NsecToTimespec(every.Nanoseconds())
	check(unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: at, Value: at}, nil))
	return func() string {
		if !always && len(told()) == 0 {
			return ""
		}
		for range 3 {
			left := 100
			for read8(fd) == 0 { // a nap may be shorter: the scheduler's signals end it
				if left--; left == 0 {
					return "does not expire"
				}
				nap(every.Nanoseconds())
			}
		}
		return ""
	}
}

// told are the files by which the test tells the workload of a restore.
func told() []string { return must(filepath.Glob("/restored")) }

// kinds makes what it is asked for and tells again and again how it is.
func kinds() {
	defer func() {
		if fault := recover(); fault != nil {
			_ = os.WriteFile("/bad", fmt.Append(nil, fault, "\n", string(debug.Stack())), 0o600)
		}
	}()
	how := map[string]func() string{}
	for name := range strings.SplitSeq(os.Getenv(kindsVariable), ",") {
		how[name] = allKinds[name]()
	}
	for round := 1; ; round++ {
		state := map[string]string{}
		for name, tell := range how {
			state[name] = tell()
		}
		report := must(json.Marshal(kindsReport{Round: round, Restored: len(told()) > 0, State: state}))
		check(os.WriteFile("/report.new", report, 0o600))
		check(os.Rename("/report.new", "/report"))
		nap(2e6)
	}
}

type kindsReport struct {
	Round    int
	Restored bool
	State    map[string]string
}

// reportOf is the newest report of a workload in root, the zero value where there is none yet.
func reportOf(root string) (report kindsReport, _ error) {
	raw, err := os.ReadFile(filepath.Join(root, "report"))
	if errors.Is(err, fs.ErrNotExist) {
		return report, nil
	}
	if err != nil {
		return report, err
	}
	return report, json.Unmarshal(raw, &report)
}
