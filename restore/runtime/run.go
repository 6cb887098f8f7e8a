package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// The kubelet gives CreateContainer two minutes (runtimeRequestTimeout); the fetch gets most of them.
const (
	prepareTimeout = 100 * time.Second
	createTimeout  = 115 * time.Second
	resultTimeout  = 3 * time.Second
	resultPause    = 200 * time.Millisecond
)

// Options are the wrapper's surroundings. HostOptions gives those of a node.
type Options struct {
	// Runtime is the absolute path of the runtime beneath.
	Runtime string
	// ToolDir is put before PATH for a restore: CRIU lies there.
	ToolDir string
	// Socket, RestoredDir and HoldDir are those of package handover.
	Socket, RestoredDir, HoldDir string
	// Exec replaces this process, as syscall.Exec does.
	Exec func(path string, argv, env []string) error
	// Stderr gets the errors, which also go to the file of --log.
	Stderr io.Writer
}

// File is /opt/lifeboat/etc/runtime.json, written when Lifeboat is put on a node.
type File struct {
	// Runtime is the runtime beneath: an absolute path, or a name to look up in PATH.
	Runtime string `json:"runtime"`
}

// HostOptions are the options of the node this program lies on: it reads ../etc/runtime.json beside its own folder,
// and without that file the runtime beneath is the runc in PATH.
func HostOptions() (Options, error) {
	self, err := os.Executable()
	if err != nil {
		return Options{}, fmt.Errorf("find this program's path: %w", err)
	}
	dir := filepath.Dir(self)
	beneath, err := runtimeBeneath(filepath.Join(dir, "..", "etc", "runtime.json"))
	if err != nil {
		return Options{}, err
	}
	if same(self, beneath) {
		return Options{}, fmt.Errorf("the runtime beneath %s is this program itself: name another one in etc/runtime.json", self)
	}
	return Options{
		Runtime:     beneath,
		ToolDir:     dir,
		Socket:      handover.Socket,
		RestoredDir: handover.RestoredDir,
		HoldDir:     handover.HoldDir,
		Exec:        syscall.Exec,
		Stderr:      os.Stderr,
	}, nil
}

// Run acts on one command line (argv[0] is the program's name) and returns the exit status. It does not return where
// the call is handed to the runtime beneath.
func Run(ctx context.Context, argv []string, options Options) int {
	call := ParseInvocation(argv[min(1, len(argv)):])
	err := options.dispatch(ctx, call)
	if errors.Is(err, errPassThrough) {
		err = options.Exec(options.Runtime, append([]string{options.Runtime}, argv[min(1, len(argv)):]...), os.Environ())
		if err != nil {
			err = fmt.Errorf("exec %s: %w", options.Runtime, err)
		}
	}
	if err == nil {
		return 0
	}
	report(call, options.Stderr, "error", "lifeboat-runtime: "+err.Error())
	return 1
}

// errPassThrough says that the runtime beneath shall do what was asked.
var errPassThrough = errors.New("pass through")

func (o Options) dispatch(ctx context.Context, call Invocation) error {
	flags := ParseFlags(call.Args)
	if len(flags.Positional) == 0 || !validID(flags.Positional[0]) {
		return errPassThrough
	}
	id := flags.Positional[0]
	switch call.Command {
	case "create":
		return o.create(ctx, call, flags, id)
	case "start":
		return o.start(id)
	case "kill":
		return o.kill(id, flags)
	case "delete":
		return o.delete(call, id)
	}
	return errPassThrough
}

// create restores the container or passes the call on, as the agent says.
func (o Options) create(ctx context.Context, call Invocation, flags Flags, id string) error {
	bundle, err := filepath.Abs(flags.Value("bundle", "b"))
	if err != nil {
		return fmt.Errorf("find the bundle of %s: %w", id, err)
	}
	config, err := readBundle(bundle)
	if err != nil || config.Annotations[annotationContainerType] != containerTypeContainer {
		return errPassThrough
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	asking, stop := context.WithTimeout(ctx, prepareTimeout)
	defer stop()

	agent := newAgentClient(o.Socket)
	reply, err := agent.prepare(asking, config.prepareRequest(id, bundle))
	from := config.Annotations[annotationRestoreFrom]
	switch {
	case errors.Is(err, errNoAgent) && from == "":
		return errPassThrough
	case errors.Is(err, errNoAgent):
		return fmt.Errorf("%w, and this pod continues checkpoint %s, so it is not started clean: it is tried again "+
			"until the agent is back; remove the annotation %s from a new pod to start it clean", err, from, annotationRestoreFrom)
	case err != nil:
		return err
	case reply.Action == handover.ActionCreate:
		return errPassThrough
	}
	job := restore{options: o, agent: agent, call: call, flags: flags, id: id, bundle: bundle, config: config, reply: reply}
	return job.run(ctx)
}

// runtimeBeneath reads the runtime.json at path and resolves what it names.
func runtimeBeneath(path string) (string, error) {
	file := File{Runtime: "runc"}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the runtime beneath: %w", err)
	}
	if err == nil {
		if err := json.Unmarshal(data, &file); err != nil {
			return "", fmt.Errorf("read %s: %w", path, err)
		}
	}
	beneath, err := exec.LookPath(file.Runtime)
	if err != nil {
		return "", fmt.Errorf("find the runtime beneath (named in %s): %w", path, err)
	}
	return beneath, nil
}

func same(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}
