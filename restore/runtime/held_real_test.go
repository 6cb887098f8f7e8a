package runtime_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/restore/runtime/runtimetest"
)

// spinArgument makes the test binary spin: two threads of it and two of its child each add to a number of their own in the
// file of that name, without a pause, so that not even a microsecond of any of them goes unseen.
const spinArgument = "spin"

const spinners = 4

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == spinArgument {
		spin(os.Args[2], os.Args[3] == "child")
	}
	os.Exit(m.Run())
}

func spin(path string, child bool) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = file.Truncate(8 * spinners)
	}
	if err != nil {
		panic(err)
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, 8*spinners, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	first := 0
	if child {
		first = 2
	} else if err := exec.Command("/program", spinArgument, path, "child").Start(); err != nil {
		panic(err)
	}
	for i := first; i < first+2; i++ {
		number := (*uint64)(unsafe.Pointer(&memory[8*i]))
		go func() {
			for {
				atomic.AddUint64(number, 1)
			}
		}()
	}
	select {}
}

// spun reads the numbers of the spinner whose root that is.
func spun(t *testing.T, root string) (numbers [spinners]uint64) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "numbers"))
	if os.IsNotExist(err) {
		return numbers
	}
	require.NoError(t, err)
	for i := range min(spinners, len(content)/8) {
		numbers[i] = binary.NativeEndian.Uint64(content[8*i:])
	}
	return numbers
}

// requireSpinning waits until each number is above floor's.
func requireSpinning(t *testing.T, root string, floor [spinners]uint64) {
	t.Helper()
	require.Eventually(t, func() bool {
		now := spun(t, root)
		for i := range now {
			if now[i] <= floor[i] {
				return false
			}
		}
		return true
	}, within, tick, "%v and then %v", floor, spun(t, root))
}

func spinner(t *testing.T, id, uts, root string) string {
	t.Helper()
	bundle := container(t, id, uts, root)
	config := readAll(filepath.Join(bundle, "config.json"))
	config = strings.Replace(config, `["/program","lifeboat-self-test-count","/number"]`, `["/program","spin","/numbers","parent"]`, 1)
	config = strings.Replace(config, `"io.kubernetes.cri.container-type":"container"`,
		`"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-uid":"pod-uid"`, 1)
	require.Contains(t, config, "/numbers")
	write(t, filepath.Join(bundle, "config.json"), config)
	self, err := os.Executable()
	require.NoError(t, err)
	program, err := os.ReadFile(self)
	require.NoError(t, err)
	write(t, filepath.Join(root, "program"), string(program))
	return bundle
}

func status(t *testing.T, id string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "runc", "state", id).Output()
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(output), `"status": "`)
	status, _, _ := strings.Cut(rest, `"`)
	return status
}

// A container that waits for the others of its pod runs nothing from its restore until it is thawed, and nothing at all
// where it is ended before.
func TestRestoreHeldForReal(t *testing.T) {
	if !runtimetest.Inside(t) {
		return
	}
	m := newMachine(t)
	root, uts := "/run/test/root", sandbox(t, "pod")
	bundle := spinner(t, "source", uts, root)
	require.NoError(t, run(t, wrapper, "create", "--bundle", bundle, "source"))
	require.NoError(t, run(t, wrapper, "start", "source"))
	requireSpinning(t, root, [spinners]uint64{})
	t.Setenv("CRIU_CONFIG_FILE", "/run/test/criu.conf")
	require.NoError(t, run(t, "runc", "checkpoint", "--file-locks", "--image-path", images, "--work-path", "/run/test/work", "source"))
	stood := spun(t, root)

	held := restoreOf(images)
	held.Action = handover.ActionRestoreHeld
	m.answer(held)
	for _, end := range [][]string{{"kill", "ID", "KILL"}, {"delete", "--force", "ID"}, nil} {
		id := "copy-" + strings.Join(end, "")
		require.NoError(t, run(t, wrapper, "create", "--bundle", spinner(t, id, uts, root), id))
		require.Equal(t, handover.ResultRequest{ContainerID: id}, m.lastResult(t))
		require.NoError(t, run(t, wrapper, "start", id), "a start changes nothing")
		require.Equal(t, "paused", status(t, id))
		require.NoError(t, run(t, wrapper, "kill", id, "TERM"))
		file := filepath.Join(handover.HeldDir, "pod-uid", id)
		require.Equal(t, "15\n", readAll(file), "held back")
		require.Never(t, func() bool { return spun(t, root) != stood }, 10*tick, tick, "it ran before it was thawed")
		if end == nil {
			require.NoError(t, run(t, "runc", "resume", id))
			requireSpinning(t, root, stood)
			break
		}
		for i, arg := range end {
			end[i] = strings.ReplaceAll(arg, "ID", id)
		}
		require.NoError(t, run(t, append([]string{wrapper}, end...)...))
		require.Eventually(t, func() bool { return status(t, id) != "paused" && status(t, id) != "running" }, within, tick)
		require.NoError(t, run(t, wrapper, "delete", "--force", id))
		require.NoDirExists(t, filepath.Dir(file))
		require.Equal(t, stood, spun(t, root), "it ran while it was ended")
	}
}
