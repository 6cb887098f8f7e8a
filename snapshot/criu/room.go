package criu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lazyPort is where CRIU serves lazy pages, in a network namespace where nothing else is.
	lazyPort = 7171
	// closePages ends the service of lazy pages. Source: PS_IOV_CLOSE in criu/page-xfer.c.
	closePages = 0x1023
	// closeSize is that of a request to CRIU 4.2; to older ones it is 24 bytes, and they do not mind more.
	closeSize = 32
	// readyEvery is how often the port is looked for.
	readyEvery = time.Millisecond
)

// inRoom calls f on a thread in a network namespace of its own, which ends with f and what f has started. CRIU's server of
// lazy pages asks nobody who he is; in there nobody but f can reach it.
func inRoom(f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, for no other may have it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make network namespace: %w", err)
			return
		}
		if err := raiseLoopback(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("raise loopback: %w", err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("raise loopback: %w", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("raise loopback: %w", err)
	}
	return nil
}

// errEnded: the dump ended before its end.
var errEnded = errors.New("runc ended before CRIU served lazy pages")

// awaitServer waits until CRIU serves lazy pages in this thread's network namespace, or exited is closed. Where ctx ends
// before, it waits on, until CRIU serves, is halted, or settle is over: there may be code of it in the tasks, and they must not be
// left with that.
func awaitServer(ctx context.Context, exited <-chan struct{}, halted func() bool) error {
	ticker := time.NewTicker(readyEvery)
	defer ticker.Stop()
	ended := ctx.Done()
	var settled <-chan time.Time
	for {
		listening, err := listens()
		if err != nil {
			return err
		}
		if listening || ctx.Err() != nil && halted() {
			return context.Cause(ctx)
		}
		select {
		case <-exited:
			return errEnded
		case <-ended:
			ended, settled = nil, time.After(settle)
		case <-settled:
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// listens says whether the port is in LISTEN in this thread's network namespace.
func listens() (bool, error) { return listensIn("/proc/thread-self/net/tcp") }

// listensIn says whether the port is in LISTEN (0A), without connecting to it. Source: proc_net_tcp in the kernel's
// documentation.
func listensIn(path string) (bool, error) {
	table, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("look for CRIU's port: %w", err)
	}
	port := fmt.Appendf(nil, ":%04X", lazyPort)
	for line := range bytes.Lines(table) {
		fields := bytes.Fields(line)
		if len(fields) > 3 && bytes.HasSuffix(fields[1], port) && string(fields[3]) == "0A" {
			return true, nil
		}
	}
	return false, nil
}

// closeServer tells CRIU that all pages have been fetched. The answer, which CRIU holds back, is not waited for.
func closeServer() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("end CRIU's lazy pages: %w", err)
	}
	defer unix.Close(socket)
	if err := unix.Connect(socket, &unix.SockaddrInet4{Port: lazyPort, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("end CRIU's lazy pages: connect: %w", err)
	}
	var request [closeSize]byte
	binary.LittleEndian.PutUint32(request[:], closePages)
	n, err := unix.Write(socket, request[:])
	if err != nil || n != closeSize {
		return fmt.Errorf("end CRIU's lazy pages: write %d of %d bytes: %w", n, closeSize, err)
	}
	return nil
}
