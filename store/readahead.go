package store

import (
	"bytes"
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
)

// packsAhead is how many packs a Fetch holds or has under way.
const packsAhead = 4

// readAhead loads packs in the order in which the entries of a generation need them. A run is a stretch of content from
// one pack. Of the runs, those from the newest asked for to packsAhead-1 after it are in memory; what came before is
// dropped and its memory used again.
type readAhead struct {
	*Reader
	runs    []int // pack of each run
	loads   map[int]*packLoad
	first   int // runs before it are dropped
	started int
	free    [][]byte
}

type packLoad struct {
	key    string
	aead   cipher.AEAD
	body   []byte
	err    error
	done   chan struct{}
	cancel context.CancelFunc
}

func newReadAhead(r *Reader) *readAhead {
	a := &readAhead{Reader: r, loads: map[int]*packLoad{}}
	for i := range r.contents.records {
		for _, ext := range r.contents.records[i].extents {
			if !ext.zero && (len(a.runs) == 0 || a.runs[len(a.runs)-1] != ext.pack) {
				a.runs = append(a.runs, ext.pack)
			}
		}
	}
	return a
}

// get returns the pack of a run once it is there and its checksum right. Runs are asked for in ascending order.
func (a *readAhead) get(ctx context.Context, run int) (*packLoad, error) {
	for ; a.first < run; a.first++ {
		a.drop(a.first)
	}
	a.started = max(a.started, run)
	for ; a.started < min(run+packsAhead, len(a.runs)); a.started++ {
		a.start(ctx, a.started)
	}
	load := a.loads[run]
	select {
	case <-load.done:
		return load, load.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *readAhead) start(ctx context.Context, run int) {
	var buf []byte
	if n := len(a.free); n > 0 {
		buf, a.free = a.free[n-1], a.free[:n-1]
	}
	info := a.contents.packs[a.runs[run]]
	ctx, cancel := context.WithCancel(ctx)
	load := &packLoad{key: a.target.packKey(info.id), done: make(chan struct{}), cancel: cancel}
	a.loads[run] = load
	go func() {
		defer close(load.done)
		load.body, load.err = a.load(ctx, load.key, info, buf)
		if load.err == nil {
			load.aead, load.err = info.cipher(a.keys)
		}
	}()
}

func (a *readAhead) load(ctx context.Context, key string, info *packInfo, buf []byte) ([]byte, error) {
	if room := int(info.size) + 2*bytes.MinRead; cap(buf) < room {
		buf = make([]byte, 0, room)
	}
	body, err := readObject(ctx, a.store.bucket, key, info.size, buf)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, fmt.Errorf("%w: %w", ErrPackMissing, err)
	case errors.Is(err, ErrCorrupt):
		return nil, fmt.Errorf("%w: %w", ErrPackCorrupt, err)
	case err != nil:
		return nil, err
	}
	if err := info.verify(body); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return body, nil
}

func (a *readAhead) drop(run int) {
	load, started := a.loads[run]
	if !started {
		return
	}
	load.cancel()
	<-load.done
	if load.body != nil {
		a.free = append(a.free, load.body)
	}
	delete(a.loads, run)
}

// wait ends and awaits everything that was started.
func (a *readAhead) wait() {
	for run := range a.loads {
		a.drop(run)
	}
}
