// Command counter is the job of the end-to-end tests: it counts in memory alone, proves its memory at every step, and
// logs each step to standard output, to an emptyDir (/data) and to its writable layer (/tmp).
//
//	counter [-mib N] [-every D] [-steps N] [-lease HOST:PORT] [-stuck]
//	counter -alive N
//
// With -lease it takes every step under a lease of package lease, fails where that is refused, and ends when it is told to.
// With -alive it only says by its status whether the counter of this container has come to step N and goes on.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/e2e/lease"
)

// mended is the file under which -stuck holds nothing.
const mended = "/data/mended"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func run() error {
	mib := flag.Int("mib", 16, "random MiB held in memory")
	every := flag.Duration("every", 100*time.Millisecond, "time between steps")
	steps := flag.Int("steps", 0, "exit with status 0 after so many steps; 0: never")
	server := flag.String("lease", "", "server of leases")
	stuck := flag.Bool("stuck", false, "hold what CRIU cannot dump, unless there is a file "+mended)
	alive := flag.Int("alive", 0, "fail unless the counter of this container has come to that step and goes on; 0: count")
	flag.Parse()
	if *alive > 0 {
		return ask(*alive)
	}
	if _, err := os.Stat(mended); *stuck && err != nil {
		if err := hold(); err != nil {
			return err
		}
	}
	blob := make([]byte, *mib<<20)
	rand.Read(blob)
	sum := sha256.Sum256(blob)
	token := hex.EncodeToString(sum[:8])
	out := []io.Writer{os.Stdout}
	for _, name := range []string{"/data/steps.log", "/tmp/steps.log"} {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		out = append(out, f)
	}
	log := io.MultiWriter(out...)
	for n := 1; *steps == 0 || n <= *steps; n++ {
		if n%20 == 0 && sha256.Sum256(blob) != sum {
			return errors.New("memory differs from what was put there")
		}
		if *server != "" {
			last, err := lease.Take(context.Background(), *server, token, n)
			if err != nil {
				return err
			}
			if last {
				*steps = n
			}
		}
		fmt.Fprintf(log, "n=%d token=%s\n", n, token)
		time.Sleep(*every)
	}
	return nil
}

// hold opens a multipath TCP socket and an eventfd of the kind EFD_SEMAPHORE, and leaves them open.
func hold() error {
	if _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP); err != nil {
		return fmt.Errorf("open MPTCP socket: %w", err)
	}
	if _, err := unix.Eventfd(0, unix.EFD_SEMAPHORE); err != nil {
		return fmt.Errorf("open eventfd: %w", err)
	}
	return nil
}

// ask looks at the log of the counter that runs beside it.
func ask(least int) error {
	const log = "/data/steps.log"
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	info, err := os.Stat(log)
	if err != nil {
		return err
	}
	if n := bytes.Count(text, []byte("\n")); n < least {
		return fmt.Errorf("it has come to step %d alone", n)
	}
	if age := time.Since(info.ModTime()); age > 10*time.Second {
		return fmt.Errorf("its last step was %s ago", age)
	}
	return nil
}
