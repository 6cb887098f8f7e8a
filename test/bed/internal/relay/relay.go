// Package relay passes TCP connections on: the bed's networks are closed, and what crosses a border does so by name.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Serve passes every connection on l to the address target until ctx ends. Where the target refuses, the connection is
// closed. It closes l and waits for the connections.
func Serve(ctx context.Context, l net.Listener, target string) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		wg.Go(func() { pass(ctx, c.(*net.TCPConn), target) })
	}
}

func pass(ctx context.Context, in *net.TCPConn, target string) {
	defer in.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		_ = in.SetLinger(0) // the caller sees a reset, not an empty answer
		return
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
	var wg sync.WaitGroup
	wg.Go(func() { half(out, in) })
	half(in, out)
	wg.Wait()
}

func half(to, from *net.TCPConn) {
	_, err := io.Copy(to, from)
	if err != nil {
		to.Close()
		return
	}
	_ = to.CloseWrite()
}
