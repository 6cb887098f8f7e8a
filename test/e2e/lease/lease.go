// Package lease proves that there is one copy of a process at every instant. Each process (a token) takes its steps under a
// lease that is kept outside of the cluster: the place that steps holds it, and a place that takes it from another takes it for
// good. A step of a former holder is two copies at once; a number that is not the next one is work lost or done twice.
//
// Of a token "JOB/RANDOM" the first part names the job whose process it is: where one process at a time may be a job, a process
// that steps after another one has begun in its place is a second copy, too.
//
// The protocol is a line over TCP, a connection a step: "TOKEN NUMBER PLACE", answered by "ok", by "end" where it was to be the
// last step, or by what is wrong. After its last step a process says "TOKEN NUMBER PLACE proven", and at any time, instead of a
// step, what it has found wrong with itself: "TOKEN NUMBER PLACE WORDS…".
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

// wordProven is what a process adds to its number when it has found nothing wrong with itself after its last step.
const wordProven = "proven"

// Process is what is known of one token.
type Process struct {
	// Last is the number of its last step, At when it was taken.
	Last int
	At   time.Time
	// Places are the addresses that held the lease, in their order; the last one holds it.
	Places []string
	// Recoveries are the times at which it went on from an earlier step in another place.
	Recoveries []Recovery
	// Ended says that its last step was to be the last, Proven that it has proven itself after that.
	Ended, Proven bool
}

// Recovery is a process that goes on from an earlier step: what it did between is lost.
type Recovery struct {
	From, To int
	Place    string
}

// Server keeps the leases.
type Server struct {
	// Recovers allows processes to go on from an earlier step in another place, as from a recovery point.
	Recovers bool
	// Alone are the jobs that one process at a time may be.
	Alone map[string]bool

	mu        sync.Mutex
	processes map[string]Process
	// holders are the newest processes of jobs.
	holders map[string]string
	faults  []string
	end     bool
}

// End makes the next step of each process its last one.
func (s *Server) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = true
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
	words := strings.Join(strings.Fields(line)[3:], " ")
	last, err := s.hear(token, n, place, words)
	text := wordOK
	switch {
	case err != nil:
		text = err.Error()
	case last:
		text = wordEnd
	}
	_, _ = io.WriteString(conn, text+"\n")
}

// hear takes a step, or what a process says of itself.
func (s *Server) hear(token string, n int, place, words string) (last bool, err error) {
	if words == "" {
		return s.Step(token, n, place)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, known := s.processes[token]
	if known && words == wordProven && p.Ended && n == p.Last {
		p.Proven = true
		s.processes[token] = p
		return false, nil
	}
	return false, s.refuse(fmt.Errorf("process %s at %s says after step %d: %s", token, place, n, words))
}

func (s *Server) refuse(fault error) error {
	s.faults = append(s.faults, fault.Error())
	return fault
}

// Step takes step n of a process at a place and tells whether it is to be the last one. The step before may come once more:
// its answer may have been lost.
func (s *Server) Step(token string, n int, place string) (last bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.processes == nil {
		s.processes, s.holders = map[string]Process{}, map[string]string{}
	}
	p := s.processes[token]
	if err := s.check(token, p, n, place); err != nil {
		return false, s.refuse(err)
	}
	if n < p.Last {
		p.Recoveries = append(slices.Clone(p.Recoveries), Recovery{From: p.Last, To: n, Place: place})
	}
	if !slices.Contains(p.Places, place) {
		p.Places = append(slices.Clone(p.Places), place)
	}
	job, _, _ := strings.Cut(token, "/")
	p.Last, p.At, p.Ended, s.holders[job] = n, time.Now(), p.Ended || s.end, token
	s.processes[token] = p
	return p.Ended, nil
}

// check says what is wrong with a step.
func (s *Server) check(token string, p Process, n int, place string) error {
	at := slices.Index(p.Places, place)
	job, _, _ := strings.Cut(token, "/")
	switch holder := s.holders[job]; {
	case p.Last > 0 && s.Alone[job] && holder != token:
		return fmt.Errorf("process %s steps at %s after %s has begun in its place: two copies at once", token, place, holder)
	case at >= 0 && at < len(p.Places)-1:
		return fmt.Errorf("process %s steps at %s while %s holds its lease: two copies at once", token, place, p.Places[len(p.Places)-1])
	case p.Ended && n != p.Last:
		return fmt.Errorf("process %s does step %d at %s: %d was its last", token, n, place, p.Last)
	case n < p.Last && (at >= 0 || !s.Recovers):
		return fmt.Errorf("process %s does step %d at %s a second time: it was at %d", token, n, place, p.Last)
	case n > p.Last+1:
		return fmt.Errorf("process %s goes on with step %d at %s: it was at %d", token, n, place, p.Last)
	}
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
	text, err := ask(ctx, server, token, n, "")
	switch {
	case err != nil:
		return false, fmt.Errorf("take step %d: %w", n, err)
	case text == wordOK || text == wordEnd:
		return text == wordEnd, nil
	}
	return false, errors.New(text)
}

// Tell says what a process has found out about itself at step n: fault, or nothing wrong where that is nil and n was its last
// step. It tries as Take does.
func Tell(ctx context.Context, server, token string, n int, fault error) error {
	words := wordProven
	if fault != nil {
		words = strings.ReplaceAll(fault.Error(), "\n", " ")
	}
	text, err := ask(ctx, server, token, n, words)
	if err == nil && fault == nil && text != wordOK {
		err = errors.New(text)
	}
	return err
}

// ask sends one line until it is answered.
func ask(ctx context.Context, server, token string, n int, words string) (string, error) {
	for {
		text, err := exchange(ctx, server, token, n, words)
		if err == nil {
			return text, nil
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func exchange(ctx context.Context, server, token string, n int, words string) (string, error) {
	dialer := net.Dialer{Timeout: answerTime}
	conn, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	place, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	if _, err := fmt.Fprintf(conn, "%s %d %s %s\n", token, n, place, words); err != nil {
		return "", err
	}
	text, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(text), err
}
