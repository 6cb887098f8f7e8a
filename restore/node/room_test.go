package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/cache"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// counted reads a metric with that label, 0 where it is not there.
func counted(t *testing.T, m *Meter, name, label string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			if f.GetName() == name && hasLabel(metric, label) {
				return metric.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func hasLabel(metric *dto.Metric, value string) bool {
	for _, l := range metric.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return value == ""
}

func TestAFewAreFetchedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFetches(3)
		var at, most atomic.Int32
		var group sync.WaitGroup
		for range 30 {
			group.Go(func() {
				_, err := f.enter(t.Context())
				require.NoError(t, err)
				defer f.leave()
				if n := at.Add(1); n > most.Load() {
					most.Store(n)
				}
				<-time.After(time.Second)
				at.Add(-1)
			})
		}
		group.Wait()
		require.EqualValues(t, 3, most.Load())
	})
}

func TestAPlaceIsNotWaitedForWithoutEnd(t *testing.T) {
	f := newFetches(1)
	waited, err := f.enter(t.Context())
	require.NoError(t, err)
	require.False(t, waited)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.enter(ctx)
	require.ErrorContains(t, err, "wait for other restores on this node")
	require.Equal(t, v1alpha1.ReasonBucketFailed, reasonOf(err), "it is no failure of the generation")
	f.leave()
}

// smallDisk mounts a file system of that many KiB for a host's state and returns a Preparer of that host.
func smallDisk(t *testing.T, kib string, packs *cache.Bucket) (p *Preparer, dir string) {
	t.Helper()
	host := t.TempDir()
	dir = filepath.Join(host, "restore")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+kib+"k"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return New(Options{HostRoot: host, WorkDir: "/restore", Packs: packs, Log: zerolog.Nop()}), dir
}

func TestRoom(t *testing.T) {
	t.Run("what fits is promised and given back", func(t *testing.T) {
		p, _ := smallDisk(t, "1024", nil)
		done, err := p.room(t.Context(), "u", 600<<10)
		require.NoError(t, err)
		fits, others, err := p.fetches.promise(filepath.Join(p.options.HostRoot, "restore"), 600<<10)
		require.NoError(t, err)
		require.False(t, fits)
		require.True(t, others)
		done()
		require.Zero(t, p.fetches.promised)
	})
	t.Run("images of others are waited for", func(t *testing.T) {
		p, dir := smallDisk(t, "1024", nil)
		synctest.Test(t, func(t *testing.T) {
			first, err := p.room(t.Context(), "u", 600<<10)
			require.NoError(t, err)
			go func() {
				<-time.After(5 * time.Second)
				first()
			}()
			second, err := p.room(t.Context(), "u", 600<<10)
			require.NoError(t, err)
			require.EqualValues(t, 600<<10, p.fetches.promised, "the first has given its own back")
			second()
		})
		require.DirExists(t, dir)
	})
	t.Run("nobody else will make room: the disk has the last word", func(t *testing.T) {
		p, _ := smallDisk(t, "1024", nil)
		done, err := p.room(t.Context(), "u", 10<<20)
		require.NoError(t, err)
		done()
		require.Zero(t, p.fetches.promised)
	})
	t.Run("what was prefetched makes way", func(t *testing.T) {
		bucket := mem.New()
		_, err := bucket.Put(t.Context(), "p/a", []byte(strings.Repeat("x", 800<<10)), store.Condition{})
		require.NoError(t, err)
		p, dir := smallDisk(t, "1024", nil)
		packs, err := cache.Open(bucket, cache.Options{Dir: filepath.Join(dir, "prefetch"), MaxBytes: 1 << 20})
		require.NoError(t, err)
		p.options.Packs = packs
		require.NoError(t, packs.Bring(t.Context(), "pod", "p/a", 800<<10))
		done, err := p.room(t.Context(), "u", 600<<10)
		require.NoError(t, err)
		defer done()
		require.Zero(t, packs.Stats().Bytes)
	})
}

// A full disk is told by its name, and nothing of the fetch stays.
func TestAFullDisk(t *testing.T) {
	p, dir := smallDisk(t, "256", nil)
	_, of, host := podOnHost(t)
	require.NoError(t, os.Rename(filepath.Join(host, "bundle"), filepath.Join(p.options.HostRoot, "bundle")))
	for _, d := range []string{"shm", "var"} {
		require.NoError(t, os.Rename(filepath.Join(host, d), filepath.Join(p.options.HostRoot, d)))
	}
	_, err := p.begin(of, &v1alpha1.GenerationReference{Number: 1}, []string{"main"})
	require.NoError(t, err)
	trees := opened(t, p, of)
	_, r, _ := stored(t, []byte(strings.Repeat("page of the job ", 2<<20)))
	err = diskFull(run(t.Context(), r.Fetch(trees), func() {}))
	require.ErrorIs(t, err, errDiskFull)
	require.ErrorContains(t, err, "free room there")
	require.Equal(t, v1alpha1.ReasonNodeDiskFull, reasonOf(err))
	require.NoError(t, p.drop("u"))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A record that cannot be written whole would be in the way of every other restore.
func TestHalfAHandoverIsNone(t *testing.T) {
	p, dir := smallDisk(t, "64", nil)
	of := taskOf("new")
	of.ContainerID = "c1"
	_, err := p.begin(of, &v1alpha1.GenerationReference{Number: 1}, []string{"main"})
	require.NoError(t, err)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	_, err = filler.Write(make([]byte, 1<<20))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, filler.Close())
	err = p.handOver(of, nil)
	require.ErrorIs(t, err, errDiskFull)
	r, err := p.load("new")
	require.NoError(t, err)
	require.Empty(t, r.Handed)
}
