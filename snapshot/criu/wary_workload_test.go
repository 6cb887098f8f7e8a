package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The wary workload tells of everything that would not happen if nobody dumped it: a call that is cut off, a peer that closes, a
// child that ends otherwise than it meant to, a signal that nobody sent. A program may see calls cut off that signal(7) names as
// cut off by any stop (epoll_wait and the like), so it makes none of those. Go's own signals are switched off.

// wariness are its parts, each of which goes on for ever and counts its turns.
var wariness = []struct {
	name string
	run  func(turn func())
}{
	{"pipe to a child", pipes},
	{"unix sockets", unixSockets},
	{"unix connections", func(turn func()) { connections(must(net.Listen("unix", "/socket")), turn) }},
	{"unix connections that wait", waitingConnections},
	{"TCP", tcp},
	{"children that end", endings},
	{"signals", signals},
	{"timerfd", expirations},
	{"folder", folder},
	{"sleep", func(turn func()) {
		for {
			left := unix.NsecToTimespec(2e6)
			unlessStopped(unix.Nanosleep(&left, nil))
			turn()
		}
	}},
	{"poll", func(turn func()) {
		var ends [2]int
		check(unix.Pipe(ends[:]))
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(ends[0]), Events: unix.POLLIN}}, 3)
			unlessStopped(err)
			turn()
		}
	}},
}

// wary runs the parts. It writes their turns to /turns, what is odd to /bad.
func wary() {
	counts := make([]atomic.Int64, len(wariness))
	watchSignals()
	for i, part := range wariness {
		go func() {
			defer tellOdd(part.name)
			runtime.LockOSThread()
			part.run(func() { counts[i].Add(1) })
		}()
	}
	file := must(os.Create("/turns"))
	for {
		var text strings.Builder
		for i := range counts {
			fmt.Fprintf(&text, "%012d\n", counts[i].Load())
		}
		must(file.WriteAt([]byte(text.String()), 0))
		nap(5e6)
	}
}

// unlessStopped checks err of a wait for some time. Such a wait is cut off by a dump, as by a signal: the kernel keeps what it needs
// to go on with it where CRIU's code overwrites it. Source: get_task_regs in compel/arch/x86/src/lib/infect.c.
func unlessStopped(err error) {
	if !errors.Is(err, unix.EINTR) {
		check(err)
	}
}

// tellOdd is deferred: what a part panics with goes to /bad.
func tellOdd(part string) {
	if fault := recover(); fault != nil {
		odd(part, fault)
	}
}

func odd(part string, what any) {
	f := must(os.OpenFile("/bad", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))
	must(fmt.Fprintf(f, "%s: %s: %v\n", time.Now().Format(time.StampMicro), part, what))
	check(f.Close())
	select {}
}

// watchSignals tells of every signal that the workload does not send itself.
func watchSignals() {
	all := make(chan os.Signal, 1000)
	signal.Notify(all)
	go func() {
		for s := range all {
			if s != unix.SIGCHLD && s != unix.SIGUSR1 && s != unix.SIGALRM {
				odd("process", s)
			}
		}
	}()
}

// whole reads or writes all 8 bytes at once, or panics.
func whole(n int, err error) {
	if err != nil || n != 8 {
		panic(fmt.Sprintf("%d bytes, %v", n, err))
	}
}

// pingPong has the other end of two descriptors give back what it gets.
func pingPong(in, out int, turn func()) {
	var sent, got [8]byte
	for n := uint64(1); ; n++ {
		binary.LittleEndian.PutUint64(sent[:], n)
		whole(unix.Write(out, sent[:]))
		whole(unix.Read(in, got[:]))
		if got != sent {
			panic(fmt.Sprintf("sent %x, got %x", sent, got))
		}
		turn()
		nap(1e6)
	}
}

func echo(in, out int) {
	var got [8]byte
	for {
		whole(unix.Read(in, got[:]))
		whole(unix.Write(out, got[:]))
	}
}

// child starts the binary in a role, with descriptors from 3 on.
func child(role string, fds ...int) *exec.Cmd {
	cmd := exec.Command("/program", "-test.run", "^$")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	for _, fd := range fds {
		own := must(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(own), "end"))
	}
	check(cmd.Start())
	for _, f := range cmd.ExtraFiles {
		check(f.Close())
	}
	return cmd
}

// waitExit waits for a child, and panics where it stops, goes on or ends by anything but code.
func waitExit(pid, code int) {
	var status unix.WaitStatus
	got, err := unix.Wait4(pid, &status, unix.WUNTRACED|unix.WCONTINUED, nil)
	if err != nil || got != pid || !status.Exited() || status.ExitStatus() != code {
		panic(fmt.Sprintf("child %d: %x, %v", got, status, err))
	}
}

func pipes(turn func()) {
	var there, back [2]int
	check(unix.Pipe2(there[:], unix.O_CLOEXEC))
	check(unix.Pipe2(back[:], unix.O_CLOEXEC))
	cmd := child("wary echo", there[0], back[1])
	go func() {
		defer tellOdd("child")
		waitExit(cmd.Process.Pid, 0)
		panic("it ended")
	}()
	pingPong(back[0], there[1], turn)
}

func unixSockets(turn func()) {
	ends := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))
	child("wary echo", ends[1], ends[1])
	pingPong(ends[0], ends[0], turn)
}

// connections are made, used and ended again and again.
func connections(server net.Listener, turn func()) {
	go func() {
		defer tellOdd("server")
		for {
			peer := must(server.Accept())
			must(peer.Write([]byte("1"))) // CRIU refuses unix connections that have data before they are accepted
			must(io.Copy(peer, peer))
			check(peer.Close())
		}
	}()
	for {
		client := must(net.Dial(server.Addr().Network(), server.Addr().String()))
		must(client.Read(make([]byte, 1)))
		for range 3 {
			must(client.Write([]byte("12345678")))
			must(io.ReadFull(client, make([]byte, 8)))
		}
		check(client.Close())
		turn()
		nap(1e6)
	}
}

// waitingConnections are accepted some time after they were made.
func waitingConnections(turn func()) {
	server := must(net.Listen("unix", "/waiting"))
	for {
		client := must(net.Dial("unix", "/waiting"))
		nap(2e7)
		peer := must(server.Accept())
		must(client.Write([]byte("12345678")))
		must(io.ReadFull(peer, make([]byte, 8)))
		check(peer.Close())
		if n, err := client.Read(make([]byte, 1)); err != io.EOF {
			panic(fmt.Sprint(n, err))
		}
		check(client.Close())
		turn()
	}
}

func tcp(turn func()) {
	server := must(net.Listen("tcp4", "127.0.0.1:0"))
	client := must(net.Dial("tcp4", server.Addr().String()))
	peer := must(server.Accept())
	go func() {
		defer tellOdd("TCP peer")
		must(io.Copy(peer, peer))
		panic("closed")
	}()
	for {
		waiting := must(net.Dial("tcp4", server.Addr().String()))
		must(client.Write([]byte("12345678")))
		must(io.ReadFull(client, make([]byte, 8)))
		nap(5e6)
		check(must(server.Accept()).Close())
		check(waiting.Close())
		turn()
	}
}

func endings(turn func()) {
	for code := 1; ; code = code%100 + 1 {
		cmd := child(fmt.Sprintf("wary end %d", code))
		waitExit(cmd.Process.Pid, code)
		turn()
		nap(1e6)
	}
}

// signals waits for each signal that it sends, beside an alarm that goes on and on.
func signals(turn func()) {
	usr1, alarms := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	signal.Notify(alarms, unix.SIGALRM)
	interval := unix.NsecToTimeval(1e7)
	must(unix.Setitimer(unix.ItimerReal, unix.Itimerval{Interval: interval, Value: interval}))
	for {
		check(unix.Kill(os.Getpid(), unix.SIGUSR1))
		<-usr1
		<-alarms
		turn()
	}
}

func expirations(turn func()) {
	fd := must(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC))
	every := unix.NsecToTimespec(5e6)
	check(unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil))
	var expired [8]byte
	for {
		whole(unix.Read(fd, expired[:]))
		turn()
	}
}

// folder has nothing in it but what the program puts there: CRIU makes links of its own for a file whose name is gone.
func folder(turn func()) {
	check(os.MkdirAll("/folder", 0o755))
	f := must(os.Create("/folder/a"))
	check(os.Link("/folder/a", "/folder/b"))
	check(os.Remove("/folder/a"))
	for {
		must(f.WriteAt([]byte("x"), 0))
		if entries := must(os.ReadDir("/folder")); len(entries) != 1 {
			panic(fmt.Sprint(entries))
		}
		turn()
		nap(1e6)
	}
}

// waryChild is a process that the wary workload starts. It returns what to exit with.
func waryChild(role string) (code int) {
	if n, _ := fmt.Sscanf(role, "wary end %d", &code); n == 1 {
		return code
	}
	watchSignals()
	defer tellOdd("child")
	echo(3, 4)
	return 0
}
