package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/open"
)

const (
	storeSize = 256 << 20
	packSize  = 16 << 20
	mib       = 1 << 20
	gib       = 1 << 30
)

// storeLab writes the same pages as a generation and as plain zstd, and reads both back.
type storeLab struct {
	series
	folder string
	key    store.Key
	pages  []byte
	back   []byte       // what was read back
	packed bytes.Buffer // plain zstd in memory
	plain  int64        // bytes of plain zstd
	puts   int64        // of one generation
	stored int64        // bytes of one generation
}

// measureStore measures package store alone, on a bucket in memory and on one in a folder of the disk. Theirs is
// klauspost's zstd at its fastest, one stream on one goroutine as the store's own, to the same place; synced on disk.
func measureStore(ctx context.Context, o Options, folder string) ([]Row, error) {
	l := &storeLab{series: series{}, folder: folder, pages: makePages(storeSize), back: make([]byte, storeSize)}
	if _, err := rand.Read(l.key[:]); err != nil {
		return nil, fmt.Errorf("draw key: %w", err)
	}
	for round := range rounds {
		fmt.Fprintf(o.Progress, "store: round %d of %d, %d MiB\n", round+1, rounds, storeSize/mib)
		if err := l.round(ctx, round); err != nil {
			return nil, err
		}
	}
	return l.rows(), nil
}

// readBack takes what read reads into l.back, and compares it with the pages afterwards.
func (l *storeLab) readBack(name string, read func() error) error {
	clear(l.back)
	if err := l.take(name, read); err != nil {
		return err
	}
	if !bytes.Equal(l.back, l.pages) {
		return fmt.Errorf("%s: other bytes came back than were written", name)
	}
	return nil
}

func (l *storeLab) round(ctx context.Context, round int) error {
	if err := l.readBack("memcpy", func() error { copy(l.back, l.pages); return nil }); err != nil {
		return err
	}
	disk := filepath.Join(l.folder, fmt.Sprintf("bucket-%d", round))
	for _, place := range []struct{ name, url string }{{"mem", "mem://"}, {"file", "file://" + disk}} {
		bucket, err := open.Bucket(ctx, place.url)
		if err != nil {
			return err
		}
		if err := l.ours(ctx, place.name, bucket); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(disk); err != nil {
		return fmt.Errorf("remove bucket: %w", err)
	}
	return errors.Join(l.zstdInMemory(), l.zstdOnDisk())
}

// countingBucket counts what a generation puts, tries again included.
type countingBucket struct {
	store.Bucket
	puts atomic.Int64
}

// Put implements store.Bucket.
func (b *countingBucket) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	b.puts.Add(1)
	return b.Bucket.Put(ctx, key, body, cond)
}

func (l *storeLab) ours(ctx context.Context, place string, bucket store.Bucket) error {
	counting := &countingBucket{Bucket: bucket}
	s := store.New(counting, store.Keyring{l.key})
	target := store.Target{Cluster: "bench", Namespace: "default", Name: "pages", UID: "1"}
	entry := store.Entry{Path: "pages", Type: store.TypeRegular, Mode: 0o600, Size: int64(len(l.pages)), ModTime: time.Now()}
	err := l.take("write "+place, func() error {
		w, err := s.Begin(ctx, target, store.Meta{Number: 1, PodUID: "1", Node: "bench", Final: true, Created: time.Now()},
			store.WriteOptions{Codec: store.CodecZstd})
		if err != nil {
			return err
		}
		defer w.Abort(ctx)
		if err := w.Add(ctx, entry, bytes.NewReader(l.pages)); err != nil {
			return err
		}
		generation, err := w.Commit(ctx)
		l.stored = generation.StoredBytes
		return err
	})
	if err != nil {
		return err
	}
	l.puts = counting.puts.Load()
	return l.readBack("fetch "+place, func() error {
		r, err := s.Open(ctx, target, 1, 0)
		if err != nil {
			return err
		}
		return r.Fetch(memorySink(l.back)).Run(ctx)
	})
}

// memorySink takes the one file of a generation.
type memorySink []byte

// Make implements store.Sink.
func (memorySink) Make(store.Entry) error { return nil }

// Open implements store.Sink.
func (m memorySink) Open(store.Entry) (store.File, error) { return m, nil }

// Finish implements store.Sink.
func (memorySink) Finish(store.Entry) error { return nil }

// WriteAt implements store.File.
func (m memorySink) WriteAt(p []byte, offset int64) (int, error) { return copy(m[offset:], p), nil }

// Close implements store.File.
func (memorySink) Close() error { return nil }

func (l *storeLab) zstdInMemory() error {
	l.packed.Reset()
	if err := l.take("zstd mem", func() error { return compress(&l.packed, bytes.NewReader(l.pages)) }); err != nil {
		return err
	}
	l.plain = int64(l.packed.Len())
	return l.readBack("unzstd mem", func() error { return l.decompress(bytes.NewReader(l.packed.Bytes())) })
}

func (l *storeLab) zstdOnDisk() error {
	name := filepath.Join(l.folder, "pages.zst")
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	defer f.Close()
	err = l.take("zstd file", func() error {
		return errors.Join(compress(f, bytes.NewReader(l.pages)), f.Sync())
	})
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("go to the start of %s: %w", name, err)
	}
	return l.readBack("unzstd file", func() error { return l.decompress(f) })
}

// compress writes one plain zstd stream at the fastest level.
func compress(to io.Writer, from io.Reader) error {
	encoder, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("make zstd encoder: %w", err)
	}
	_, err = io.Copy(encoder, from)
	return errors.Join(err, encoder.Close())
}

func (l *storeLab) decompress(from io.Reader) error {
	decoder, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("make zstd decoder: %w", err)
	}
	defer decoder.Close()
	_, err = io.ReadFull(decoder, l.back)
	return err
}

func (l *storeLab) rows() []Row {
	rate := func(name string) float64 { return storeSize / 1e9 / l.median(wall(name)) }
	cost := func(name string) float64 { return l.median(cpu(name)) * gib / storeSize }
	var rows []Row
	for _, place := range []string{"mem", "file"} {
		for _, verb := range []struct{ ours, theirs string }{{"write ", "zstd "}, {"fetch ", "unzstd "}} {
			ours, theirs := verb.ours+place, verb.theirs+place
			rows = append(rows,
				Row{Name: ours, Value: rate(ours), Unit: "GB/s"}.versus(theirs, rate(theirs)),
				Row{Name: ours, Value: rate(ours), Unit: "GB/s"}.versus("memcpy", rate("memcpy")),
				Row{Name: cpu(ours), Value: cost(ours), Unit: "CPU s/GiB"}.versus(cpu(theirs), cost(theirs)))
		}
	}
	// Two objects besides the packs: manifest and HEAD.
	bound := 2 + math.Ceil(float64(l.stored)/packSize)
	return append(rows,
		Row{Name: "stored", Value: float64(l.stored) / mib, Unit: "MiB"}.
			versus("zstd", float64(l.plain)/mib).wants(Target{Bound: 1.05}),
		Row{Name: "PUTs a generation", Value: float64(l.puts), Unit: "PUTs"}.
			versus("2 + ceil(stored bytes / 16 MiB)", bound).wants(Target{Bound: 1}))
}
