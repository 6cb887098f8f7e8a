package files

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
)

// ticks is how far a time of a file may lie behind the clock: some ticks of the slowest kernel (100 Hz), whose ctime is that
// of the last tick.
const ticks = 40 * time.Millisecond

// versionOf names what is known of a file's state: it changes with every change that leaves a trace.
func versionOf(st *unix.Stat_t) string {
	buf := make([]byte, 0, 40)
	for _, n := range []uint64{
		uint64(st.Dev), st.Ino, uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano()),
	} {
		buf = binary.LittleEndian.AppendUint64(buf, n)
	}
	return string(buf)
}

// preload hands the content of f to w where w may not have it.
func (p *pass) preload(ctx context.Context, w Writer, f *found) error {
	if f.Type != store.TypeRegular || f.Size == 0 || p.spared(w, f) {
		return nil
	}
	return p.read(ctx, f, func(c *content) error {
		if err := w.Preload(ctx, f.Path, f.Size, c); err != nil {
			return err
		}
		return p.keep(w, f, c)
	})
}

// add adds f to w, with its content where it has one of its own.
func (p *pass) add(ctx context.Context, w Writer, f *found) error {
	switch {
	case f.Type != store.TypeRegular || f.HardlinkTo != "":
		return w.Add(ctx, f.Entry, nil)
	case f.Size > 0 && p.spared(w, f):
		return w.AddKept(ctx, f.Entry, f.version)
	}
	return p.read(ctx, f, func(c *content) error {
		if err := w.Add(ctx, f.Entry, c); err != nil || f.Size == 0 {
			return err
		}
		return p.keep(w, f, c)
	})
}

// spared says whether w has the content of f as it is.
func (p *pass) spared(w Writer, f *found) bool {
	if w.Kept(f.Path) != f.version {
		return false
	}
	p.stats.Spared++
	p.stats.BytesSpared += f.Size
	return true
}

// keep has w know that it has the content of f, unless f may have changed without a trace since it was looked at.
func (p *pass) keep(w Writer, f *found, c *content) error {
	if !f.tree.dated || !f.changed.Before(p.began.Add(-ticks)) || p.isMapped(f) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(c.file.Fd()), &st); err != nil || versionOf(&st) != f.version {
		return nil //nolint:nilerr // what is not known is not kept
	}
	return w.Keep(f.Path, f.Size, f.version)
}

// read opens f, has take take its content, and tells errors of the file from those of take.
func (p *pass) read(ctx context.Context, f *found, take func(*content) error) error {
	file, err := reopen(f.node, 0)
	if err != nil {
		return ofTree(err)
	}
	defer file.Close()
	c := &content{file: file, size: f.Size, pay: func() error { return p.payFor(ctx) }}
	err = take(c)
	p.stats.Files++
	p.stats.BytesRead += c.bytes
	if c.fault != nil {
		return ofTree(c.fault)
	}
	return err
}

// content reads a file as far as it went when it was looked at, without its holes. It is a store.SparseReader.
type content struct {
	file     *os.File
	at, size int64
	// data is how far there is no hole.
	data  int64
	bytes int64
	pay   func() error
	fault error // of the file
}

// Read implements io.Reader.
func (c *content) Read(buf []byte) (int, error) {
	if err := c.pay(); err != nil {
		return 0, err
	}
	if c.at >= c.size {
		return 0, io.EOF
	}
	n, err := c.file.ReadAt(buf[:min(int64(len(buf)), c.size-c.at)], c.at)
	c.at, c.bytes = c.at+int64(n), c.bytes+int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.fault = err
	}
	return n, err
}

// Hole implements store.SparseReader.
func (c *content) Hole() (int64, error) {
	if c.at >= c.size || c.at < c.data {
		return 0, nil
	}
	fd := int(c.file.Fd())
	data, err := unix.Seek(fd, c.at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // there is none any more
		data = c.size
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP): // not known here
		c.data = c.size
		return 0, nil
	case err != nil:
		c.fault = fmt.Errorf("seek data: %w", err)
		return 0, c.fault
	}
	data = min(data, c.size)
	c.data = data
	if data < c.size {
		if c.data, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			c.data = data + store.BlockSize // it has just gone; Read will tell
		}
	}
	hole := data - c.at
	if data < c.size {
		hole -= hole % store.BlockSize
	}
	c.at += hole
	return hole, nil
}

// payFor waits until the limit allows for what has been used.
func (p *pass) payFor(ctx context.Context) error {
	if p.pay == nil {
		return nil
	}
	return p.pay(ctx)
}

// meter accounts for the CPU time of the calling thread, which the goroutine keeps until end.
type meter struct {
	limit        *memory.Limit
	began, spent time.Duration
}

func startMeter(limit *memory.Limit) *meter {
	runtime.LockOSThread()
	now := threadTime()
	return &meter{limit: limit, began: now, spent: now}
}

func (m *meter) pay(ctx context.Context) error {
	if m.limit == nil {
		return nil
	}
	now := threadTime()
	used := now - m.spent
	m.spent = now
	return m.limit.Spend(ctx, used)
}

func (m *meter) end() time.Duration {
	defer runtime.UnlockOSThread()
	return threadTime() - m.began
}

func threadTime() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		return 0
	}
	return time.Duration(at.Nano())
}
