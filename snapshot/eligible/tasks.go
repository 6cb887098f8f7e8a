package eligible

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// reasons are those that tasks may have, the gravest first, with what is said of them: where %s stands, the programs and
// what they have open.
var reasons = []struct{ reason, message string }{
	{v1alpha1.ReasonIOUring, "io_uring in %s: CRIU cannot dump it; set seccompProfile type RuntimeDefault, under which programs do without " +
		"(UV_USE_IO_URING=0 does not help Node.js 24)"},
	{v1alpha1.ReasonDeviceOpen, "open devices in %s: their state cannot be copied; run this part without them"},
	{v1alpha1.ReasonMPTCP, "multipath TCP sockets in %s: CRIU cannot dump them; set the environment variable GODEBUG=multipathtcp=0 for a " +
		"Go program, or switch MPTCP off in the program"},
	{v1alpha1.ReasonSocketUnsupported, "sockets in %s: CRIU cannot dump that kind; have the program do without"},
	{v1alpha1.ReasonFileUnsupported, "open files in %s: CRIU cannot dump that kind; have the program do without"},
	{v1alpha1.ReasonMessageQueue, "open POSIX message queues in %s: CRIU cannot dump them; use another kind of queue"},
	{v1alpha1.ReasonSemaphoreEventfd, "eventfd with EFD_SEMAPHORE in %s: CRIU restores it without, so that one read takes all; " +
		"use an eventfd without the flag"},
	{v1alpha1.ReasonUnlinkedFileTooLarge, "open files without a name in %s: larger than the 1 GiB that CRIU may copy; keep the name until the file is closed"},
	{v1alpha1.ReasonPodAddressBound, "sockets in %s: bound to the pod's own address, and the pod that continues it has another; bind to 0.0.0.0, " +
		"or have the address kept by the annotation " + v1alpha1.AnnotationKeepPodIPAlias + ": \"true\""},
	{v1alpha1.ReasonNestedNamespace, "PID or user namespaces within the container's in %s: CRIU cannot dump them; switch that sandbox off"},
	{v1alpha1.ReasonContainersConnected, "open in several containers: %s; CRIU dumps each container by itself; use TCP over localhost, or bring the " +
		"programs together in one container"},
	{v1alpha1.ReasonSystemVIPC, "System V %s in a pod with several containers: CRIU dumps them with each and restores them once; use POSIX ones " +
		"(/dev/shm), or bring the programs together in one container"},
	{v1alpha1.ReasonTraced, "a debugger is attached to %s: CRIU cannot attach; end the debugger"},
	{v1alpha1.ReasonTaskStopped, "stopped by a signal: %s; CRIU waits for it for ever under the freezer of cgroup v1; send SIGCONT, or use nodes with cgroup v2"},
}

// named is how many programs a message names.
const named = 3

// findings are the programs by reason.
type findings map[string]map[string]bool

func (f findings) add(reason, program, what string) {
	if reason == "" {
		return
	}
	if f[reason] == nil {
		f[reason] = map[string]bool{}
	}
	if what != "" {
		program += " (" + what + ")"
	}
	f[reason][program] = true
}

func (f findings) obstacles() []obstacle.Obstacle {
	var out []obstacle.Obstacle
	for _, r := range reasons {
		programs := slices.Sorted(maps.Keys(f[r.reason]))
		if len(programs) == 0 {
			continue
		}
		if len(programs) > named {
			programs = append(programs[:named], "others")
		}
		out = append(out, obstacle.Obstacle{Reason: r.reason, Message: fmt.Sprintf(r.message, strings.Join(programs, ", "))})
	}
	return out
}

// Tasks returns what the running tasks of the containers with these first processes have that stands in the way, the
// gravest first. Its error is snapshot.ErrGone where one of them is not there.
func (l Looker) Tasks(inits ...int) ([]obstacle.Obstacle, error) { return l.tasks(inits, nil) }

// tasks is Tasks, and looks for sockets that are bound to other addresses than those kept, unless that is nil.
func (l Looker) tasks(inits []int, kept []string) ([]obstacle.Obstacle, error) {
	found := findings{}
	for _, init := range inits {
		if err := l.tasksOf(init, kept, found); err != nil {
			return nil, err
		}
	}
	return found.obstacles(), nil
}

func (l Looker) tasksOf(init int, kept []string, found findings) error {
	pids, err := memory.Processes(l.Proc, init)
	if err != nil {
		return err
	}
	home := task{folder: filepath.Join(l.Proc, strconv.Itoa(init))}
	if err := home.identify(); err != nil {
		return err
	}
	bound, err := home.bound(kept)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		t := task{folder: filepath.Join(l.Proc, strconv.Itoa(pid)), addresses: bound}
		err := t.identify()
		if err == nil && t.pidSpace != "" {
			t.state(home, found)
			err = t.files(found)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("look at process %d: %w", pid, err)
		}
	}
	return nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// task is a process.
type task struct {
	folder, name     string
	status           map[string]string
	pidSpace, userNS string
	freezerV1        bool
	// addresses are those that sockets are bound to and that will be another pod's, by the socket's inode.
	addresses map[string]string
}

// identify reads what is known of the process as a whole.
func (t *task) identify() error {
	raw, err := os.ReadFile(filepath.Join(t.folder, "status"))
	if err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	t.status = map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		t.status[name] = strings.TrimSpace(value)
	}
	t.name = t.status["Name"]
	groups, err := os.ReadFile(filepath.Join(t.folder, "cgroup"))
	if err != nil {
		return fmt.Errorf("read cgroups: %w", err)
	}
	for line := range strings.Lines(string(groups)) {
		if _, rest, _ := strings.Cut(line, ":"); slices.Contains(strings.Split(strings.SplitN(rest, ":", 2)[0], ","), "freezer") {
			t.freezerV1 = true
		}
	}
	if strings.HasPrefix(t.status["State"], "Z") {
		return nil // a zombie has no namespaces any more
	}
	if t.pidSpace, err = os.Readlink(filepath.Join(t.folder, "ns/pid_for_children")); err == nil {
		t.userNS, err = os.Readlink(filepath.Join(t.folder, "ns/user"))
	}
	if err != nil {
		return fmt.Errorf("read namespaces: %w", err)
	}
	return nil
}

// state finds what is in the way of the process as a whole.
func (t *task) state(home task, found findings) {
	if t.pidSpace != "" && (t.pidSpace != home.pidSpace || t.userNS != home.userNS) {
		found.add(v1alpha1.ReasonNestedNamespace, t.name, "")
	}
	if tracer := t.status["TracerPid"]; tracer != "" && tracer != "0" && !t.dumpedBy(tracer) {
		found.add(v1alpha1.ReasonTraced, t.name, "")
	}
	if t.freezerV1 && strings.HasPrefix(t.status["State"], "T") {
		found.add(v1alpha1.ReasonTaskStopped, t.name, "")
	}
}

// dumpedBy says that the tracer is CRIU, our own as a rule: a dump is under way, and lets go by itself. So does one that
// has gone meanwhile.
func (t *task) dumpedBy(tracer string) bool {
	name, err := os.ReadFile(filepath.Join(t.folder, "..", tracer, "comm"))
	return err != nil && gone(err) || strings.TrimSpace(string(name)) == "criu"
}

// files finds what is in the way of the files that the process has open.
func (t *task) files(found findings) error {
	fds, err := os.ReadDir(filepath.Join(t.folder, "fd"))
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, fd := range fds {
		reason, what, err := t.file(fd.Name())
		if err != nil && !gone(err) {
			return err
		}
		found.add(reason, t.name, what)
	}
	return nil
}
