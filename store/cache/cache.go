// Package cache keeps objects of a bucket on this machine's disk before somebody asks for them, as they are in the bucket.
//
// It is for objects that never change, brought by name; all else goes through to the bucket. What holds:
//
//   - Its folder never has more than Options.MaxBytes, and the file system keeps Options.ReserveBytes free.
//   - What cannot be kept, be it for want of room or for a fault of the disk, is read from the bucket as if there were no
//     cache. Only who brings an object hears of it.
//   - It trusts no disk: a file that is shorter than its object is not kept, and for what has been changed in it there is
//     Forget. Whether content is authentic is for the reader to find out, as it is with the bucket itself.
//   - Nothing outlives the process that matters: Open empties the folder.
package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// ErrNoRoom says that an object is not kept, for it would take more room than there is to be taken.
var ErrNoRoom = errors.New("no room for it on this machine")

// StaleAfter is how long what an owner brought is sure of its place. After that it makes way for what others bring, the
// oldest first. What was brought lately does not: it is what is about to be read.
const StaleAfter = 5 * time.Minute

// Options bound a Bucket.
type Options struct {
	// Dir is a folder of the cache's own; it is made.
	Dir string
	// MaxBytes is how much the folder holds at most; 0: nothing is kept.
	MaxBytes int64
	// ReserveBytes is how much of the folder's file system stays free.
	ReserveBytes int64
	// AtOnce is how many objects are brought at a time; at least 1.
	AtOnce int
	// Free returns how many bytes of the file system are free. Nil: the system is asked.
	Free func() (int64, error)
}

// Bucket is a store.Bucket of which some objects are kept on this machine. Reading one that is being brought waits for it.
type Bucket struct {
	store.Bucket
	options Options
	root    *os.Root
	slots   chan struct{}

	mu     sync.Mutex
	kept   map[string]*object
	owners map[string]time.Time // when each first brought something
	names  int64
	bytes  int64 // of all in kept
	coming int64 // of those that are not there yet
	stats  Stats
}

// Stats is what a Bucket has done so far.
type Stats struct {
	// Bytes are on disk now or about to be, Brought have been copied there, Read have been read from there.
	Bytes, Brought, Read int64
}

// object is one that is kept, or is being brought.
type object struct {
	file   string
	size   int64
	owners map[string]bool
	// ready is closed when it is there, or cannot be: then lost is set before.
	ready chan struct{}
	lost  bool
}

var _ store.Bucket = (*Bucket)(nil)

// Open returns a Bucket before bucket that keeps nothing so far. What an earlier life left in the folder is removed.
func Open(bucket store.Bucket, options Options) (*Bucket, error) {
	if err := os.RemoveAll(options.Dir); err != nil {
		return nil, fmt.Errorf("empty the cache's folder: %w", err)
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the cache's folder: %w", err)
	}
	root, err := os.OpenRoot(options.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the cache's folder: %w", err)
	}
	b := &Bucket{
		Bucket: bucket, options: options, root: root, slots: make(chan struct{}, max(options.AtOnce, 1)),
		kept: map[string]*object{}, owners: map[string]time.Time{},
	}
	if b.options.Free == nil {
		b.options.Free = b.free
	}
	return b, nil
}

// Close gives the folder back; what is in it stays until the next Open.
func (b *Bucket) Close() error { return b.root.Close() }

// Stats tells what was done so far.
func (b *Bucket) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.Bytes = b.bytes
	return s
}

// Bring copies an object of that size here, for owner, and returns when it is here. One that is here, or is being brought
// for somebody else, is not copied again. ErrNoRoom where it is not kept.
func (b *Bucket) Bring(ctx context.Context, owner, key string, size int64) error {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	o, mine, err := b.enter(owner, key, size)
	if err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	if !mine {
		return o.wait(ctx)
	}
	err = b.copy(ctx, key, o)
	b.settle(key, o, err)
	if err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	return nil
}

// wait waits for an object that another one brings.
func (o *object) wait(ctx context.Context) error {
	select {
	case <-o.ready:
		if o.lost {
			return errors.New("who brought it gave up")
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enter finds room for an object. It is mine where the caller has to copy it.
func (b *Bucket) enter(owner, key string, size int64) (o *object, mine bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, there := b.kept[key]
	if !there {
		if err := b.makeRoom(size); err != nil {
			return nil, false, err
		}
	}
	if b.owners[owner].IsZero() {
		b.owners[owner] = time.Now()
	}
	if there {
		o.owners[owner] = true
		return o, false, nil
	}
	b.names++
	o = &object{file: strconv.FormatInt(b.names, 10), size: size, owners: map[string]bool{owner: true}, ready: make(chan struct{})}
	b.kept[key] = o
	b.bytes += size
	b.coming += size
	return o, true, nil
}

// makeRoom lets what is stale make way until size fits.
func (b *Bucket) makeRoom(size int64) error {
	for {
		free, err := b.options.Free()
		if err != nil {
			return fmt.Errorf("look for room: %w", err)
		}
		if b.bytes+size <= b.options.MaxBytes && free-b.coming-size >= b.options.ReserveBytes {
			return nil
		}
		oldest := ""
		for owner, since := range b.owners {
			if time.Since(since) > StaleAfter && (oldest == "" || since.Before(b.owners[oldest])) {
				oldest = owner
			}
		}
		if oldest == "" {
			return fmt.Errorf("%w: %d bytes, %d of at most %d are taken, and of %d free ones %d are to stay free",
				ErrNoRoom, size, b.bytes, b.options.MaxBytes, free, b.options.ReserveBytes)
		}
		b.release(oldest)
	}
}

// copy writes the object to its file.
func (b *Bucket) copy(ctx context.Context, key string, o *object) error {
	body, err := b.Bucket.Get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := b.root.OpenFile(o.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(body, o.size+1))
	if err == nil && n != o.size {
		err = fmt.Errorf("it has not the %d bytes that it should have", o.size)
	}
	return errors.Join(err, f.Close())
}

// settle tells those who wait that the object is there, or drops it.
func (b *Bucket) settle(key string, o *object, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coming -= o.size
	if err == nil {
		b.stats.Brought += o.size
	}
	// Nobody's any more: it was released, or forgotten, meanwhile.
	if b.kept[key] != o {
		o.lost = true
		b.remove(o)
	} else if err != nil {
		o.lost = true
		b.drop(key)
	}
	close(o.ready)
}

// drop forgets the object of that key. The file of one that is still being brought goes when that has ended.
func (b *Bucket) drop(key string) {
	o := b.kept[key]
	delete(b.kept, key)
	b.bytes -= o.size
	b.remove(o)
}

// remove removes a file, where it was ever made. One that cannot be removed goes with the next Open.
func (b *Bucket) remove(o *object) { _ = b.root.Remove(o.file) }

// Release drops what is kept for owner alone.
func (b *Bucket) Release(owner string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(owner)
}

func (b *Bucket) release(owner string) {
	delete(b.owners, owner)
	for key, o := range b.kept {
		if delete(o.owners, owner); len(o.owners) == 0 {
			b.drop(key)
		}
	}
}

// Forget drops objects, whoever they are kept for: what was read of them is not what it should be.
func (b *Bucket) Forget(keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		if b.kept[key] != nil {
			b.drop(key)
		}
	}
}

// Clear drops all.
func (b *Bucket) Clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for owner := range b.owners {
		b.release(owner)
	}
}

// Get implements store.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	b.mu.Lock()
	o := b.kept[key]
	b.mu.Unlock()
	if o != nil && o.wait(ctx) == nil {
		f, err := b.open(o, offset, length)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			b.Forget(key)
		}
	}
	return b.Bucket.Get(ctx, key, offset, length)
}

// open opens a part of an object's file, which may be removed while it is read.
func (b *Bucket) open(o *object, offset, length int64) (io.ReadCloser, error) {
	f, err := b.root.Open(o.file)
	if err != nil {
		return nil, err
	}
	left := max(o.size-offset, 0)
	if length < 0 || length > left {
		length = left
	}
	b.mu.Lock()
	b.stats.Read += length
	b.mu.Unlock()
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}, nil
}
