package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// MemoryVerb is the argument under which the bench's own program calls MeasureMemory; a number of GiB follows.
const MemoryVerb = "measure-memory"

// memorySizes are the synthetic targets of which each is written by a process of its own, in GiB.
var memorySizes = []int{1, 16}

const (
	// What store.Writer says of its memory: for itself, and for each block of a base and of what is stored.
	writerMemory = 85 << 20
	blockMemory  = 24 + 32
	// garbage is what Go's collector lets the heap grow to, against what is alive.
	garbage = 2
	// programMemory is what the program has without a write, and for a manifest of no neighbours while it is encoded.
	programMemory = 64 << 20

	peakMemory = "peak memory of a write, GiB "
)

// memoryBound is what a write of a target of so many GiB may hold, in MiB.
func memoryBound(gibs int) float64 {
	return (programMemory + garbage*(writerMemory+blockMemory*float64(gibs)*gib/store.BlockSize)) / mib
}

// MeasureMemory writes a target of so many GiB that is made on the fly, and then a second generation in which 1 % of its
// pages have changed, to a bucket that swallows both; and returns the most memory that the process ever had (VmHWM), in
// KiB.
func MeasureMemory(ctx context.Context, gibs int) (int, error) {
	c, err := newChain(newNullBucket(), store.CodecZstd)
	if err != nil {
		return 0, err
	}
	for generation := range uint64(2) {
		w, err := c.begin(ctx)
		if err != nil {
			return 0, err
		}
		err = addMade(ctx, w, gibs, generation)
		if err == nil {
			err = addScanned(ctx, w, int64(gibs)*gib)
		}
		if err == nil {
			err = c.commit(ctx, w)
		}
		if err != nil {
			w.Abort(ctx)
			return 0, err
		}
	}
	return peakKiB()
}

// addMade adds pages that all differ. Every hundredth differs from one generation to the next.
func addMade(ctx context.Context, w *store.Writer, gibs int, generation uint64) error {
	pattern := makePages(chunkSize)
	chunks := gibs * (gib / chunkSize)
	adding, ctx := errgroup.WithContext(ctx)
	for worker := range workers {
		adding.Go(func() error {
			chunk := bytes.Clone(pattern)
			for n := worker; n < chunks; n += workers {
				stampPages(chunk, uint64(n)*(chunkSize/pageSize), generation)
				if err := w.AddPages(ctx, scanTask, scanStart+uint64(n)*chunkSize, chunk); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return adding.Wait()
}

// stampPages writes each page's number to its start, and into every hundredth the generation.
func stampPages(pages []byte, first, generation uint64) {
	for page := first; len(pages) > 0; page, pages = page+1, pages[pageSize:] {
		binary.LittleEndian.PutUint64(pages, page+1)
		if page%100 == 0 {
			binary.LittleEndian.PutUint64(pages[8:], generation)
		}
	}
}

func peakKiB() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read peak memory: %w", err)
	}
	return parsePeak(string(status))
}

// parsePeak reads the line "VmHWM:	  1234 kB" of /proc/PID/status.
func parsePeak(status string) (int, error) {
	_, rest, found := strings.Cut(status, "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	number, unit := strings.TrimSpace(line), " kB"
	if !found || !strings.HasSuffix(number, unit) {
		return 0, fmt.Errorf("read peak memory: no line VmHWM in kB")
	}
	kib, err := strconv.Atoi(strings.TrimSuffix(number, unit))
	if err != nil {
		return 0, fmt.Errorf("read peak memory: %w", err)
	}
	return kib, nil
}

func (l *storeLab) measureMemory(ctx context.Context) error {
	for _, size := range memorySizes {
		l.say("memory: a process that writes %d GiB twice", size)
		command := exec.CommandContext(ctx, "/proc/self/exe", MemoryVerb, strconv.Itoa(size))
		command.Stderr = l.progress
		out, err := command.Output()
		if err != nil {
			return fmt.Errorf("measure memory: %w", err)
		}
		kib, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			return fmt.Errorf("measure memory: %w", err)
		}
		l.Add(peakMemory+strconv.Itoa(size), float64(kib)/1024)
	}
	return nil
}

func (l *storeLab) memoryRows() []rows.Row {
	peak := func(size int) float64 { return l.Median(peakMemory + strconv.Itoa(size)) }
	small, large := memorySizes[0], memorySizes[len(memorySizes)-1]
	perGiB := (peak(large) - peak(small)) / float64(large-small)
	fixed := peak(small) - perGiB*float64(small)
	row := func(name string, value float64) rows.Row { return rows.Row{Name: name, Value: value, Unit: "MiB"} }
	var all []rows.Row
	for _, size := range memorySizes {
		all = append(all, row(peakMemory+strconv.Itoa(size), peak(size)).
			Versus("64 MiB and twice what Writer states", memoryBound(size)).Wants(rows.Target{Bound: 1}))
	}
	return append(all, row("memory of a write, fixed part", fixed), row("memory of a write, for each GiB", perGiB))
}
