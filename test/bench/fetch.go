package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/open"
	"github.com/lifeboat-dev/lifeboat/test/bench/images"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

const (
	restoring   = "restore"
	decoding    = "plain zstd, decoded by one stream"
	restoreGets = "GETs a restore"
	getsBound   = "GETs allowed"
)

// measureFetch fetches the process's whole dump from a bucket on the disk into a folder on a tmpfs, and compares.
func (l *storeLab) measureFetch(ctx context.Context, t *trainer, set *images.Set) error {
	disk := filepath.Join(l.folder, "bucket")
	bucket, err := open.Bucket(ctx, "file://"+disk)
	if err != nil {
		return err
	}
	defer os.RemoveAll(disk)
	c, err := newChain(bucket, store.CodecZstd)
	if err != nil {
		return err
	}
	if err := c.write(ctx, set); err != nil {
		return err
	}
	folder := t.room.Path(fetchFolder)
	for round := range rounds {
		l.say("restore: round %d of %d, %.0f MiB", round+1, rounds, float64(set.PageBytes())/mib)
		if err := os.RemoveAll(folder); err != nil {
			return fmt.Errorf("clear folder: %w", err)
		}
		asked, err := c.counting(func() error {
			return l.Take(restoring, func() error { return c.fetch(ctx, folder) })
		})
		if err != nil {
			return err
		}
		l.Add(restoreGets, asked.gets)
		l.Add(getsBound, putsAllowed(asked.getBytes))
		if err := sameImages(set, folder); err != nil {
			return err
		}
	}
	return nil
}

// sameImages compares every page of a fetched folder with the dump's.
func sameImages(set *images.Set, folder string) (err error) {
	fetched, err := images.Open(folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fetched.Close()) }()
	if fetched.PageBytes() != set.PageBytes() {
		return fmt.Errorf("fetched %d bytes of pages, want %d", fetched.PageBytes(), set.PageBytes())
	}
	return images.Changed(set, fetched, func([]byte) error { return errors.New("fetched pages differ from the dump's") })
}

func (l *storeLab) fetchRows() []rows.Row {
	return []rows.Row{
		rows.Row{Name: "restore from disk: get, decode, verify", Value: l.raw / 1e9 / l.Median(rows.Wall(restoring)), Unit: "GB/s raw"}.
			Versus(bound, 0.5).Wants(rows.Target{AtLeast: true, Bound: 1}),
		rows.Row{Name: rows.CPU("restore from disk"), Value: l.Median(rows.CPU(restoring)) / (l.raw / gib), Unit: "CPU s/GiB"},
		rows.Row{Name: restoreGets, Value: l.Median(restoreGets), Unit: "GETs"}.
			Versus("2 + ceil(bytes / 16 MiB) + 1", l.Median(getsBound)),
	}
}
