package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/store"
)

// box is a container of a host: its memory changes only while it runs. The one called c1 is of pod c1, as is c1.side.
type box struct {
	status  Status
	memory  []byte
	froze   time.Time
	still   []time.Duration
	signals []syscall.Signal
	rng     *rand.Rand
}

// host is a fake of all that stands around an Evacuator with several targets. Times are the bubble's.
type host struct {
	t   *testing.T
	dir string

	mu       sync.Mutex
	boxes    map[string]*box
	final    map[string]Committed
	failed   map[string]string
	causes   map[string]string
	safety   map[string]Committed
	verdicts map[string][]Verdict
	scans    map[string]int
	// handed is the memory that sinks have got and nobody has lost since.
	handed map[string][]byte
	// obstacles are what keeps boxes from being dumped.
	obstacles map[string][]obstacle.Obstacle
	unjudged  bool
	leaving   atomic.Bool
	// missing are containers that pods lack.
	missing map[string][]string
	// share is that of the newest scan; throttled has all targets run at their limits.
	share     float64
	throttled bool
	// onScan, onDump, onFiles and onBegun are called at the beginning of each, and may fail it. ctx is the call's.
	onScan, onDump, onFiles, onBegun func(ctx context.Context, id string) error
}

const boxPages = 600

func (h *host) add(id string) {
	memory := make([]byte, boxPages*store.BlockSize)
	seed := [32]byte{}
	copy(seed[:], id)
	rng := rand.New(rand.NewChaCha8(seed))
	for i := range memory {
		memory[i] = byte(rng.Uint32())
	}
	h.boxes[id] = &box{status: StatusRunning, memory: memory, rng: rng}
}

// write changes one page of every box that runs.
func (h *host) write() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.boxes {
		if b.status == StatusRunning {
			b.memory[b.rng.IntN(64)*store.BlockSize]++
		}
	}
}

func (h *host) box(id string) (*box, error) {
	b := h.boxes[id]
	if b == nil {
		return nil, ErrGone
	}
	return b, nil
}

func (h *host) Status(_ context.Context, id string) (Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.boxes[id]; b != nil {
		return b.status, nil
	}
	return StatusStopped, nil
}

func (h *host) Pause(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := h.box(id)
	if err == nil && b.status != StatusPaused {
		b.status, b.froze = StatusPaused, time.Now()
	}
	return err
}

func (h *host) Resume(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := h.box(id)
	if err != nil {
		return err
	}
	pod, _, _ := strings.Cut(id, ".")
	_, final := h.final[pod]
	require.False(h.t, final, "thawed although it may run elsewhere")
	if b.status == StatusPaused {
		b.status, b.still = StatusRunning, append(b.still, time.Since(b.froze))
	}
	return nil
}

func (h *host) Signal(_ context.Context, id string, s syscall.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := h.box(id)
	if err == nil {
		b.signals = append(b.signals, s)
	}
	return err
}

func (h *host) call(ctx context.Context, hook func(context.Context, string) error, id string) error {
	if hook == nil {
		return nil
	}
	return hook(ctx, id)
}

func (h *host) Dump(ctx context.Context, id, dir string, sink Sink) (Dump, error) {
	h.mu.Lock()
	onDump := h.onDump
	h.mu.Unlock()
	if err := h.call(ctx, onDump, id); err != nil {
		return Dump{}, err
	}
	h.mu.Lock()
	b, err := h.box(id)
	if err == nil && b.status != StatusPaused {
		err = ErrNotFrozen
	}
	h.mu.Unlock()
	if err == nil {
		err = wait(ctx, 100*time.Millisecond)
	}
	if err != nil {
		return Dump{}, err
	}
	images := filepath.Join(h.dir, dir, "images")
	require.NoError(h.t, os.MkdirAll(images, 0o700))
	require.NoError(h.t, os.WriteFile(filepath.Join(images, "core-1.img"), []byte("registers"), 0o600))
	m := Memory{Image: "pages-1.img", Task: "mem/1", Runs: runsOf(b.memory)}
	dump := Dump{Images: images, RSSBytes: int64(len(b.memory)), Memory: []Memory{m}}
	first := m.Runs[0]
	half := b.memory[:first.Pages*store.BlockSize]
	if sink == nil {
		require.NoError(h.t, os.WriteFile(filepath.Join(images, m.Image), b.memory, 0o600))
		h.Forget(id)
		return dump, nil
	}
	// The file has one page, the sink gets all others.
	dump.OnDisk = map[string][]store.Run{m.Image: {{Address: first.Address, Pages: 1}}}
	require.NoError(h.t, os.WriteFile(filepath.Join(images, m.Image), half[:store.BlockSize], 0o600))
	return dump, h.sinkChanged(ctx, id, m, b.memory, sink)
}

// sinkChanged hands on the pages of memory, the first aside, that sinks have not got before, as where the kernel tracks writes.
func (h *host) sinkChanged(ctx context.Context, id string, m Memory, memory []byte, sink Sink) error {
	h.mu.Lock()
	had := h.handed[id]
	h.mu.Unlock()
	at := 0
	for _, run := range m.Runs {
		for n := range int(run.Pages) {
			page := memory[at : at+store.BlockSize]
			known := had != nil && bytes.Equal(page, had[at:at+store.BlockSize])
			if at > 0 && !known {
				if err := sink(ctx, m.Task, run.Address+uint64(n*store.BlockSize), page); err != nil {
					h.Forget(id)
					return err
				}
			}
			at += store.BlockSize
		}
	}
	h.hand(id, memory)
	return nil
}

func (h *host) hand(id string, memory []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.handed == nil {
		h.handed = map[string][]byte{}
	}
	h.handed[id] = bytes.Clone(memory)
}

func (h *host) Scan(ctx context.Context, c Container, share float64, sink ScanSink) (Scan, error) {
	h.mu.Lock()
	h.scans[c.ID]++
	h.share = share
	h.mu.Unlock()
	if err := h.call(ctx, h.onScan, c.ID); err != nil {
		return Scan{}, err
	}
	h.mu.Lock()
	b, err := h.box(c.ID)
	var seen []byte
	if err == nil {
		seen = bytes.Clone(b.memory)
	}
	h.mu.Unlock()
	if err != nil {
		return Scan{}, err
	}
	runs, cpu := runsOf(seen), 10*time.Millisecond
	if err := wait(ctx, time.Duration(float64(cpu)/share)); err != nil {
		return Scan{}, err
	}
	half := runs[0].Pages * store.BlockSize
	if _, err := sink(ctx, "mem/1", runs[0].Address, seen[:half]); err != nil {
		return Scan{}, err
	}
	if _, err = sink(ctx, "mem/1", runs[1].Address, seen[half:]); err == nil {
		h.hand(c.ID, seen)
	}
	return Scan{Bytes: int64(len(seen)), CPU: cpu}, err
}

func (h *host) Forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.handed, id)
}

func (h *host) Vitals(c Container) (Vitals, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := h.box(c.ID)
	if err != nil {
		return Vitals{}, err
	}
	v := Vitals{RSSBytes: int64(len(b.memory)), CPU: time.Duration(time.Now().UnixNano() / 10), Periods: time.Now().Unix()}
	if h.throttled {
		v.Throttled = v.Periods
	}
	return v, nil
}

func (h *host) Preload(ctx context.Context, t Target, _ float64, w FileWriter) (FilePass, error) {
	content := fileOf(podOf(t))
	return FilePass{Bytes: int64(len(content))}, w.Preload(ctx, "layers/main/tmp/state", int64(len(content)), bytes.NewReader(content))
}

func (h *host) Add(ctx context.Context, t Target, w FileWriter) (FilePass, error) {
	if err := h.call(ctx, h.onFiles, podOf(t)); err != nil {
		return FilePass{}, err
	}
	content := fileOf(podOf(t))
	entry := store.Entry{
		Path: "layers/main/tmp/state", Type: store.TypeRegular, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0),
	}
	return FilePass{Bytes: entry.Size, BytesRead: entry.Size}, w.Add(ctx, entry, bytes.NewReader(content))
}

// fileOf is the content of a file, larger than what little may be left at a notice.
func fileOf(id string) []byte {
	content := make([]byte, 1<<20)
	seed := [32]byte{1}
	copy(seed[1:], id)
	rand.NewChaCha8(seed).Read(content)
	return content
}

func (h *host) Targets(context.Context) ([]Target, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var targets []Target
	for _, id := range slices.Sorted(maps.Keys(h.boxes)) {
		pod, _, more := strings.Cut(id, ".")
		if !more {
			targets = append(targets, hostTarget(pod))
		}
		t := &targets[len(targets)-1]
		if more {
			t.Containers = append(t.Containers, hostTarget(id).Containers...)
		}
		t.Containers[len(t.Containers)-1].Status = h.boxes[id].status
		t.Obstacles, t.Unjudged, t.Missing = h.obstacles[pod], h.unjudged, h.missing[pod]
		_, t.Final = h.final[pod]
	}
	return targets, nil
}

// hostTarget is the pod of these containers.
func hostTarget(ids ...string) Target {
	pod, _, _ := strings.Cut(ids[0], ".")
	t := Target{Namespace: "default", Pod: "pod-" + pod, PodUID: "pod-" + pod, Checkpoint: "pod-" + pod, CheckpointUID: "uid-" + pod}
	for _, id := range ids {
		_, name, _ := strings.Cut(id, ".")
		t.Containers = append(t.Containers, Container{
			ID: id, Namespace: t.Namespace, Pod: t.Pod, PodUID: t.PodUID, Name: cmp.Or(name, "main"), Status: StatusRunning,
		})
	}
	return t
}

func podOf(t Target) string { return strings.TrimPrefix(t.PodUID, "pod-") }

func (h *host) Begun(ctx context.Context, t Target, _ Moments) error {
	return h.call(ctx, h.onBegun, podOf(t))
}

func (h *host) Final(_ context.Context, t Target, g Committed, _ Moments) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range t.Containers {
		require.NotEqual(h.t, StatusRunning, h.boxes[c.ID].status, "recorded as final while it ran")
	}
	h.final[podOf(t)] = g
	return nil
}

func (h *host) Leaving(context.Context, Target) (bool, error) { return h.leaving.Load(), nil }

func (h *host) Failed(_ context.Context, t Target, reason, message string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.causes[podOf(t)] = message
	h.failed[podOf(t)] = reason
	return nil
}

func (h *host) Safety(_ context.Context, t Target, g Committed, _ time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.safety[podOf(t)] = g
	return nil
}

func (h *host) Judged(_ context.Context, t Target, v Verdict, _ Prediction) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.verdicts[podOf(t)] = append(h.verdicts[podOf(t)], v)
	return nil
}
