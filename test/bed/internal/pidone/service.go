package pidone

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// restartDelay keeps a service that fails at once from taking a whole processor.
const restartDelay = time.Second

// Service is a process that is started again when it ends.
type Service struct {
	name   string
	spec   Spec
	log    string
	reaper *Reaper
	logger zerolog.Logger

	mu      sync.Mutex
	child   *Child
	stopped bool
	wake    chan struct{}
}

// NewService describes a service; its output is appended to the file log.
func NewService(r *Reaper, logger zerolog.Logger, name, log string, spec Spec) *Service {
	return &Service{name: name, spec: spec, log: log, reaper: r,
		logger: logger.With().Str("service", name).Logger(), wake: make(chan struct{}, 1)}
}

// Run keeps the service running until ctx ends, and kills it then.
func (s *Service) Run(ctx context.Context) error {
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	defer out.Close()
	s.spec.Output = out
	for ctx.Err() == nil {
		asked, err := s.once(ctx)
		if err != nil {
			return err
		}
		delay := restartDelay
		if asked {
			delay = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
	return nil
}

// once runs the process to its end; asked says that the end was wanted.
func (s *Service) once(ctx context.Context) (asked bool, err error) {
	c, err := s.start()
	if err != nil {
		return false, err
	}
	if c == nil { // stopped: wait for Start
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
		return true, nil
	}
	select {
	case <-ctx.Done():
		c.Signal(syscall.SIGKILL)
		<-c.Done()
		return true, nil
	case <-c.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	asked = s.child != c
	if !asked {
		s.child = nil
		s.logger.Warn().AnErr("cause", c.Err()).Msg("service ended, starting it again")
	}
	return asked, nil
}

func (s *Service) start() (*Child, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, nil
	}
	c, err := s.reaper.Start(s.spec)
	if err == nil {
		s.child = c
	}
	return c, err
}

// Signal sends the process a signal, where there is one.
func (s *Service) Signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.child != nil {
		s.child.Signal(sig)
	}
}

// Stop ends the process and keeps it down. It returns when the process is gone.
func (s *Service) Stop(sig syscall.Signal) { s.end(sig, true) }

// Start lets a stopped service run again.
func (s *Service) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = false
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Restart ends the process; Run starts it again at once.
func (s *Service) Restart(sig syscall.Signal) {
	s.end(sig, false)
	s.Start()
}

func (s *Service) end(sig syscall.Signal, stay bool) {
	s.mu.Lock()
	c := s.child
	s.child, s.stopped = nil, stay
	s.mu.Unlock()
	if c != nil {
		c.Signal(sig)
		<-c.Done()
	}
}

// PID is the process's id, 0 while there is none.
func (s *Service) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.child == nil {
		return 0
	}
	return s.child.PID
}
