package files

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
)

const (
	writerRoot    = "LIFEBOAT_TEST_WRITER_ROOT"
	writerFolders = "LIFEBOAT_TEST_WRITER_FOLDERS"
)

// TestMain runs the writer process where it is asked for.
func TestMain(m *testing.M) {
	if folders := os.Getenv(writerFolders); folders != "" {
		// It follows links of its own making, as root: the machine's files must be out of its reach.
		if err := errors.Join(unix.Chroot(os.Getenv(writerRoot)), unix.Chdir("/")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		write(strings.Split(folders, ":"))
		return
	}
	os.Exit(m.Run())
}

// write changes files in the folders in every way, until it is killed. What fails because of its own doings is left.
func write(folders []string) {
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 7))
	var views [][]byte
	for {
		if rng.IntN(4) == 0 {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		}
		folder := folders[rng.IntN(len(folders))]
		name := filepath.Join(folder, fmt.Sprintf("d%d", rng.IntN(3)), fmt.Sprintf("f%d", rng.IntN(30)))
		_ = os.MkdirAll(filepath.Dir(name), 0o755)
		switch op := rng.IntN(14); op {
		case 0:
			_ = replace(name, random(rng.Uint64(), rng.IntN(40*page)))
		case 1:
			_ = os.Truncate(name, rng.Int64N(64*page))
		case 2:
			_ = os.Rename(name, filepath.Join(folder, fmt.Sprintf("d%d/f%d", rng.IntN(3), rng.IntN(12))))
		case 3:
			_ = os.Remove(name)
		case 4:
			_ = os.Link(name, filepath.Join(folder, fmt.Sprintf("d%d/f%d", rng.IntN(3), rng.IntN(12))))
		case 5:
			_ = os.RemoveAll(filepath.Dir(name))
		case 6:
			_ = os.Symlink("nowhere", name)
		case 7:
			_ = unix.Mkfifo(name, 0o600)
		case 8:
			_ = unix.Setxattr(name, "user.x", random(rng.Uint64(), rng.IntN(50)), 0)
		case 9:
			if len(views) == 4 {
				_ = unix.Munmap(views[0])
				views = views[1:]
			}
			if view := mapped(name); view != nil {
				views = append(views, view)
			}
		default:
			change(rng, name, views, op)
		}
	}
}

// replace does not wait for a reader where a fifo has the name.
func replace(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

// mapped is a file of its own of which some pages are mapped, and nil where there is none.
func mapped(name string) []byte {
	f, err := os.OpenFile(name+"-mapped", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil
	}
	defer f.Close()
	if f.Truncate(8*page) != nil {
		return nil
	}
	view, err := unix.Mmap(int(f.Fd()), 0, 8*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	return view
}

// change changes content in place.
func change(rng *rand.Rand, name string, views [][]byte, op int) {
	if len(views) > 0 {
		views[rng.IntN(len(views))][rng.IntN(8*page)]++ // nobody truncates what is mapped
	}
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	if op == 10 {
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, rng.Int64N(20)*page, 10*page)
		return
	}
	_, _ = f.WriteAt(random(rng.Uint64(), 1+rng.IntN(3*page)), rng.Int64N(40*page))
	if op == 11 {
		_ = os.Chtimes(name, info.ModTime(), info.ModTime())
	}
}

// stop stops or goes on with a process, and waits until that is so.
func stop(t *testing.T, process *os.Process, signal unix.Signal) {
	t.Helper()
	require.NoError(t, process.Signal(signal))
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(process.Pid, &status, unix.WUNTRACED|unix.WCONTINUED, nil)
		if !errors.Is(err, unix.EINTR) {
			require.NoError(t, err)
			break
		}
	}
	require.Equal(t, signal == unix.SIGSTOP, status.Stopped())
}

// Rounds while a process changes everything, and a second pass each time it stands still: the generation is what the
// trees are, in every byte.
func TestGenerationsOfTreesThatChange(t *testing.T) {
	p, g := newPod(t), newGenerations()
	writer := exec.CommandContext(t.Context(), "/proc/self/exe")
	dir := filepath.Dir(p.bundle)
	writer.Env = append(os.Environ(), writerRoot+"="+dir,
		writerFolders+"="+strings.TrimPrefix(p.root, dir)+"/data:"+strings.TrimPrefix(p.volume, dir))
	writer.Stderr = os.Stderr
	require.NoError(t, writer.Start())
	defer func() {
		require.NoError(t, writer.Process.Kill())
		require.Error(t, writer.Wait())
	}()
	containers := p.containers()
	containers[0].PID = writer.Process.Pid
	var sum Stats
	for until := time.Now().Add(4 * time.Second); time.Now().Before(until); {
		w := g.begin(t)
		for range 1 + rand.IntN(3) {
			stats, err := p.reader.Preload(t.Context(), containers, exclude.Patterns{}, w)
			require.NoError(t, err)
			sum.Vanished += stats.Vanished
			sum.Spared += stats.Spared
		}
		stop(t, writer.Process, unix.SIGSTOP)
		stats, err := p.reader.AddTo(t.Context(), containers, exclude.Patterns{}, w)
		require.NoError(t, err)
		require.Zero(t, stats.Vanished)
		sum.Spared += stats.Spared
		sum.Files += stats.Files
		g.commit(t, w)
		g.requireTrees(t, p)
		stop(t, writer.Process, unix.SIGCONT)
	}
	t.Logf("%d generations: %d files read while frozen, %d spared, %d vanished", g.base.Head().Number, sum.Files, sum.Spared, sum.Vanished)
}
