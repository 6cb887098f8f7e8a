package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	// defaultFetches is how many restores of a node are fetched at a time: each takes up to 65 MiB and its manifest.
	defaultFetches = 4
	// roomWait is how long a fetch waits for the images of others to go. After that the disk itself says whether it fits.
	roomWait, roomEvery = 20 * time.Second, 500 * time.Millisecond
)

// errDiskFull: this node has no room for what is to be restored.
var errDiskFull = errors.New("the disk of this node is full: free room there, or give nodes a larger disk")

// diskFull names the mend where the disk is what failed.
func diskFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", errDiskFull, err)
	}
	return err
}

// fetches bound what restores take of this node at a time.
type fetches struct {
	places chan struct{}

	mu sync.Mutex
	// promised are the bytes of images that fetches under way may still write.
	promised int64
}

func newFetches(atOnce int) *fetches {
	if atOnce < 1 {
		atOnce = defaultFetches
	}
	return &fetches{places: make(chan struct{}, atOnce)}
}

// enter waits for a place. It says whether it had to wait: what was known before may be so no more.
func (f *fetches) enter(ctx context.Context) (waited bool, err error) {
	select {
	case f.places <- struct{}{}:
		return false, nil
	default:
	}
	select {
	case f.places <- struct{}{}:
		return true, nil
	case <-ctx.Done():
		return true, fmt.Errorf("wait for other restores on this node: %w", context.Cause(ctx))
	}
}

func (f *fetches) leave() { <-f.places }

// imageBytes is what those images of a generation that are wanted take on the disk until CRIU has read them, and what all that is
// wanted takes.
func imageBytes(reader *store.Reader, wanted func(store.Entry) bool) (images, all int64) {
	for e := range reader.Entries() {
		if !wanted(e) {
			continue
		}
		all += e.Size
		if strings.HasPrefix(e.Path, layout.Images+"/") {
			images += e.Size
		}
	}
	return images, all
}

// othersRead tells whether images of other pods are here to be read by CRIU.
func (p *Preparer) othersRead(podUID string) (bool, error) {
	all, err := p.loadAll()
	return slices.ContainsFunc(all, func(r *restoration) bool { return r.Task.PodUID != podUID && len(r.Handed) > 0 }), err
}

// room makes room for images of a pod on the disk: what was prefetched makes way, and images of other restores are waited for. It never
// refuses: sizes are of files that may have holes, so what does not fit is the disk's to say. done gives the promise back.
func (p *Preparer) room(ctx context.Context, podUID string, bytes int64) (done func(), err error) {
	dir := filepath.Join(p.options.HostRoot, p.options.WorkDir)
	begin := time.Now()
	for {
		fits, others, err := p.fetches.promise(dir, bytes)
		if err != nil {
			return nil, err
		}
		if !fits && p.options.Packs != nil && p.options.Packs.Stats().Bytes > 0 {
			p.options.Packs.Clear()
			continue
		}
		read, err := p.othersRead(podUID)
		if err != nil {
			return nil, err
		}
		if !fits && (others || read) && time.Since(begin) < roomWait {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: waited for other restores: %w", errDiskFull, ctx.Err())
			case <-time.After(roomEvery):
			}
			continue
		}
		if !fits {
			p.fetches.add(bytes)
			p.options.Log.Warn().Int64("image_bytes", bytes).Str("folder", dir).Msg("images may not fit on the disk, trying all the same")
		}
		return func() { p.fetches.add(-bytes) }, nil
	}
}

// promise adds bytes to what is promised where they fit beside that.
func (f *fetches) promise(dir string, bytes int64) (fits, others bool, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return false, false, fmt.Errorf("stat file system of %s: %w", dir, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	others = f.promised > 0
	if fits = int64(st.Bavail)*int64(st.Bsize)-f.promised >= bytes; fits {
		f.promised += bytes
	}
	return fits, others, nil
}

func (f *fetches) add(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.promised += bytes
}
