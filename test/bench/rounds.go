package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/test/bench/images"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// deltas is how many rounds of change a process goes through.
const deltas = 10

// change is what happens to the process's memory in every round of a series.
type change struct {
	name, verb, percent string
	// against restic, at most; 0 for no promise
	target float64
}

// changes are the four series, each with a process, a chain of generations and a repository of its own.
var changes = []change{
	{"1 % random", "random", "1", 0.1},
	{"5 % random", "random", "5", 0},
	{"4 % in runs", "clustered", "4", 0},
	{"object churn", "churn", "20", 0},
}

// Names of what a series measures, the change's name before each.
const (
	oursRound   = ": put a round"
	resticRound = ": restic a round"
	zstdRound   = ": zstd of the changed pages"
	pagesRound  = ": pages changed"
	putsRound   = ": PUTs a round"
	putsBound   = ": PUTs allowed"
	restored    = ": places that differ after the restore"
	restoredAll = ": places compared after the restore"
	afterTen    = ": read after ten rounds"
	afterUpkeep = ": read after ten rounds and a rewrite"
	rewritePut  = ": put by that rewrite"
	freshBase   = ": read of a fresh base"
)

// theBase is what the first dumps of all series are named together.
const theBase = "first generation"

// inWindow is the bound on what is put, against plain zstd of the pages that changed.
const inWindow = 1.05

// measureRounds runs a series. The trainer lives on, its last dump in dumpFolder, what a restore fetched in fetchFolder.
func (l *storeLab) measureRounds(ctx context.Context, t *trainer, of change) error {
	c, err := newChain(mem.New(), store.CodecZstd)
	if err != nil {
		return err
	}
	if err := t.makeRepository(ctx); err != nil {
		return err
	}
	for round := range deltas + 1 {
		if round > 0 {
			if err := t.tell(ctx, of.verb, of.percent); err != nil {
				return err
			}
		}
		if err := t.dump(ctx); err != nil {
			return err
		}
		if err := l.saveRound(ctx, t, c, of, round); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return l.readAfterRounds(ctx, t, c, of)
}

// saveRound saves the last dump in each way. Round 0 is the base, of which all series tell together.
func (l *storeLab) saveRound(ctx context.Context, t *trainer, c *chain, of change, round int) (err error) {
	after, err := images.Open(t.room.Path(dumpFolder))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, after.Close()) }()
	before := &images.Set{} // of no pages: those of the base are all new
	if round > 0 {
		if before, err = images.Open(t.room.Path(beforeFolder)); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, before.Close()) }()
	}
	// Nothing here is timed, so restic may work beside us.
	grown, saving := int64(0), errgroup.Group{}
	saving.Go(func() (err error) { grown, err = t.resticBackup(ctx); return err })
	put, err := c.counting(func() error { return c.write(ctx, after) })
	packed, pages, fault := zstdOfChanged(before, after)
	if err := errors.Join(err, fault, saving.Wait()); err != nil {
		return err
	}
	l.say("%s: round %d of %d: %d of %d pages changed; ours %.2f MiB, zstd of these %.2f MiB, restic %.1f MiB", of.name, round,
		deltas, pages, after.PageBytes()/images.PageSize, put.putBytes/mib, float64(packed)/mib, float64(grown)/mib)
	name := of.name
	if round == 0 {
		name = theBase
	}
	l.Add(name+oursRound, put.putBytes/mib)
	l.Add(name+resticRound, float64(grown)/mib)
	l.Add(name+zstdRound, float64(packed)/mib)
	l.Add(name+pagesRound, 100*float64(pages)*images.PageSize/float64(after.PageBytes()))
	l.Add(name+putsRound, put.puts)
	l.Add(name+putsBound, putsAllowed(put.putBytes))
	return nil
}

// zstdOfChanged is how many bytes one plain zstd stream of the changed pages has, and how many pages they are.
func zstdOfChanged(before, after *images.Set) (packed, pages int64, err error) {
	var size counter
	encoder, err := zstd.NewWriter(&size, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, 0, fmt.Errorf("make zstd encoder: %w", err)
	}
	err = images.Changed(before, after, func(page []byte) error {
		pages++
		_, err := encoder.Write(page)
		return err
	})
	return int64(size), pages, errors.Join(err, encoder.Close())
}

// counter counts what is written to it.
type counter int64

var _ io.Writer = (*counter)(nil)

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// readAfterRounds fetches what ten rounds have left, before and after the rewrite that upkeep does of it, and the same
// dump from a base of its own. What came last stays in fetchFolder.
func (l *storeLab) readAfterRounds(ctx context.Context, t *trainer, c *chain, of change) (err error) {
	set, err := images.Open(t.room.Path(dumpFolder))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	fresh, err := newChain(mem.New(), store.CodecZstd)
	if err != nil {
		return err
	}
	if err := fresh.write(ctx, set); err != nil {
		return fmt.Errorf("write a fresh base: %w", err)
	}
	if err := l.readOnce(ctx, t, fresh, of.name+freshBase); err != nil {
		return err
	}
	if err := l.readOnce(ctx, t, c, of.name+afterTen); err != nil {
		return err
	}
	asked, err := c.counting(func() error { return c.rewrite(ctx) })
	if err != nil {
		return fmt.Errorf("rewrite: %w", err)
	}
	l.Add(of.name+rewritePut, asked.putBytes/mib)
	return l.readOnce(ctx, t, c, of.name+afterUpkeep)
}

// readOnce fetches the chain's newest generation into fetchFolder and adds what was read for it.
func (l *storeLab) readOnce(ctx context.Context, t *trainer, c *chain, name string) error {
	folder := t.room.Path(fetchFolder)
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("clear folder: %w", err)
	}
	asked, err := c.counting(func() error { return c.fetch(ctx, folder) })
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	l.Add(name, asked.getBytes/mib)
	return nil
}

// putsAllowed is the bound on the PUTs of a generation.
func putsAllowed(bytes float64) float64 { return 2 + math.Ceil(bytes/packSize) + 1 }

func (l *storeLab) roundRows() []rows.Row {
	first := rows.Row{Name: theBase + ": put", Value: l.Median(theBase + oursRound), Unit: "MiB"}
	all := []rows.Row{
		first.Versus("restic", l.Median(theBase+resticRound)),
		first.Versus("zstd of all pages", l.Median(theBase+zstdRound)).Wants(rows.Target{Bound: inWindow}),
	}
	for _, of := range changes {
		row := func(name string, value float64) rows.Row {
			return rows.Row{Name: of.name + ": " + name, Value: value, Unit: "MiB"}
		}
		// Until the first round is over, a process may still be settling.
		later := func(what string) float64 { return rows.Median(l.Series[of.name+what][1:]) }
		sum := func(what string) float64 { return rows.Total(l.Series[of.name+what]) }
		const oneRound, allRounds = "put a round (median of 2 to 10)", "put in all ten rounds"
		const changed, base = "zstd of the changed pages", "that of a fresh base"
		restic := row(oneRound, later(oursRound)).Versus("restic", later(resticRound))
		if of.target > 0 {
			restic = restic.Wants(rows.Target{Bound: of.target})
		}
		puts, allowed := worst(l.Series[of.name+putsRound], l.Series[of.name+putsBound])
		all = append(all, restic,
			row(allRounds, sum(oursRound)).Versus("restic", sum(resticRound)),
			row(oneRound, later(oursRound)).Versus(changed, later(zstdRound)).Wants(rows.Target{Bound: inWindow}),
			row(allRounds, sum(oursRound)).Versus(changed, sum(zstdRound)).Wants(rows.Target{Bound: inWindow}),
			row("read by a restore after ten rounds", l.Median(of.name+afterTen)).Versus(base, l.Median(of.name+freshBase)),
			row("the same, after upkeep's rewrite", l.Median(of.name+afterUpkeep)).
				Versus(base, l.Median(of.name+freshBase)).Wants(rows.Target{Bound: 1.25}),
			row("put by that rewrite", l.Median(of.name+rewritePut)),
			rows.Row{Name: of.name + ": PUTs of a round, the worst", Value: puts, Unit: "PUTs"}.
				Versus("2 + ceil(bytes / 16 MiB) + 1", allowed).Wants(rows.Target{Bound: 1}),
			rows.Row{Name: of.name + ": pages changed a round", Value: l.Median(of.name + pagesRound), Unit: "%"},
			rows.Row{Name: of.name + ": mismatches after CRIU's restore", Value: l.Median(of.name + restored), Unit: "pages, objects"}.
				Versus("compared", l.Median(of.name+restoredAll)).Wants(rows.Target{Bound: 0}))
	}
	return all
}

// worst returns the values and bounds of the round that used most of its bound.
func worst(values, bounds []float64) (value, bound float64) {
	for i := range values {
		if i == 0 || values[i]/bounds[i] > value/bound {
			value, bound = values[i], bounds[i]
		}
	}
	return value, bound
}
