package room

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial dials from within the room's network.
func (r *Room) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return DialFrom(ctx, r.PID(), network, address)
}

// DialFrom dials from within the network of a process.
func DialFrom(ctx context.Context, pid int, network, address string) (net.Conn, error) {
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("open network of process %d: %w", pid, err)
	}
	defer space.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, fmt.Errorf("enter network of process %d: %w", pid, err)}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
