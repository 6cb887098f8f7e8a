// Command talker is the job of the end-to-end test of connections: it listens, keeps connections of many kinds, and writes
// to /data/events.log what becomes of them.
//
//	talker [-peer HOST] [-own IP]
//
// It counts as the counter does, on standard output. Whatever it is asked, on any of its ports, it answers with its token
// and the question. -peer is another talker, -own an address of its pod's to listen at.
//
//go:debug multipathtcp=0
package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Ports: all addresses of IPv4, of both families, and the pod's own address.
const (
	port4, port6, portOwn = "7004", "7006", "7007"
	socket                = "/tmp/talker.sock"
	tick                  = 100 * time.Millisecond
)

func main() {
	fmt.Fprintln(os.Stderr, run())
	os.Exit(2)
}

// run returns what keeps it from its work, which has no end.
func run() error {
	peer := flag.String("peer", "", "another talker")
	own := flag.String("own", "", "address of this pod to listen at")
	flag.Parse()
	t := &talker{token: rand.Text()}
	var err error
	if t.events, err = os.OpenFile("/data/events.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	if err := t.serve(*own); err != nil {
		return err
	}
	go t.talk("loopback", "tcp", net.JoinHostPort("127.0.0.1", port4))
	go t.talk("unix", "unix", socket)
	if *own != "" {
		go t.talk("own", "tcp", net.JoinHostPort(*own, portOwn))
	}
	if *peer != "" {
		if err := t.talkTo(*peer); err != nil {
			return err
		}
	}
	for n := 1; ; n++ {
		fmt.Printf("n=%d token=%s\n", n, t.token)
		time.Sleep(tick)
	}
}

type talker struct {
	token  string
	mu     sync.Mutex
	events *os.File
}

// tell writes an event.
func (t *talker) tell(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.events, format+"\n", args...)
}

// serve listens everywhere.
func (t *talker) serve(own string) error {
	listeners := [][2]string{{"tcp4", ":" + port4}, {"tcp", ":" + port6}, {"unix", socket}}
	packets := [][2]string{{"udp4", ":" + port4}, {"udp", ":" + port6}}
	if own != "" {
		listeners = append(listeners, [2]string{"tcp", net.JoinHostPort(own, portOwn)})
		packets = append(packets, [2]string{"udp", net.JoinHostPort(own, portOwn)})
	}
	for _, at := range listeners {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			return err
		}
		go func() { t.tell("listener %s: %s", l.Addr(), t.accept(l)) }()
	}
	for _, at := range packets {
		c, err := net.ListenPacket(at[0], at[1])
		if err != nil {
			return err
		}
		go func() { t.tell("packets %s: %s", c.LocalAddr(), t.packets(c)) }()
	}
	return nil
}

func (t *talker) accept(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go t.answer(c)
	}
}

// answer answers until the other side has ended, or asks to be cut off.
func (t *talker) answer(c net.Conn) {
	defer c.Close()
	question := make([]byte, 100)
	for {
		n, err := c.Read(question)
		if err != nil {
			return
		}
		if tcp, ok := c.(*net.TCPConn); ok && string(question[:n]) == "reset" {
			_ = tcp.SetLinger(0)
			return
		}
		if _, err := fmt.Fprintf(c, "%s %s\n", t.token, question[:n]); err != nil {
			return
		}
	}
}

func (t *talker) packets(c net.PacketConn) error {
	question := make([]byte, 100)
	for {
		n, from, err := c.ReadFrom(question)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(fmt.Appendf(nil, "%s %s\n", t.token, question[:n]), from); err != nil {
			t.tell("packets: %s", err)
		}
	}
}

// talkTo keeps connections with another talker.
func (t *talker) talkTo(peer string) error {
	address := net.JoinHostPort(peer, port4)
	reset, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	if _, err := reset.Write([]byte("reset")); err != nil {
		return err
	}
	go t.talk("outside", "tcp", address)
	go t.talk("packets", "udp", address)
	for name, use := range map[string]func(int) (int, error){"reader": read, "writer": write} {
		fd, err := connect(address)
		if err != nil {
			return err
		}
		go t.block(name, fd, use)
	}
	time.AfterFunc(time.Hour, func() { t.tell("reset: %v", reset.Close()) }) // until then it is open, and nobody looks at it
	return nil
}

// talk asks and is answered on one connection, and makes another when that fails.
func (t *talker) talk(name, network, address string) {
	for ; ; time.Sleep(tick) {
		c, err := net.Dial(network, address)
		if err != nil {
			t.tell("%s dial: %s", name, cause(err))
			continue
		}
		t.tell("%s connected", name)
		step, err := converse(c)
		t.tell("%s %s: %s", name, step, cause(err))
		c.Close()
	}
}

// converse says what failed and why.
func converse(c net.Conn) (step string, _ error) {
	answer := make([]byte, 200)
	for ; ; time.Sleep(tick) {
		if _, err := c.Write([]byte("hello")); err != nil {
			return "write", err
		}
		// A packet may be lost, and a thousand of them are not.
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return "deadline", err
		}
		if _, err := c.Read(answer); err != nil {
			return "read", err
		}
	}
}

// cause is the innermost error.
func cause(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}
