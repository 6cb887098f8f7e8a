package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/zeebo/xxh3"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/agentlog"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/change"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/measured"
	"github.com/lifeboat-dev/lifeboat/watcher"
)

// window is what a notice leaves.
const window = 5 * time.Minute

// teller takes what was measured.
type teller func(name string, value float64) error

// measure measures an engine on a container of its own.
func (m *machine) measure(ctx context.Context, engine string, mib int, tell teller) (err error) {
	j, err := m.start(ctx, mib)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.end(ctx)) }()
	if engine == measured.Plain {
		return m.plain(ctx, tell)
	}
	runc := m.newRunc()
	runtime := criu.Engine{Runc: runc}
	if engine == measured.Lazy {
		if err := memory.ProbeTracking(); err != nil {
			return err
		}
		runc.Filters = memory.NewFilters()
		return m.evacuate(ctx, j, engine, runtime, memory.Scanner{Proc: "/proc", Filters: runc.Filters}, tell)
	}
	if runtime.Choice, err = runc.Choose(ctx, criu.Tracked); err != nil {
		return err
	}
	if runtime.Choice.Way != criu.Tracked {
		return fmt.Errorf("it cannot be had: %s", runtime.Choice.Reason)
	}
	runtime.Incremental = &criu.Incremental{Runc: runc, Dir: "/run/rounds", Meter: memory.Scanner{Proc: "/proc"}}
	return m.evacuate(ctx, j, engine, runtime, runtime.Incremental, tell)
}

// plain is what runc does by itself.
func (m *machine) plain(ctx context.Context, tell teller) error {
	if err := m.call(ctx, "checkpoint", "--leave-running", "--image-path", "/run/plain", "--work-path", "/run/plain-work", containerID); err != nil {
		return err
	}
	defer os.RemoveAll("/run/plain")
	f, err := os.Open("/run/plain-work/stats-dump")
	if err != nil {
		return fmt.Errorf("open what CRIU says of the dump: %w", err)
	}
	defer f.Close()
	image, err := crit.New(f, nil, "", false, true).Decode(&stats.StatsEntry{})
	if err != nil {
		return fmt.Errorf("read what CRIU says of the dump: %w", err)
	}
	for _, entry := range image.Entries {
		if said, ok := entry.Message.(*stats.StatsEntry); ok {
			return tell(measured.Plain+": "+measured.Freeze, float64(said.GetDump().GetFrozenTime())/1e6)
		}
	}
	return errors.New("CRIU does not say how long the dump took")
}

// evacuate protects the job, changes it after its first round, and has the node leave.
func (m *machine) evacuate(ctx context.Context, j *job, engine string, runtime criu.Engine, scanner snapshot.Scanner, tell teller) error {
	filters := runtime.Runc.Filters
	generations, err := newStore()
	if err != nil {
		return err
	}
	journal := &journal{final: make(chan finished, 1), target: snapshot.Target{
		Namespace: "n", Pod: containerID, PodUID: "u",
		Containers: []snapshot.Container{{
			ID: containerID, PID: j.pid, Status: snapshot.StatusRunning, Namespace: "n", Pod: containerID, PodUID: "u", Name: "c", NeverRestarts: true,
		}},
		Checkpoint: containerID, CheckpointUID: "u",
		// A safety dump would take longer here than one may.
		Settings: snapshot.TargetSettings{FinalOnly: true},
	}}
	policy := snapshot.DefaultPolicy()
	policy.CPUShare, policy.TargetCPU, policy.NetworkShare, policy.Interval = 1, 1, 1, window
	zerolog.TimeFieldFormat, zerolog.DurationFieldUnit = time.RFC3339Nano, time.Second // as the agent has it
	log := agentlog.New()
	e := snapshot.New(snapshot.Options{
		Runtime: runtime, Files: noFiles{}, Journal: journal, Store: generations, Holds: snapshot.Holds{Dir: "/run/holds"},
		Scanner: scanner, Policy: policy, Window: window, Cores: 1, Board: noBoard{}, Cluster: "vm", NodeName: "vm",
		WorkDir: "/run/dumps", HostRoot: "/", Proc: "/proc", Margin: time.Second, Log: zerolog.New(io.MultiWriter(log, os.Stderr)).With().Timestamp().Logger(),
	})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(running) }()
	defer func() { stop(); <-ended }()
	began := time.Now()
	last, err := log.Await(ctx, containerID, agentlog.Round, began, 1)
	if err != nil {
		return err
	}
	changed, err := j.changed(ctx, change.Random)
	if err != nil {
		return err
	}
	read := pagesRead(filters)
	heard := time.Now()
	e.Heard(watcher.Notice{Source: "bench", Action: watcher.ActionTerminate, Deadline: heard.Add(window), Heard: heard})
	var f finished
	select {
	case f = <-journal.final:
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.fault != "" {
		return fmt.Errorf("not evacuated: %s", f.fault)
	}
	for _, round := range log.Of(containerID, agentlog.Round, last.Time) {
		if round.Time.Before(heard) {
			return errors.New("a round came between the change and the notice")
		}
	}
	return f.tell(engine, filters, pagesRead(filters)-read, changed, tell)
}

func (f finished) tell(engine string, filters *memory.Filters, read, changed float64, tell teller) error {
	values := []measured.Value{
		{Name: measured.Freeze, Value: f.moments.Dumped.Sub(f.moments.Frozen).Seconds()},
		{Name: measured.Durable, Value: f.moments.Durable.Sub(f.moments.Notice).Seconds()},
		{Name: measured.WindowBytes, Value: float64(f.generation.WindowBytes)},
		{Name: measured.PagesChanged, Value: changed},
	}
	if filters != nil {
		values = append(values, measured.Value{Name: measured.PagesRead, Value: read})
	}
	for _, v := range values {
		if err := tell(engine+": "+v.Name, v.Value); err != nil {
			return err
		}
	}
	return nil
}

// changed has the job change, and counts the pages that then differ.
func (j *job) changed(ctx context.Context, c change.Change) (float64, error) {
	sums := map[uint64]uint64{}
	reader := memory.Reader{Proc: "/proc"}
	differ := 0.0
	look := func(_ context.Context, _ string, address uint64, pages []byte) error {
		for at := 0; at < len(pages); at += change.PageSize {
			sum, place := xxh3.Hash(pages[at:][:change.PageSize]), address+uint64(at)
			if was, known := sums[place]; !known || was != sum {
				differ++
			}
			sums[place] = sum
		}
		return nil
	}
	if _, err := reader.Read(ctx, j.pid, look); err != nil {
		return 0, err
	}
	differ = 0
	if err := j.change(ctx, c); err != nil {
		return 0, err
	}
	_, err := reader.Read(ctx, j.pid, look)
	return differ, err
}

// pagesRead is how many pages of frozen targets were read so far.
func pagesRead(filters *memory.Filters) float64 {
	if filters == nil {
		return 0
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(filters)
	families, err := registry.Gather()
	if err != nil {
		return 0
	}
	var sum float64
	for _, family := range families {
		if family.GetName() != "lifeboat_soft_dirty_frozen_pages_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetValue() == "read" {
					sum += metric.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

func newStore() (*store.Store, error) {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	keyring, err := store.ParseKeyring([]byte(hex.EncodeToString(key[:]) + "\n"))
	if err != nil {
		return nil, fmt.Errorf("make keyring: %w", err)
	}
	return store.New(mem.New(), keyring), nil
}

// finished is how an evacuation ended.
type finished struct {
	generation snapshot.Committed
	moments    snapshot.Moments
	fault      string
}

// journal knows one target, of which nobody else does.
type journal struct {
	target snapshot.Target
	final  chan finished
}

func (j *journal) Targets(context.Context) ([]snapshot.Target, error) {
	return []snapshot.Target{j.target}, nil
}
func (j *journal) Begun(context.Context, snapshot.Target, snapshot.Moments) error { return nil }
func (j *journal) Final(_ context.Context, _ snapshot.Target, g snapshot.Committed, m snapshot.Moments) error {
	j.final <- finished{generation: g, moments: m}
	return nil
}
func (j *journal) Leaving(context.Context, snapshot.Target) (bool, error) { return true, nil }
func (j *journal) Failed(_ context.Context, _ snapshot.Target, reason, message string) error {
	j.final <- finished{fault: reason + ": " + message}
	return nil
}

// noFiles: the job's files are of no interest here.
type noFiles struct{}

func (noFiles) Preload(context.Context, snapshot.Target, float64, snapshot.FileWriter) (snapshot.FilePass, error) {
	return snapshot.FilePass{}, nil
}
func (noFiles) Add(context.Context, snapshot.Target, snapshot.FileWriter) (snapshot.FilePass, error) {
	return snapshot.FilePass{}, nil
}

// noBoard: nobody looks.
type noBoard struct{}

func (noBoard) Safety(context.Context, snapshot.Target, snapshot.Committed, time.Time) error {
	return nil
}
func (noBoard) Judged(context.Context, snapshot.Target, snapshot.Verdict, snapshot.Prediction) error {
	return nil
}
