package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/oklog/ulid/v2"
)

const (
	// uploads is how many packs are under way at a time. A Writer holds at most one pack buffer more than that: 80 MiB.
	uploads = 4
	// maxEncoders bounds how many frames are compressed at a time.
	maxEncoders = 4
)

// frameJob is a frame on its way from raw bytes into a pack.
type frameJob struct {
	raw     []byte // whole blocks
	encoded []byte
	codec   Codec
	hashes  []blockHash
	first   blockID
	ready   chan struct{}
}

// fullPack is a pack on its way to the bucket.
type fullPack struct {
	info *packInfo
	body []byte
}

// packer turns frames into packs and puts them: frames are compressed side by side, sealed in the order in which they
// came, and packs are put several at a time. After the first failure the rest is dropped, so that nobody ever hangs.
type packer struct {
	store   *Store
	target  Target
	keys    *targetKeys
	number  int64
	epoch   int64
	free    chan *frameJob // bounds the frames in flight
	todo    chan *frameJob
	ordered chan *frameJob
	full    chan fullPack
	buffers chan []byte
	running sync.WaitGroup
	stop    context.CancelFunc
	failure failure

	packs livePacks // once finish has returned
}

// failure keeps the first error.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *failure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// start begins the work under ctx, with codec for every frame.
func (p *packer) start(ctx context.Context, codec Codec) error {
	encoders := min(maxEncoders, runtime.GOMAXPROCS(0))
	p.free = make(chan *frameJob, 2*encoders+1)
	p.todo, p.ordered = make(chan *frameJob, cap(p.free)), make(chan *frameJob, cap(p.free))
	p.full, p.buffers = make(chan fullPack, uploads+1), make(chan []byte, uploads+1)
	for range cap(p.free) {
		p.free <- &frameJob{}
	}
	for range uploads + 1 {
		p.buffers <- nil
	}
	var made []*frameEncoder
	for range encoders {
		encoder, err := newFrameEncoder(codec)
		if err != nil {
			return err
		}
		made = append(made, encoder)
	}
	ctx, p.stop = context.WithCancel(ctx)
	for _, encoder := range made {
		p.running.Go(func() {
			defer encoder.close()
			p.encode(encoder)
		})
	}
	p.running.Go(p.collect)
	for range uploads {
		p.running.Go(func() { p.upload(ctx) })
	}
	return nil
}

// take waits for an empty frame, whose raw has room for frameSize bytes.
func (p *packer) take(ctx context.Context) (*frameJob, error) {
	select {
	case job := <-p.free:
		if job.raw == nil {
			job.raw, job.encoded = make([]byte, 0, frameSize), make([]byte, 0, frameSize+frameSize/8)
		}
		job.raw, job.hashes, job.ready = job.raw[:0], job.hashes[:0], make(chan struct{})
		return job, p.failure.get()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// add hands a frame in. Both channels have room for every frame there is, so it never blocks.
func (p *packer) add(job *frameJob) {
	p.ordered <- job
	p.todo <- job
}

func (p *packer) encode(encoder *frameEncoder) {
	for job := range p.todo {
		job.encoded, job.codec = encoder.encode(job.encoded[:0], job.raw)
		close(job.ready)
	}
}

// collect seals frames into packs, in their order.
func (p *packer) collect() {
	defer close(p.full)
	var pack *packBuilder
	var live *livePack
	var hashes []blockHash
	end := func() {
		if pack == nil {
			return
		}
		body, err := pack.finish(hashes)
		hashes = hashes[:0]
		if err != nil {
			p.failure.set(err)
			return
		}
		p.packs = append(p.packs, live)
		p.full <- fullPack{info: live.packInfo, body: body}
		pack = nil
	}
	for job := range p.ordered {
		<-job.ready
		if pack != nil && pack.full() {
			end()
		}
		if pack == nil && p.failure.get() == nil {
			var err error
			if live, pack, err = p.begin(job.first); err != nil {
				p.failure.set(err)
			}
		}
		if pack != nil {
			encoded := job.encoded
			if job.codec == CodecNone {
				encoded = job.raw
			}
			if err := pack.add(encoded, job.codec, len(job.raw)/BlockSize); err != nil {
				p.failure.set(err)
			}
			hashes = append(hashes, job.hashes...)
		}
		p.free <- job
	}
	end()
}

func (p *packer) begin(first blockID) (*livePack, *packBuilder, error) {
	buf := <-p.buffers
	if buf == nil {
		buf = make([]byte, 0, maxPackSize)
	}
	// Two packs of one target under the same ID would share key and nonces, so it takes more than ulid.Make, whose
	// randomness comes from the clock.
	id, err := ulid.New(ulid.Now(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("draw pack ID: %w", err)
	}
	live := &livePack{packInfo: &packInfo{id: id, number: p.number, epoch: p.epoch}, first: first}
	pack, err := newPackBuilder(live.packInfo, p.keys, buf)
	return live, pack, err
}

func (p *packer) upload(ctx context.Context) {
	for pack := range p.full {
		if p.failure.get() == nil {
			if err := p.put(ctx, pack); err != nil {
				p.failure.set(err)
			}
		}
		p.buffers <- pack.body[:0]
	}
}

func (p *packer) put(ctx context.Context, pack fullPack) error {
	var last error
	for range attempts {
		if _, last = p.store.bucket.Put(ctx, p.target.packKey(pack.info.id), pack.body, Condition{}); last == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("put pack: %w", last)
}

// finish waits until all frames are in the bucket, and returns the first failure. It may be called once.
func (p *packer) finish() error {
	close(p.todo)
	close(p.ordered)
	p.running.Wait()
	p.stop()
	return p.failure.get()
}

// remove deletes the packs again, as far as the bucket lets it.
func (p *packer) remove(ctx context.Context) error {
	var errs []error
	for _, pack := range p.packs {
		errs = append(errs, p.store.bucket.Delete(ctx, p.target.packKey(pack.id)))
	}
	return errors.Join(errs...)
}
