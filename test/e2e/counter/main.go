// Command counter is the job of the end-to-end tests: it counts in memory alone, proves its memory every 20 steps, and
// logs each step to standard output, to an emptyDir (/data) and to its writable layer (/tmp).
//
//	counter [-mib N] [-churn N] [-every D] [-steps N] [-job NAME] [-lease HOST:PORT] [-linger] [-stuck]
//	counter -alive N
//
// With -lease it takes every step under a lease of package lease, fails where that is refused, and ends when it is told to; then it
// proves its memory and its files once more.
// With -alive it only says by its status whether the counter of this container has come to step N and goes on.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/e2e/lease"
)

// mended is the file under which -stuck holds nothing.
const mended = "/data/mended"

// logs are the files that hold each step.
var logs = []string{"/data/steps.log", "/tmp/steps.log"}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

type counter struct {
	token, server string
	memory        *memory
	out           io.Writer
}

func run() error {
	mib := flag.Int("mib", 16, "random MiB held in memory")
	churn := flag.Int("churn", 0, "pages of them that each step writes to")
	every := flag.Duration("every", 100*time.Millisecond, "time between steps")
	steps := flag.Int("steps", 0, "exit with status 0 after so many steps; 0: never")
	job := flag.String("job", "", "the job that this is a process of, for the lease")
	server := flag.String("lease", "", "server of leases")
	linger := flag.Bool("linger", false, "do nothing more after the last step, instead of ending")
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
	c, err := newCounter(*job, *server, *mib, *churn)
	if err != nil {
		return err
	}
	for n := 1; *steps == 0 || n <= *steps; n++ {
		last, err := c.step(n)
		if err != nil {
			return err
		}
		if last {
			break
		}
		time.Sleep(*every)
	}
	for *linger {
		time.Sleep(time.Hour)
	}
	return nil
}

func newCounter(job, server string, mib, churn int) (*counter, error) {
	var seed [8]byte
	rand.Read(seed[:])
	c := &counter{token: hex.EncodeToString(seed[:]), server: server, memory: newMemory(binary.BigEndian.Uint64(seed[:]), mib, churn)}
	if job != "" {
		c.token = job + "/" + c.token
	}
	out := []io.Writer{os.Stdout}
	for _, name := range logs {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	c.out = io.MultiWriter(out...)
	return c, nil
}

// step does step n.
func (c *counter) step(n int) (last bool, err error) {
	ctx := context.Background()
	if n%20 == 0 {
		if err := c.memory.prove(n - 1); err != nil {
			return false, c.tell(ctx, n, err)
		}
	}
	if c.server != "" {
		if last, err = lease.Take(ctx, c.server, c.token, n); err != nil {
			return false, err
		}
	}
	c.memory.step(n)
	fmt.Fprintf(c.out, "n=%d token=%s\n", n, c.token)
	if last {
		err := c.memory.prove(n)
		for _, name := range logs {
			if err == nil {
				err = proveFile(name, c.token, n)
			}
		}
		return true, c.tell(ctx, n, err)
	}
	return false, nil
}

// tell has the keeper of the lease know what the counter has found out about itself. It returns fault, or that the keeper differs.
func (c *counter) tell(ctx context.Context, n int, fault error) error {
	if c.server == "" {
		return fault
	}
	if err := lease.Tell(ctx, c.server, c.token, n, fault); err != nil {
		return err
	}
	return fault
}

// proveFile says where the file does not have the steps of the token from 1 to n, each once. It may have those of others before.
func proveFile(name, token string, n int) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	next := 1
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, " token="+token+"\n") {
			continue
		}
		if want := fmt.Sprintf("n=%d token=%s\n", next, token); line != want {
			return fmt.Errorf("file %s differs from what was written: %q in place of %q", name, line, want)
		}
		next++
	}
	if next != n+1 {
		return fmt.Errorf("file %s differs from what was written: %d steps of %d", name, next-1, n)
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
