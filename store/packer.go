package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"

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
	codec   Codec // wanted, then used
	hashes  []blockHash
	first   blockID
	last    bool // the pack ends after it
	ready   chan struct{}
}

// fullPack is a pack on its way to the bucket.
type fullPack struct {
	info *packInfo
	body []byte
	last bool // nothing follows for now
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

	progress tally

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

// start begins the work under ctx.
func (p *packer) start(ctx context.Context) {
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
	ctx, p.stop = context.WithCancel(ctx)
	for range encoders {
		p.running.Go(p.encode)
	}
	p.running.Go(p.collect)
	for range uploads {
		p.running.Go(func() { p.upload(ctx) })
	}
}

// take waits for an empty frame, whose raw has room for frameSize bytes.
func (p *packer) take(ctx context.Context) (*frameJob, error) {
	select {
	case job := <-p.free:
		if job.raw == nil {
			job.raw, job.encoded = make([]byte, 0, frameSize), make([]byte, 0, frameSize+frameSize/8)
		}
		job.raw, job.hashes, job.ready = job.raw[:0], job.hashes[:0], make(chan struct{})
		job.last = false
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

func (p *packer) encode() {
	runtime.LockOSThread() // whose processor time is told
	defer runtime.UnlockOSThread()
	encoders := map[Codec]*frameEncoder{}
	defer func() {
		for _, encoder := range encoders {
			encoder.close()
		}
	}()
	spent := threadTime()
	for job := range p.todo {
		encoder := encoders[job.codec]
		if encoder == nil {
			var err error
			if encoder, err = newFrameEncoder(job.codec); err != nil {
				p.failure.set(err)
				encoder = &frameEncoder{codec: CodecNone}
			}
			encoders[job.codec] = encoder
		}
		job.encoded, job.codec = encoder.encode(job.encoded[:0], job.raw)
		stored := len(job.encoded)
		if job.codec == CodecNone {
			stored = len(job.raw)
		}
		now := threadTime()
		p.progress.encoded(len(job.raw), stored, now-spent)
		spent = now
		close(job.ready)
	}
}

// threadTime is the processor time that this thread has used: on a busy machine the clock shows many times as much. 0 where
// the system does not say. Source: getrusage(2), RUSAGE_THREAD.
func threadTime() time.Duration {
	const ofThread = 1
	var used syscall.Rusage
	if err := syscall.Getrusage(ofThread, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// collect seals frames into packs, in their order.
func (p *packer) collect() {
	defer close(p.full)
	var pack *packBuilder
	var live *livePack
	var hashes []blockHash
	end := func(last bool) {
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
		p.full <- fullPack{info: live.packInfo, body: body, last: last}
		pack = nil
	}
	for job := range p.ordered {
		<-job.ready
		if pack != nil && pack.full() {
			end(false)
		}
		if len(job.raw) > 0 && pack == nil && p.failure.get() == nil {
			var err error
			if live, pack, err = p.begin(job.first); err != nil {
				p.failure.set(err)
			}
		}
		if len(job.raw) > 0 && pack != nil {
			encoded := job.encoded
			if job.codec == CodecNone {
				encoded = job.raw
			}
			if err := pack.add(encoded, job.codec, len(job.raw)/BlockSize); err != nil {
				p.failure.set(err)
			}
			hashes = append(hashes, job.hashes...)
		}
		if job.last {
			end(true)
		}
		p.free <- job
	}
	end(true)
}

func (p *packer) begin(first blockID) (*livePack, *packBuilder, error) {
	buf := <-p.buffers
	if buf == nil {
		buf = make([]byte, 0, firstBuffer)
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
		if pack.last {
			p.dropBuffers()
		}
	}
}

// dropBuffers gives up the memory of buffers that nobody uses: it may be long until there is more to upload.
func (p *packer) dropBuffers() {
	for range cap(p.buffers) {
		select {
		case <-p.buffers:
			p.buffers <- nil
		default:
			return
		}
	}
}

func (p *packer) put(ctx context.Context, pack fullPack) error {
	var last error
	uploaded := 0
	p.progress.begins()
	defer func() { p.progress.ends(uploaded) }()
	for range attempts {
		if _, last = p.store.bucket.Put(ctx, p.target.packKey(pack.info.id), pack.body, Condition{}); last == nil {
			uploaded = len(pack.body)
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
