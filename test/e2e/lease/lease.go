// Package lease proves that there is one copy of a process at every instant. Each process (a token) takes its steps under a
// lease that is kept outside of the cluster: the place that steps holds it, and a place that takes it from another takes it for
// good. A step of a former holder is two copies at once; a number that is not the next one is work lost or done twice.
//
// The protocol is a line over TCP, a connection a step: "TOKEN NUMBER PLACE", answered by "ok", by "end" where it was to be the
// last step, or by what is wrong.
package lease

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// answerTime bounds one exchange.
const answerTime = 2 * time.Second

// Answers to a step that was taken.
const wordOK, wordEnd = "ok", "end"

// Process is what is known of one token.
type Process struct {
	// Last is the number of its last step.
	Last int
	// Places are the addresses that held the lease, in their order; the last one holds it.
	Places []string
}

// Server keeps the leases.
type Server struct {
	mu        sync.Mutex
	processes map[string]Process
	faults    []string
	end       bool
}

// End makes the next step of each process its last one.
func (s *Server) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = true
}

func (s *Server) word() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end {
		return wordEnd
	}
	return wordOK
}

// Serve answers until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go s.answer(conn)
	}
}

// answer takes one step; one that ends in the middle is tried again by the process.
func (s *Server) answer(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	var token, place string
	var n int
	if _, err := fmt.Sscan(line, &token, &n, &place); err != nil {
		return
	}
	text := s.word()
	if err := s.Step(token, n, place); err != nil {
		text = err.Error()
	}
	_, _ = io.WriteString(conn, text+"\n")
}

// Step takes step n of a process at a place. The step before may come once more: its answer may have been lost.
func (s *Server) Step(token string, n int, place string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.processes == nil {
		s.processes = map[string]Process{}
	}
	p := s.processes[token]
	var fault error
	switch at := slices.Index(p.Places, place); {
	case at >= 0 && at < len(p.Places)-1:
		fault = fmt.Errorf("process %s steps at %s while %s holds its lease: two copies at once", token, place, p.Places[len(p.Places)-1])
	case n < p.Last:
		fault = fmt.Errorf("process %s does step %d at %s a second time: it was at %d", token, n, place, p.Last)
	case n > p.Last+1:
		fault = fmt.Errorf("process %s goes on with step %d at %s: it was at %d", token, n, place, p.Last)
	case at < 0:
		p.Places = append(slices.Clone(p.Places), place)
	}
	if fault != nil {
		s.faults = append(s.faults, fault.Error())
		return fault
	}
	p.Last = n
	s.processes[token] = p
	return nil
}

// Processes is what is known by now, by token.
func (s *Server) Processes() map[string]Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.processes)
}

// Faults are all steps that were refused.
func (s *Server) Faults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// Take takes step n of a process, from wherever this process is now, and tries until it has an answer: the network may just
// have changed beneath it. last says that no more is to follow. The error is the server's refusal, or that ctx has ended.
func Take(ctx context.Context, server, token string, n int) (last bool, err error) {
	for {
		text, err := exchange(ctx, server, token, n)
		switch {
		case err == nil && (text == wordOK || text == wordEnd):
			return text == wordEnd, nil
		case err == nil:
			return false, errors.New(text)
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("take step %d: %w", n, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func exchange(ctx context.Context, server, token string, n int) (string, error) {
	dialer := net.Dialer{Timeout: answerTime}
	conn, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	place, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	if _, err := fmt.Fprintf(conn, "%s %d %s\n", token, n, place); err != nil {
		return "", err
	}
	text, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(text), err
}
