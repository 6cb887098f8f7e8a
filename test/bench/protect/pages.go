package protect

import (
	"context"
	"io"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
)

// sums are the hashes of a job's pages by their addresses.
type sums map[uint64]uint64

// each hands every private page of the job to fn, one at a time.
func (j *job) each(ctx context.Context, fn func(address uint64, page []byte) error) error {
	reader := memory.Reader{Proc: "/proc"}
	var mu sync.Mutex
	_, err := reader.Read(ctx, j.pid, func(_ context.Context, _ string, address uint64, pages []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for at := 0; at < len(pages); at += change.PageSize {
			if err := fn(address+uint64(at), pages[at:][:change.PageSize]); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// sum hashes all pages of the job.
func (j *job) sum(ctx context.Context) (sums, error) {
	all := sums{}
	err := j.each(ctx, func(address uint64, page []byte) error {
		all[address] = xxh3.Hash(page)
		return nil
	})
	return all, err
}

// changed counts the pages that are not as they were, and how many bytes one plain zstd stream of them takes.
func (j *job) changed(ctx context.Context, before sums) (pages int, compressed int64, err error) {
	var out counter
	encoder, err := rig.NewZstd(&out)
	if err != nil {
		return 0, 0, err
	}
	err = j.each(ctx, func(address uint64, page []byte) error {
		if hash, known := before[address]; known && hash == xxh3.Hash(page) {
			return nil
		}
		pages++
		_, err := encoder.Write(page)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	if err := encoder.Close(); err != nil {
		return 0, 0, err
	}
	return pages, int64(out), nil
}

// counter counts what is written.
type counter int64

var _ io.Writer = new(counter)

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
