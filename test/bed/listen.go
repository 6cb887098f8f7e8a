package bed

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// Listen opens a port of the bed's network in this process: nodes and pods reach it at the listener's address, which is
// outside of the cluster. It ends with the bed.
func (c *Cluster) Listen() (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result)
	go func() {
		// The thread ends with this goroutine: it is never unlocked, and so never seen by others in that network.
		runtime.LockOSThread()
		l, err := c.listenThere()
		done <- result{l, err}
	}()
	r := <-done
	return r.listener, r.err
}

func (c *Cluster) listenThere() (net.Listener, error) {
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.state.Supervisor.PID))
	if err != nil {
		return nil, fmt.Errorf("open the bed's network: %w", err)
	}
	defer network.Close()
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the bed's network: %w", err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(layout.HubAddress, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen in the bed's network: %w", err)
	}
	return l, nil
}
