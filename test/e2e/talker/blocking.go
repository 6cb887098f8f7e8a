package main

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// connect makes a socket of the blocking kind, as most programs have them.
func connect(address string) (int, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return 0, fmt.Errorf("connect to %s: %w", address, err)
	}
	return fd, nil
}

// read waits for what never comes.
func read(fd int) (int, error) { return unix.Read(fd, make([]byte, 10)) }

// write writes and reads no answers.
func write(fd int) (int, error) {
	for ; ; time.Sleep(tick) {
		if n, err := unix.Write(fd, []byte("hello")); err != nil {
			return n, err
		}
	}
}

// block tells how a call on a connection ended, and what the socket says afterwards.
func (t *talker) block(name string, fd int, use func(int) (int, error)) {
	n, err := use(fd)
	t.tell("%s: %d, %v", name, n, err)
	n, err = unix.Read(fd, make([]byte, 10))
	t.tell("%s then reads: %d, %v", name, n, err)
	n, err = unix.Write(fd, []byte("hello"))
	t.tell("%s then writes: %d, %v", name, n, err)
	pending, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	t.tell("%s then has SO_ERROR: %d, %v", name, pending, err)
	_, err = unix.Getpeername(fd)
	t.tell("%s then has a peer: %v", name, err)
}
