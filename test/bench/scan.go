package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/test/bench/images"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

const (
	scanSize = 512 << 20
	// scanStart is where the synthetic target's pages begin.
	scanStart = 1 << 32
	scanTask  = "task/1"
)

// measureScan has the Writer look at pages of which none has changed, and copies as much on one thread. The Writer works
// on two.
func (l *storeLab) measureScan(ctx context.Context) error {
	pages, back := makePages(scanSize), make([]byte, scanSize)
	stampPages(pages, 0, 0) // zeros are seen without a hash: let there be none
	runs := []images.Run{{Address: scanStart, Pages: scanSize / pageSize}}
	c, err := newChain(newNullBucket(), store.CodecZstd)
	if err != nil {
		return err
	}
	add := func(name string) error {
		w, err := c.begin(ctx)
		if err != nil {
			return err
		}
		defer w.Abort(ctx)
		err = l.Take(name, func() error { return addPages(ctx, w, scanTask, runs, pages) })
		if err != nil {
			return err
		}
		if err := addScanned(ctx, w, scanSize); err != nil {
			return err
		}
		return c.commit(ctx, w)
	}
	if err := add("first scan"); err != nil {
		return err
	}
	for round := range rounds {
		l.say("scan: round %d of %d, %d MiB", round+1, rounds, scanSize/mib)
		if err := l.Take("memcpy", func() error { copy(back, pages); return nil }); err != nil {
			return err
		}
		before := c.meter.Snapshot().Put
		if err := add("scan"); err != nil {
			return err
		}
		if put := c.meter.Snapshot().Put.Bytes - before.Bytes; put > scanSize/100 {
			return fmt.Errorf("a scan of unchanged pages put %d bytes", put)
		}
	}
	if !bytes.Equal(back, pages) {
		return errors.New("memcpy: the copy differs")
	}
	return nil
}

// addScanned adds the image of as many pages as were added for the synthetic target: what no file has is not kept.
func addScanned(ctx context.Context, w *store.Writer, size int64) error {
	entry := store.Entry{Path: "pages-1.img", Type: store.TypeRegular, Mode: 0o600, Size: size, ModTime: time.Now()}
	return w.AddImage(ctx, entry, scanTask, []store.Run{{Address: scanStart, Pages: size / pageSize}})
}

func (l *storeLab) scanRows() []rows.Row {
	rate := func(name string) float64 { return scanSize / 1e9 / l.Median(rows.Wall(name)) }
	return []rows.Row{
		rows.Row{Name: "scan of unchanged pages, two workers", Value: rate("scan"), Unit: "GB/s"}.
			Versus("memcpy, one thread", rate("memcpy")).Wants(rows.Target{AtLeast: true, Bound: 0.35}),
	}
}
