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

// maxRounds bounds how often one create asks the agent and follows it. The agent's own ladder needs five (two attempts with the
// newest generation and two with the one before, then a plain create); more than that is an agent that does not count.
const maxRounds = 5

// Times bound the waits of one create.
type Times struct {
	// Create bounds the whole, and Ask, counted from the same moment, the questions to the agent.
	Create, Ask time.Duration
	// Absent bounds the wait for an agent that nobody has heard of yet. A pod that runs anew on a node that has just started
	// may be one whose state goes on elsewhere, and one that the webhook has not seen may be a replacement: only an agent knows.
	Absent time.Duration
	// Result bounds the report of how a restore ended, Await the answer for a sandbox.
	Result, Await time.Duration
	// Pause lies between two tries to reach the agent.
	Pause time.Duration
}

// hostTimes fit the two minutes that the kubelet gives CreateContainer (runtimeRequestTimeout); the fetch gets most of
// them. A sandbox may take twice as long.
var hostTimes = Times{
	Create: 115 * time.Second, Ask: 100 * time.Second, Absent: 30 * time.Second, Result: 3 * time.Second, Await: time.Minute,
	Pause: 200 * time.Millisecond,
}

// Options are the wrapper's surroundings. HostOptions gives those of a node.
type Options struct {
	// Runtime is the absolute path of the runtime beneath.
	Runtime string
	// ToolDir is put before PATH for a restore: CRIU lies there.
	ToolDir string
	// Socket, RestoredDir, HoldDir and HeldDir are those of package handover.
	Socket, RestoredDir, HoldDir, HeldDir string
	// Times are the waits; all have to be set.
	Times Times
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
		HeldDir:     handover.HeldDir,
		Times:       hostTimes,
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
		return o.kill(call, id, flags)
	case "delete":
		return o.delete(call, id)
	}
	return errPassThrough
}

// create restores the container or passes the call on, as the agent says. A create that fails is the end of a pod that
// must not restart, so every rung of the agent's ladder is climbed in here.
func (o Options) create(ctx context.Context, call Invocation, flags Flags, id string) error {
	bundle, err := filepath.Abs(flags.Value("bundle", "b"))
	if err != nil {
		return fmt.Errorf("find the bundle of %s: %w", id, err)
	}
	config, err := readBundle(bundle)
	if err == nil && config.Annotations[annotationContainerType] == containerTypeSandbox {
		return o.createSandbox(ctx, config)
	}
	if err != nil || config.Annotations[annotationContainerType] != containerTypeContainer {
		return errPassThrough
	}
	ctx, cancel := context.WithTimeout(ctx, o.Times.Create)
	defer cancel()
	asking, stop := context.WithTimeout(ctx, o.Times.Ask)
	defer stop()

	agent := newAgentClient(o.Socket, o.Times.Pause)
	question := question{agent: agent, request: config.prepareRequest(id, bundle), until: time.Now().Add(o.Times.Absent)}
	question.insist = question.request.RestoreFrom != "" || o.holdsAny(question.request.PodUID)
	var failure error
	for range maxRounds {
		reply, err := question.ask(asking)
		if err != nil {
			return errors.Join(err, failure)
		}
		if reply.Action == handover.ActionCreate {
			return errPassThrough
		}
		job := restore{options: o, agent: agent, call: call, flags: flags, id: id, bundle: bundle, config: config, reply: reply}
		var again bool
		if again, failure = job.run(ctx); !again {
			return failure
		}
		// The generation's files lie in the container's root by now: a plain create needs the agent's word.
		question.insist = true
	}
	return fmt.Errorf("the lifeboat agent asked for a restore %d times, and none came to life: %w", maxRounds, failure)
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
