package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
)

// Incremental dumps containers by what CRIU knows to have been written to (soft-dirty) since a round of its own: go-criu's
// pre-dumps, and a dump by the runtime that builds on the newest of them. It implements snapshot.Scanner by such rounds.
//
// What holds:
//
//   - Of a container one folder is kept between rounds, the parent of the next: page maps of its newest round or dump, all
//     pages present, and not the pages themselves. CRIU asks of a parent only whether it has a page (check_pagehole_in_parent
//     in criu/page-xfer.c). While a round is under way what it writes lies beside: what has changed, the first time all.
//   - Pages that CRIU leaves to the parent are read from the frozen tasks. So a generation is what the tasks had, whoever else
//     clears soft-dirty bits, and whatever became of rounds; that costs bytes alone. A round is a guess, as everywhere.
//   - Whatever fails in a round or dump, the next round begins anew with all memory. A dump after a round that failed or was
//     cut off, as by a notice, still builds on what there is; where CRIU then misses pages in the parent, there is a full one.
//   - CRIU is not killed while it has its code in the tasks, unless it takes longer than settle to leave them.
//   - Shared memory is never left to a parent: CRIU does not see who else writes to it (is_shmem_tracking_en in criu/shmem.c).
//
// One call at a time may be about the same container.
type Incremental struct {
	Runc *Runc
	// Dir is the host path of a folder of its own for the rounds. Nothing in it outlives the process: see Clear.
	Dir string
	// Meter measures vitals.
	Meter memory.Scanner

	mu      sync.Mutex
	parents map[string]parent // by container
}

// parent says what the folder of that name can be built on for.
type parent struct {
	init int
	// missed says that a round since has cleared soft-dirty bits, and its pages were not handed on, or not all: a dump has
	// them all the same, the next round must have all memory.
	missed bool
}

var _ snapshot.Scanner = (*Incremental)(nil)

// errNoRound: a dump has nothing to build on.
var errNoRound = errors.New("no round of pre-dump to build on")

// Clear removes all rounds: for the start, where an earlier process may have left some, and for the end.
func (i *Incremental) Clear() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.parents)
	if err := os.RemoveAll(i.Runc.seen(i.Dir)); err != nil {
		return fmt.Errorf("remove rounds of pre-dump: %w", err)
	}
	return nil
}

// Forget implements snapshot.Scanner.
func (i *Incremental) Forget(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.parents, id)
	_ = os.RemoveAll(i.Runc.seen(i.folder(id))) // what is left is never used, and goes with Clear
}

// Vitals implements snapshot.Scanner.
func (i *Incremental) Vitals(c snapshot.Container) (snapshot.Vitals, error) { return i.Meter.Vitals(c) }

func (i *Incremental) folder(id string) string { return filepath.Join(i.Dir, filepath.Base(id)) }

// parent is the host path of the folder on which a dump of the container can build, and whether a round can; empty where
// there is none: a container that was restored in place has other processes.
func (i *Incremental) parent(id string, init int) (folder string, forRounds bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	p, known := i.parents[id]
	if !known || p.init != init {
		return "", false
	}
	return filepath.Join(i.folder(id), "parent"), !p.missed
}

// miss notes whether the round under way has missed something.
func (i *Incremental) miss(id string, missed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if p, known := i.parents[id]; known {
		i.parents[id] = parent{p.init, missed}
	}
}

// Scan implements snapshot.Scanner by a round of pre-dump: sink gets what was written to. CRIU itself is not held to the
// share: what it took is waited off afterwards.
func (i *Incremental) Scan(ctx context.Context, c snapshot.Container, share float64, sink snapshot.ScanSink) (snapshot.Scan, error) {
	scan, err := i.round(ctx, c, memory.NewLimit(share), sink)
	if err == nil {
		return scan, nil
	}
	if _, gone := os.Stat(fmt.Sprintf("%s/%d", proc, c.PID)); errors.Is(gone, fs.ErrNotExist) && ctx.Err() == nil {
		err = snapshot.ErrGone
	}
	return scan, fmt.Errorf("pre-dump container %s: %w", c.ID, err)
}

func (i *Incremental) round(ctx context.Context, c snapshot.Container, limit *memory.Limit, sink snapshot.ScanSink) (snapshot.Scan, error) {
	images := filepath.Join(i.folder(c.ID), "round")
	if err := remake(i.Runc.seen(images)); err != nil {
		return snapshot.Scan{}, err
	}
	order := preDumpOrder{PID: c.PID, Images: images, Work: images}
	if _, forRounds := i.parent(c.ID, c.PID); forRounds {
		order.Parent = "../parent"
	}
	i.miss(c.ID, true)
	cpu, err := i.Runc.preDump(ctx, order)
	if err != nil {
		return snapshot.Scan{CPU: cpu}, err
	}
	still := frozenFor(i.Runc.seen(images))
	scan, err := i.handOn(ctx, c, i.Runc.seen(images), limit, sink)
	scan.CPU, scan.Still = scan.CPU+cpu, still
	if err == nil {
		err = limit.Spend(ctx, cpu)
	}
	return scan, err
}

// frozenFor is how long CRIU has held the tasks still, by its statistics; 0 where there are none.
func frozenFor(work string) time.Duration {
	counted, err := decode(filepath.Join(work, crit.StatsDump), &stats.StatsEntry{})
	if err != nil {
		return 0
	}
	entry, _ := counted[0].Message.(*stats.StatsEntry)
	dump := entry.GetDump()
	return time.Duration(dump.GetFreezingTime()+dump.GetFrozenTime()) * time.Microsecond
}

// handOn keeps what comes next needs of what a round has written into images, and hands that to sink.
func (i *Incremental) handOn(
	ctx context.Context, c snapshot.Container, images string, limit *memory.Limit, sink snapshot.ScanSink,
) (scan snapshot.Scan, _ error) {
	maps, err := pageMaps(images, flagParent)
	if err != nil {
		return scan, err
	}
	var memories []snapshot.Memory
	for _, m := range maps {
		scan.Bytes += bytesOf(m.memory.Runs)
		scan.Unread += bytesOf(m.absent)
		memories = append(memories, m.memory)
		if err := m.flatten(); err != nil {
			return scan, err
		}
	}
	if err := i.keep(c.ID, parent{c.PID, true}, images, memories); err != nil {
		return scan, err
	}
	for _, m := range maps {
		spent, err := feed(ctx, m, limit, sink)
		scan.CPU += spent
		if err != nil {
			return scan, err
		}
	}
	i.miss(c.ID, false)
	if err := os.RemoveAll(images); err != nil {
		return scan, fmt.Errorf("remove round: %w", err)
	}
	return scan, nil
}

// feedPiece is how much of a round is handed on at a time.
const feedPiece = 1 << 20

// feed hands the pages that the image has to sink.
func feed(ctx context.Context, m pageMap, limit *memory.Limit, sink snapshot.ScanSink) (spent time.Duration, _ error) {
	if len(m.present) == 0 {
		return 0, nil
	}
	f, err := os.Open(filepath.Join(filepath.Dir(m.path), m.memory.Image))
	if err != nil {
		return 0, fmt.Errorf("read CRIU image: %w", err)
	}
	defer f.Close()
	buf := make([]byte, feedPiece)
	for _, run := range m.present {
		for address, left := run.Address, run.Pages*store.BlockSize; left > 0; {
			began := time.Now()
			piece := buf[:min(left, feedPiece)]
			if _, err := io.ReadFull(f, piece); err != nil {
				return spent, fmt.Errorf("read CRIU image %s: %w", m.memory.Image, err)
			}
			read := time.Since(began)
			elsewhere, err := sink(ctx, m.memory.Task, address, piece)
			if err == nil {
				spent += read
				err = limit.Spend(ctx, read+elsewhere)
			}
			if err != nil {
				return spent, err
			}
			address, left = address+uint64(len(piece)), left-int64(len(piece))
		}
	}
	return spent, nil
}

// keep makes the parent of what follows from images, whose page maps are flat: those of processes, empty files in the place
// of pages, when they were taken, and where watched files are. It takes the place of the one before.
func (i *Incremental) keep(id string, p parent, images string, memories []snapshot.Memory) error {
	folder := i.Runc.seen(i.folder(id))
	next, before := filepath.Join(folder, "next"), filepath.Join(folder, "parent")
	if err := remake(next); err != nil {
		return err
	}
	names := []string{"inventory.img", "irmap-cache.img"}
	for _, m := range memories {
		task, private := strings.CutPrefix(m.Task, "mem/")
		if !private {
			continue
		}
		names = append(names, "pagemap-"+task+".img")
		if err := os.WriteFile(filepath.Join(next, m.Image), nil, 0o600); err != nil {
			return fmt.Errorf("keep round: %w", err)
		}
	}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(images, name))
		if name == "irmap-cache.img" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(next, name), content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep round: %w", err)
		}
	}
	if err := errors.Join(os.RemoveAll(before), os.Rename(next, before)); err != nil {
		return fmt.Errorf("keep round: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.parents == nil {
		i.parents = map[string]parent{}
	}
	i.parents[id] = p
	return nil
}

// DumpInto is Runc.DumpInto, but for what CRIU leaves out and sink gets instead: pages that were not written to since the
// newest round or dump. NotLazy says where that was nothing.
func (i *Incremental) DumpInto(ctx context.Context, id, dir string, sink memory.Sink) (Taken, error) {
	taken, err := i.dump(ctx, id, dir, sink)
	if err == nil {
		return taken, nil
	}
	i.Forget(id)
	return i.Runc.fullInstead(ctx, id, dir, err)
}

func (i *Incremental) dump(ctx context.Context, id, dir string, sink memory.Sink) (Taken, error) {
	r := i.Runc
	state, err := r.prepare(ctx, id)
	if err != nil {
		return Taken{}, err
	}
	images, work, err := r.clearDump(dir)
	if err != nil {
		return Taken{}, err
	}
	on, _ := i.parent(id, state.PID)
	if on == "" {
		return Taken{}, fmt.Errorf("dump container %s: %w", id, errNoRound)
	}
	relative, err := filepath.Rel(images, on)
	if err != nil {
		return Taken{}, fmt.Errorf("dump container %s: %w", id, err)
	}
	args := append([]string{"checkpoint", "--image-path", images, "--work-path", work, "--parent-path", relative}, r.dumpFlags()...)
	err = r.checkpoint(ctx, id, state.PID, r.seen(work), append(args, id))
	var taken Taken
	if err == nil {
		reader := memory.Reader{Proc: proc}
		taken, err = i.complete(ctx, id, state.PID, r.seen(images), exactly(reader, state.PID), sink)
	}
	if err != nil {
		return Taken{}, fmt.Errorf("dump container %s on a round: %w%s", id, err, tail(filepath.Join(r.seen(work), "dump.log")))
	}
	return taken, errors.Join(r.stillFrozen(ctx, id), r.mend(taken.Images, state))
}

// complete makes those of a full dump from images that build on a round: sink gets what they lack. It keeps what the next
// round needs of them.
func (i *Incremental) complete(ctx context.Context, id string, init int, images string, read reading, sink memory.Sink) (Taken, error) {
	taken, err := readAbsent(ctx, images, flagParent, read, sink)
	if err != nil {
		return Taken{}, err
	}
	if taken.Read.PagesRead == 0 {
		// That the parent is missing is no error to CRIU.
		taken.NotLazy = fmt.Errorf("%w: CRIU has written all memory", errNoRound)
	}
	if i.keep(id, parent{init, false}, images, taken.Memory) != nil {
		i.Forget(id) // the dump is good without
	}
	if err := os.Remove(filepath.Join(images, "parent")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Taken{}, fmt.Errorf("end link to the round: %w", err)
	}
	return taken, nil
}

// remake makes an empty folder.
func remake(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}
