package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/images"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

const (
	packSize = 16 << 20
	mib      = 1 << 20
	gib      = 1 << 30
	// bound is what a row is measured against where the promise is a number.
	bound = "the bound"
)

// storeLab measures package store.
type storeLab struct {
	rows.Series
	folder   string
	progress io.Writer
	raw      float64 // bytes of memory in the dump that is written whole
}

// measureStore measures package store on real CRIU images: those of a numpy process (trainer.py) that ten rounds of
// change of four kinds go through. Against restic and plain zstd on the same images, memcpy, and plain PUTs. The last
// round's images come back from the store, CRIU restores the process from them, and it checks its memory.
func measureStore(ctx context.Context, o Options, folder string) ([]rows.Row, error) {
	if err := bed.EnsurePackages(ctx, o.Progress); err != nil {
		return nil, err
	}
	root, err := bed.DebianRoot(ctx, o.Progress, trainerPackages...)
	if err != nil {
		return nil, err
	}
	l := &storeLab{Series: rows.Series{}, folder: folder, progress: o.Progress}
	for n, of := range changes {
		last := n == len(changes)-1
		if err := l.withTrainer(ctx, o, root, of, last); err != nil {
			return nil, fmt.Errorf("%s: %w", of.name, err)
		}
	}
	if err := l.measureScan(ctx); err != nil {
		return nil, err
	}
	if err := l.measureMemory(ctx); err != nil {
		return nil, err
	}
	return l.rows(), nil
}

func (l *storeLab) say(format string, args ...any) {
	fmt.Fprintf(l.progress, "store: "+format+"\n", args...)
}

// withTrainer goes through a series with a process of its own, and checks that the process can be restored from what
// came back. The last one's dump serves for all else that wants real images.
func (l *storeLab) withTrainer(ctx context.Context, o Options, root string, of change, last bool) (err error) {
	folder := filepath.Join(l.folder, of.verb+of.percent)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	t, err := startTrainer(ctx, root, folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := l.measureRounds(ctx, t, of); err != nil {
		return err
	}
	compared, mismatches, err := t.checkRestore(ctx, fetchFolder)
	if err != nil {
		return err
	}
	l.say("%s: restored, %d pages and objects compared, %d mismatches", of.name, compared, mismatches)
	l.Add(of.name+restored, float64(mismatches))
	l.Add(of.name+restoredAll, float64(compared))
	if !last {
		return nil
	}
	if err := t.kill(ctx); err != nil {
		return err
	}
	return l.measureWhole(ctx, o, t)
}

// measureWhole measures whole writes and fetches of the trainer's last dump.
func (l *storeLab) measureWhole(ctx context.Context, o Options, t *trainer) (err error) {
	set, err := images.Open(t.room.Path(dumpFolder))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	if err := l.measureCost(ctx, set); err != nil {
		return err
	}
	if err := l.measureFetch(ctx, t, set); err != nil {
		return err
	}
	return l.measureUpload(ctx, o, set)
}

func (l *storeLab) rows() []rows.Row {
	all := l.roundRows()
	for _, more := range []func() []rows.Row{l.scanRows, l.costRows, l.uploadRows, l.fetchRows, l.memoryRows} {
		all = append(all, more()...)
	}
	// A busy machine makes seconds longer, those of CPU too where two threads share a core.
	return append(all, rows.Row{Name: "CPU that others used meanwhile", Value: l.Median(rows.OtherLoad), Unit: "% of the machine"})
}
