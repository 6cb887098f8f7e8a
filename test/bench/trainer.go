package bench

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bench/room"
)

// trainerScript says what the process holds, and how it changes.
//
//go:embed trainer.py
var trainerScript []byte

// trainerPackages make the Debian root in which the process, CRIU and restic run.
var trainerPackages = []string{"criu", "python3-numpy", "restic"}

// furnish makes the Debian root "$1" the room's, with a tmpfs over it that is mounted at "$2", and the folder "$3" as
// /disk in it. CRIU refuses to work in a chroot, thus pivot_root.
const furnish = `mount -t tmpfs tmpfs "$2"
cd "$2"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work" root
cd root
mkdir -p proc sys dev run tmp disk .old
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind "$3" disk
pivot_root . .old
umount -l /.old
cd /
mkdir /run/trainer
mkfifo /run/trainer/commands /run/trainer/replies`

// Folders of the room. Its tmpfs holds the dumps, the machine's disk what restic keeps.
const (
	trainerFolder = "/run/trainer"
	dumpFolder    = "/run/dump"
	beforeFolder  = "/run/before" // the dump before
	fetchFolder   = "/run/fetched"
	workFolder    = "/run/criu"
	diskFolder    = "/disk"
)

const (
	fillTime   = 2 * time.Minute
	answerTime = time.Minute
)

// trainer is the numpy process in a room of its own, and CRIU beside it.
type trainer struct {
	room              *room.Room
	commands, replies *os.File
	answers           *bufio.Reader
	pid               string // in the room
	resident          string // KiB when it was filled
	ended             chan error
}

// startTrainer opens the room and waits until the process has filled its memory. folder is an empty one on the disk.
func startTrainer(ctx context.Context, root, folder string) (_ *trainer, err error) {
	mount, disk := filepath.Join(folder, "root"), filepath.Join(folder, "disk")
	if err := errors.Join(os.Mkdir(mount, 0o700), os.Mkdir(disk, 0o700)); err != nil {
		return nil, fmt.Errorf("make folders of the room: %w", err)
	}
	r, err := room.Open(ctx, 0, furnish, root, mount, disk)
	if err != nil {
		return nil, err
	}
	t := &trainer{room: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	script := r.Path(trainerFolder + "/trainer.py")
	if err := os.WriteFile(script, trainerScript, 0o600); err != nil {
		return nil, fmt.Errorf("write the process's program: %w", err)
	}
	// Opened for both directions, a FIFO needs nobody at its other end.
	if t.commands, err = os.OpenFile(r.Path(trainerFolder+"/commands"), os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("open FIFO: %w", err)
	}
	if t.replies, err = os.OpenFile(r.Path(trainerFolder+"/replies"), os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("open FIFO: %w", err)
	}
	t.answers = bufio.NewReader(t.replies)
	// A session of its own, and no file of ours: CRIU dumps neither terminals nor pipes that lead outside.
	const start = "exec setsid python3 trainer.py commands replies </dev/null >/dev/null 2>errors"
	if err := t.run(ctx, "sh", "-c", "cd "+trainerFolder+" && "+start); err != nil {
		return nil, err
	}
	return t, t.answered(ctx, "filled", fillTime)
}

// Close ends the process and all of its room.
func (t *trainer) Close() error {
	err := t.room.Close()
	for _, fifo := range []*os.File{t.commands, t.replies} {
		if fifo != nil {
			err = errors.Join(err, fifo.Close())
		}
	}
	return err
}

// run starts a command that is, or brings back, the process; t.ended tells its end.
func (t *trainer) run(ctx context.Context, name string, args ...string) error {
	command := t.room.Command(ctx, name, args...)
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	t.ended = make(chan error, 1)
	go func() { t.ended <- command.Wait() }()
	return nil
}

// tell has the process do something and waits until it has.
func (t *trainer) tell(ctx context.Context, verb, argument string) error {
	if _, err := fmt.Fprintln(t.commands, verb, argument); err != nil {
		return fmt.Errorf("tell the process to %s: %w", verb, err)
	}
	return t.answered(ctx, verb, answerTime)
}

// answered waits for the process's answer to verb.
func (t *trainer) answered(ctx context.Context, verb string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		line string
		err  error
	}
	come := make(chan answer, 1) // an answer that nobody waits for any more ends with the FIFO
	go func() {
		line, err := t.answers.ReadString('\n')
		come <- answer{line, err}
	}()
	select {
	case a := <-come:
		words := strings.Fields(a.line)
		if a.err != nil {
			return fmt.Errorf("read the process's answer to %s: %w", verb, a.err)
		}
		if len(words) != 3 || words[0] != verb {
			return fmt.Errorf("the process answered %q to %s", a.line, verb)
		}
		t.resident, t.pid = words[1], words[2]
		return nil
	case err := <-t.ended:
		t.ended <- err
		return fmt.Errorf("the process ended in the middle of %s: %w: %s", verb, err, t.said("errors"))
	case <-ctx.Done():
		return fmt.Errorf("wait for the process to %s: %w: %s", verb, ctx.Err(), t.said("errors"))
	}
}

// said is what a file beside the process's program holds.
func (t *trainer) said(name string) []byte {
	text, _ := os.ReadFile(t.room.Path(trainerFolder + "/" + name)) // for a message only
	return bytes.TrimSpace(text)
}

// dump replaces the dump before by the last one, and that by a full dump of now; the process runs on.
func (t *trainer) dump(ctx context.Context) error {
	const script = `rm -rf ` + beforeFolder + ` ` + workFolder + `
[ ! -e ` + dumpFolder + ` ] || mv ` + dumpFolder + ` ` + beforeFolder + `
mkdir ` + dumpFolder + ` ` + workFolder + `
criu dump --tree "$0" --leave-running --images-dir ` + dumpFolder + ` --work-dir ` + workFolder + ` \
	--manage-cgroups=ignore --log-file dump.log || { tail -n 20 ` + workFolder + `/dump.log >&2; exit 1; }
`
	_, err := t.room.Run(ctx, "sh", "-c", script, t.pid)
	return err
}

// kill ends the process.
func (t *trainer) kill(ctx context.Context) error {
	if _, err := t.room.Run(ctx, "sh", "-c", `kill -KILL "$0"`, t.pid); err != nil {
		return err
	}
	select {
	case <-t.ended: // killed, which is an error of its command
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the process: %w", ctx.Err())
	}
}

// restore brings the killed process back from a folder of images.
func (t *trainer) restore(ctx context.Context, folder string) error {
	const script = `criu restore --images-dir "$0" --work-dir ` + workFolder + ` --manage-cgroups=ignore \
	--log-file restore.log || { tail -n 20 ` + workFolder + `/restore.log >` + trainerFolder + `/errors; exit 1; }`
	return t.run(ctx, "sh", "-c", script, folder)
}

// checkRestore ends the process, brings it back from the images in folder, and has it compare all that it holds with
// what it held: one CRC of each page of its arrays and of each of its objects. It returns how many there were, and how
// many differ.
func (t *trainer) checkRestore(ctx context.Context, folder string) (compared, mismatches int, err error) {
	before, err := t.sums(ctx, "sums-before")
	if err != nil {
		return 0, 0, err
	}
	if err := t.kill(ctx); err != nil {
		return 0, 0, err
	}
	if err := t.restore(ctx, folder); err != nil {
		return 0, 0, err
	}
	after, err := t.sums(ctx, "sums-after")
	if err != nil {
		return 0, 0, fmt.Errorf("restore from %s: %w", folder, err)
	}
	compared, mismatches = compareSums(before, after)
	return compared, mismatches, nil
}

func (t *trainer) sums(ctx context.Context, name string) ([]byte, error) {
	if err := t.tell(ctx, "sums", name); err != nil {
		return nil, err
	}
	sums, err := os.ReadFile(t.room.Path(trainerFolder + "/" + name))
	if err != nil {
		return nil, fmt.Errorf("read sums: %w", err)
	}
	return sums, nil
}

const sumSize = 4

// compareSums counts sums and those that differ; one that is on one side only differs.
func compareSums(before, after []byte) (compared, mismatches int) {
	for len(before) >= sumSize && len(after) >= sumSize {
		if !bytes.Equal(before[:sumSize], after[:sumSize]) {
			mismatches++
		}
		compared++
		before, after = before[sumSize:], after[sumSize:]
	}
	left := (len(before) + len(after) + sumSize - 1) / sumSize
	return compared + left, mismatches + left
}
