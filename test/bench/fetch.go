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
			return l.take(restoring, func() error { return c.fetch(ctx, folder) })
		})
		if err != nil {
			return err
		}
		l.add(restoreGets, asked.gets)
		l.add(getsBound, putsAllowed(asked.getBytes))
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

func (l *storeLab) fetchRows() []Row {
	return []Row{
		Row{Name: "restore from disk: get, decode, verify", Value: l.raw / 1e9 / l.median(wall(restoring)), Unit: "GB/s raw"}.
			versus(bound, 0.5).wants(Target{AtLeast: true, Bound: 1}),
		Row{Name: cpu("restore from disk"), Value: l.median(cpu(restoring)) / (l.raw / gib), Unit: "CPU s/GiB"},
		Row{Name: restoreGets, Value: l.median(restoreGets), Unit: "GETs"}.
			versus("2 + ceil(bytes / 16 MiB) + 1", l.median(getsBound)),
	}
}
