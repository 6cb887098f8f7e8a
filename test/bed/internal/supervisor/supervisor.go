// Package supervisor is the process behind a bed. It is pid 1 of the bed's pid namespace and lives in the hub's network
// namespace and in a mount namespace of its own, so that ending this one process ends the whole bed, and nothing but
// cgroups and the state folder can be left over.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/cgroup"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/pidone"
)

// Descriptors that Up hands over. The listeners were opened in the machine's root network namespace.
const (
	FdEvents   = 3 // write end of a pipe: Event lines until the bed is ready or has failed
	FdLifeline = 4 // read end of a pipe: its end ends the bed, unless LifelineDetach came first
	FdLock     = 5 // the bed's lock, held for as long as the supervisor lives
	FdHostNet  = 6 // the machine's root network namespace
	FdAPI      = 7
	FdBucket   = 8
	FdRegistry = 9
)

// LifelineDetach is the byte that lets a bed outlive the process that brought it up.
const LifelineDetach = 'd'

// Kinds of event lines: the first byte says which.
const (
	EventProgress = 'P'
	EventFailed   = 'E'
	EventReady    = 'R'
)

const cleanUpTimeout = 20 * time.Second

type supervisor struct {
	layout.Config
	log     zerolog.Logger
	reaper  *pidone.Reaper
	hostNet *os.File
	group   *errgroup.Group
	// bucket is nil where it is not this bed's own.
	bucket, apiserver *pidone.Service

	events   io.WriteCloser
	eventsMu sync.Mutex

	nodesMu sync.Mutex
	nodes   map[string]*nodeProcess
}

// Run brings a bed up from the configuration in its state folder and keeps it up until its lifeline ends.
func Run(ctx context.Context, dir layout.Dir) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	s := &supervisor{log: zerolog.New(os.Stderr).With().Timestamp().Logger(), reaper: pidone.NewReaper(),
		nodes: map[string]*nodeProcess{}}
	for fd := FdEvents; fd <= FdRegistry; fd++ {
		unix.CloseOnExec(fd)
	}
	s.events = os.NewFile(FdEvents, "events")
	s.hostNet = os.NewFile(FdHostNet, "host network")
	if err := layout.ReadJSON(dir.Config(), &s.Config); err != nil {
		return s.fail(fmt.Errorf("read configuration: %w", err))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.lifeline(cancel)
	go s.reaper.Run(context.WithoutCancel(ctx)) // cleaning up needs it still
	s.group, ctx = errgroup.WithContext(ctx)
	s.group.Go(func() error { return s.up(ctx) })
	err := s.group.Wait()
	return s.fail(errors.Join(err, s.cleanUp(context.WithoutCancel(ctx))))
}

// lifeline ends the bed with the process that brought it up.
func (s *supervisor) lifeline(cancel context.CancelFunc) {
	b, _ := io.ReadAll(os.NewFile(FdLifeline, "lifeline"))
	if len(b) > 0 && b[len(b)-1] == LifelineDetach {
		return
	}
	s.log.Info().Msg("the process that brought the bed up has ended")
	cancel()
}

// cleanUp removes the nodes' cgroups; all else goes with this process.
func (s *supervisor) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	var faults []error
	for _, n := range layout.Nodes() {
		faults = append(faults, s.killNode(ctx, n.Name), cgroup.Remove(ctx, layout.CgroupName(s.Suffix, n.Name)))
	}
	return errors.Join(faults...)
}

func (s *supervisor) up(ctx context.Context) error {
	began := time.Now()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	for _, step := range []func(context.Context) error{s.folders, s.keys, s.hub, s.services} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	var g errgroup.Group
	nodes := layout.Nodes()
	if s.NoNodes {
		nodes = nil
	}
	for _, n := range nodes {
		g.Go(func() error { return s.startNode(ctx, n.Name) })
	}
	g.Go(func() error { return s.controlPlane(ctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	if !s.NoNodes {
		if err := s.awaitNodes(ctx, began); err != nil {
			return err
		}
	}
	if err := s.serveControl(ctx); err != nil {
		return err
	}
	s.group.Go(func() error { return s.bury(ctx) })
	s.send(EventReady, "")
	s.eventsMu.Lock()
	defer s.eventsMu.Unlock()
	events := s.events
	s.events = nil
	return events.Close()
}

func (s *supervisor) folders(context.Context) error {
	for _, dir := range []string{"pki", "log", "etcd", "registry", "s3", "tmp"} {
		if err := os.MkdirAll(s.Dir.Path(dir), 0o700); err != nil {
			return err
		}
	}
	return os.MkdirAll(s.Dir.Shared(), 0o755)
}

// progress tells Up how far the bed is.
func (s *supervisor) progress(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.log.Info().Msg(text)
	s.send(EventProgress, text)
}

func (s *supervisor) send(kind byte, text string) {
	s.eventsMu.Lock()
	defer s.eventsMu.Unlock()
	if s.events != nil {
		_, _ = fmt.Fprintf(s.events, "%c%s\n", kind, strings.ReplaceAll(text, "\n", "; "))
	}
}

func (s *supervisor) fail(err error) error {
	if err != nil {
		s.send(EventFailed, err.Error())
	}
	return err
}

// service starts one process of the bed and keeps it running.
func (s *supervisor) service(ctx context.Context, name string, args ...string) *pidone.Service {
	svc := pidone.NewService(s.reaper, s.log, name, s.Dir.Log(name), pidone.Spec{Args: args, Env: s.environment()})
	s.group.Go(func() error { return svc.Run(ctx) })
	return svc
}

func (s *supervisor) environment() []string {
	return []string{
		layout.Environment + "=" + s.Suffix,
		"ROOT_ACCESS_KEY=" + layout.AccessKey, "ROOT_SECRET_KEY=" + layout.SecretKey,
	}
}

// inherited is a listener that Up opened in the machine's root network namespace.
func inherited(fd uintptr) (net.Listener, error) {
	f := os.NewFile(fd, fmt.Sprintf("listener %d", fd))
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over listener %d: %w", fd, err)
	}
	return l, nil
}

// await calls ready until it is true. The last error is told when ctx ends first.
func await(ctx context.Context, what string, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s (%s): %w", what, limit, err)
		case <-tick.C:
		}
	}
}

func hostPort(address string, port int) string { return net.JoinHostPort(address, fmt.Sprint(port)) }

func (s *supervisor) kubernetes(name string) string { return filepath.Join(s.Kubernetes, name) }
