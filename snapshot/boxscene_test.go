package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/dir"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/retry"
)

// slow is a bucket that takes no Put of keys that blocked names for as long as it does, nor ends one sooner than its
// context; and one that refuses Puts for good.
type slow struct {
	store.Bucket
	mu      sync.Mutex
	blocked func(key string) bool
	refused func(key string) error
	bytes   int64
}

func (b *slow) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	b.mu.Lock()
	blocked, refused := b.blocked != nil && b.blocked(key), error(nil)
	if b.refused != nil {
		refused = b.refused(key)
	}
	b.bytes += int64(len(body))
	b.mu.Unlock()
	if blocked {
		return store.Info{}, &store.TemporaryError{Err: errDown}
	}
	if refused != nil {
		return store.Info{}, refused
	}
	return b.Bucket.Put(ctx, key, body, cond)
}

func (b *slow) set(change func(b *slow)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// boxScene is a host with boxes, its bucket, and an Evacuator.
type boxScene struct {
	*host
	bucket    *slow
	store     *store.Store
	evacuator *Evacuator
}

func newBoxScene(t *testing.T, ids ...string) *boxScene {
	t.Helper()
	h := &host{
		t: t, dir: t.TempDir(), boxes: map[string]*box{}, final: map[string]Committed{}, failed: map[string]string{}, causes: map[string]string{},
		safety: map[string]Committed{}, verdicts: map[string][]Verdict{}, scans: map[string]int{},
	}
	for _, id := range ids {
		h.add(id)
	}
	s := &boxScene{host: h, bucket: &slow{Bucket: mem.New()}}
	s.store = store.New(retry.New(s.bucket, retry.Default), store.Keyring{{1}})
	s.restart()
	return s
}

// restart is another life of the agent.
func (s *boxScene) restart() {
	s.evacuator = New(Options{
		Runtime: s.host, Files: s.host, Journal: s.host, Board: s.host, Scanner: s.host, Store: s.store,
		Patient: store.New(retry.New(s.bucket, retry.Patient), store.Keyring{{1}}),
		Holds:   Holds{Dir: filepath.Join(s.dir, "hold")}, Cluster: "test", NodeName: "a", WorkDir: "/dump", HostRoot: s.dir,
		Proc: filepath.Join(s.dir, "proc"), Margin: 5 * time.Second, Window: 2 * time.Minute, Cores: 2,
		Policy: DefaultPolicy(), Log: zerolog.Nop(),
	})
}

// run runs the Evacuator while do is at work.
func (s *boxScene) run(t *testing.T, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.evacuator.Run(ctx) }()
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for wait(ctx, 500*time.Millisecond) == nil {
			s.write()
		}
	}()
	synctest.Wait()
	do()
	cancel()
	<-writing
	require.NoError(t, <-done)
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// requireFinal holds that the pod stands still, and that its newest generation is final and has its memory.
func (s *boxScene) requireFinal(t *testing.T, pod string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Contains(t, s.final, pod)
	require.True(t, s.requireNewest(t, pod, s.final[pod].Number).Final)
	for id, b := range s.boxes {
		if id == pod || strings.HasPrefix(id, pod+".") {
			require.Equal(t, StatusPaused, b.status)
		}
	}
}

// requireNewest holds that a generation is the newest one, and has the memory that the pod's containers have now.
func (s *boxScene) requireNewest(t *testing.T, pod string, number int64) store.Meta {
	t.Helper()
	folder := hostTarget(pod).Folder("test")
	head, err := s.store.Head(t.Context(), folder)
	require.NoError(t, err)
	require.Equal(t, number, head.Number)
	r, err := s.store.Open(t.Context(), folder, number, 0)
	require.NoError(t, err)
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, r.Fetch(dir.New(root)).Run(t.Context()))
	meta := r.Meta()
	for id, b := range s.boxes {
		if its, name, _ := strings.Cut(id, "."); its == pod {
			name = cmp.Or(name, "main")
			require.True(t, slices.ContainsFunc(meta.Containers, func(c store.ContainerMeta) bool { return c.Name == name }))
			got, err := root.ReadFile("images/" + name + "/pages-1.img")
			require.NoError(t, err)
			require.True(t, bytes.Equal(b.memory, got), "the generation has another memory than container %s", id)
			core, err := root.ReadFile("images/" + name + "/core-1.img")
			require.NoError(t, err)
			require.Equal(t, "registers", string(core))
		}
	}
	return meta
}

func (s *boxScene) uploaded() int64 {
	s.bucket.mu.Lock()
	defer s.bucket.mu.Unlock()
	return s.bucket.bytes
}

func (s *boxScene) rounds(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scans[id]
}

func (s *boxScene) lock(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

var errCRIU = errors.New("criu refuses")

// once is err at the first call and nil afterwards.
func once(err error) func(context.Context, string) error {
	var mu sync.Mutex
	return func(context.Context, string) error {
		mu.Lock()
		defer mu.Unlock()
		defer func() { err = nil }()
		return err
	}
}
