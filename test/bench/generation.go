package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/dir"
	"github.com/lifeboat-dev/lifeboat/store/meter"
	"github.com/lifeboat-dev/lifeboat/test/bench/images"
)

const (
	// workers add pages at a time, chunkSize bytes each time, as an agent on a node of two cores does.
	workers   = 2
	chunkSize = 1 << 20
)

// chain writes and reads the generations of one target, each on the base of the one before.
type chain struct {
	store  *store.Store
	meter  *meter.Meter
	target store.Target
	codec  store.Codec
	base   *store.Base
	last   store.Generation
}

// newChain begins a target of its own in the bucket, whose requests it counts.
func newChain(bucket store.Bucket, codec store.Codec) (*chain, error) {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	keyring, err := store.ParseKeyring([]byte(hex.EncodeToString(key[:]) + "\n"))
	if err != nil {
		return nil, fmt.Errorf("make keyring: %w", err)
	}
	c := &chain{meter: meter.NewMeter(), codec: codec}
	c.store = store.New(meter.New(bucket, c.meter), keyring)
	c.target = store.Target{
		Cluster: "bench", Namespace: "default", Name: "job", UID: strconv.FormatInt(time.Now().UnixNano(), 36),
	}
	return c, nil
}

func (c *chain) begin(ctx context.Context) (*store.Writer, error) {
	meta := store.Meta{Number: c.last.Number + 1, PodUID: c.target.UID, Node: "bench", Created: time.Now()}
	return c.store.Begin(ctx, c.target, meta, store.WriteOptions{Base: c.base, Codec: c.codec})
}

func (c *chain) commit(ctx context.Context, w *store.Writer) error {
	generation, err := w.Commit(ctx)
	if err != nil {
		return err
	}
	c.last, c.base = generation, w.Base()
	return nil
}

// write makes a dump the next generation: what an agent does of its images.
func (c *chain) write(ctx context.Context, set *images.Set) error {
	w, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer w.Abort(ctx)
	for _, space := range set.Spaces {
		if err := writeSpace(ctx, w, set, space); err != nil {
			return err
		}
	}
	for _, name := range set.Others {
		entry, file, err := openImage(set, name)
		if err != nil {
			return err
		}
		entry.Inline = true
		err = w.Add(ctx, entry, file)
		file.Close()
		if err != nil {
			return err
		}
	}
	return c.commit(ctx, w)
}

func writeSpace(ctx context.Context, w *store.Writer, set *images.Set, space images.Space) error {
	task := "task/" + space.Task
	if err := addPages(ctx, w, task, space.Runs, space.Pages); err != nil {
		return err
	}
	entry, file, err := openImage(set, space.File)
	if err != nil {
		return err
	}
	file.Close()
	runs := make([]store.Run, len(space.Runs))
	for i, run := range space.Runs {
		runs[i] = store.Run{Address: run.Address, Pages: run.Pages}
	}
	return w.AddImage(ctx, entry, task, runs)
}

// addPages adds the pages of runs, which lie one after the other.
func addPages(ctx context.Context, w *store.Writer, task string, runs []images.Run, pages []byte) error {
	adding, ctx := errgroup.WithContext(ctx)
	adding.SetLimit(workers)
	for _, run := range runs {
		rest := pages[:run.Pages*images.PageSize]
		pages = pages[len(rest):]
		for address := run.Address; len(rest) > 0; address += chunkSize {
			chunk := rest[:min(chunkSize, len(rest))]
			rest = rest[len(chunk):]
			adding.Go(func() error { return w.AddPages(ctx, task, address, chunk) })
		}
	}
	return adding.Wait()
}

func openImage(set *images.Set, name string) (store.Entry, *os.File, error) {
	file, err := os.Open(filepath.Join(set.Folder, name))
	if err != nil {
		return store.Entry{}, nil, fmt.Errorf("open image: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return store.Entry{}, nil, fmt.Errorf("open image: %w", err)
	}
	return store.Entry{
		Path: name, Type: store.TypeRegular, Mode: uint32(info.Mode().Perm()), ModTime: info.ModTime(), Size: info.Size(),
	}, file, nil
}

// rewrite moves together what is alive in sparse packs, where there are such.
func (c *chain) rewrite(ctx context.Context) error {
	generation, err := c.store.Rewrite(ctx, c.target, c.last.Epoch)
	if err != nil {
		return err
	}
	c.last = generation
	return nil
}

// fetch brings the newest generation into a new folder.
func (c *chain) fetch(ctx context.Context, folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	r, err := c.store.Open(ctx, c.target, c.last.Number, c.last.Epoch)
	if err != nil {
		return err
	}
	return r.Fetch(dir.New(root)).Run(ctx)
}

// measured is what a write or a fetch asked of the bucket.
type measured struct {
	putBytes, getBytes, puts, gets float64
}

// counting runs fn and returns what it asked of the bucket.
func (c *chain) counting(fn func() error) (measured, error) {
	before := c.meter.Snapshot()
	err := fn()
	after := c.meter.Snapshot()
	return measured{
		putBytes: float64(after.Put.Bytes - before.Put.Bytes),
		getBytes: float64(after.Get.Bytes - before.Get.Bytes),
		puts:     float64(after.Put.Calls - before.Put.Calls),
		gets:     float64(after.Get.Calls - before.Get.Calls),
	}, err
}
